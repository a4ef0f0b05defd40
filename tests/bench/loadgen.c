/*
 * A load generator for HTTP/1.1 and server-sent events: one thread, epoll, keep-alive. Prints one
 * line of JSON.
 *
 *   loadgen -p PORT -P PATH -b BODYFILE [-c CONNECTIONS] [-d SECONDS] [-r MILLISECONDS]
 *           [-g SECONDS] [-e EVENTS] [-m]
 *
 *   -c  connections, each with one request under way (64)
 *   -d  how long new requests are sent after the ramp (8)
 *   -r  the ramp: connections are opened evenly over it, and not counted in figures (0)
 *   -g  how long the last replies may take after that (15)
 *   -e  how many events a stream must have
 *   -m  whole replies instead of streams
 *
 * Times are in milliseconds: ttfb to the first byte of a reply, ttfe to its first event, latency
 * from the stamp of backend.c in an event to its arrival, gap between two events of a stream.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SUB_BUCKETS = 64, /* of a power of two in a histogram: values are right to 1 % */
    BUCKETS = 64 * SUB_BUCKETS,
    HEAD_LIMIT = 16 << 10,
    LINE_LIMIT = 1024,
    READ_SIZE = 256 << 10,
    EPOLL_EVENTS = 1024,
    RETRY_NS = 50000000,   /* after a connection that failed */
    AGAIN_NS = 5000000,    /* after a reply that was no success */
    SCAN_NS = 1000000,     /* how often waiting connections are looked at */
    STAMP_DIGITS = 16,
    STATUSES = 600,
};

typedef struct histogram {
    uint64_t n, max, counts[BUCKETS];
    double sum;
} histogram;

enum state { WAITING, CONNECTING, HEAD, BODY, ENDED };
enum outcome { WHOLE, TRUNCATED, NOTHING }; /* how a reply ended */
enum chunk_state { SIZE, EXTENSION, DATA, DATA_END, TRAILERS };

typedef struct conn {
    int fd, want_out;
    enum state state;
    uint64_t at; /* when a waiting connection goes on */
    size_t sent; /* of the request */
    uint64_t started, last_event;
    char head[HEAD_LIMIT];
    int head_len, status, got_byte, close_after;
    long long left; /* of a body with a length; -1: it has none */
    int chunked;
    enum chunk_state chunk;
    size_t chunk_left, trailer_len;
    char line[LINE_LIMIT]; /* the line of the stream under way, as far as it fits */
    int line_len, events, done, error;
} conn;

static int port, connections = 64, whole_replies, ramp_ms, expected_events, grace = 15;
static double seconds = 8;
static const char *path = "/v1/chat/completions", *body_file;
static char *request;
static size_t request_len;
static uint64_t window_start, window_end, give_up;
static int epoll_fd;
static conn *conns;
static histogram ttfb, ttfe, latency, gap, total;
static struct {
    uint64_t requests, ok, short_streams, truncated, no_done, not_200, no_connection, no_reply,
        error_events, unfinished, events, window_events, window_ok;
} count;
static int statuses[STATUSES];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int in_window(uint64_t t)
{
    return t >= window_start && t < window_end;
}

/* --- histograms --- */

static void record(histogram *h, uint64_t value)
{
    int i = (int)value;
    if (value >= SUB_BUCKETS) {
        int power = 63 - __builtin_clzll(value);
        i = (power - 5) * SUB_BUCKETS + (int)((value >> (power - 6)) & (SUB_BUCKETS - 1));
    }
    h->counts[i < BUCKETS ? i : BUCKETS - 1]++;
    h->n++;
    h->sum += (double)value;
    if (value > h->max)
        h->max = value;
}

static double quantile(const histogram *h, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)h->n), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        if ((seen += h->counts[i]) < rank)
            continue;
        if (i < SUB_BUCKETS)
            return i;
        double width = ldexp(1, i / SUB_BUCKETS + 5 - 6);
        double middle = (SUB_BUCKETS + i % SUB_BUCKETS + 0.5) * width;
        return middle < (double)h->max ? middle : (double)h->max;
    }
    return (double)h->max;
}

static void print_histogram(const char *name, const histogram *h)
{
    if (h->n)
        printf(",\"%s\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f,\"mean\":%.3f}", name,
               quantile(h, .5) / 1e6, quantile(h, .9) / 1e6, quantile(h, .99) / 1e6,
               (double)h->max / 1e6, h->sum / (double)h->n / 1e6);
}

/* --- requests --- */

static void watch_writable(conn *c, int want)
{
    if (c->want_out == want)
        return;
    c->want_out = want;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (want ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void close_conn(conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void send_request(conn *c)
{
    while (c->sent < request_len) {
        ssize_t n = send(c->fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL);
        if (n >= 0) {
            c->sent += (size_t)n;
        } else if (errno == EAGAIN) {
            watch_writable(c, 1);
            return;
        } else if (errno != EINTR) {
            return; /* what it is shows when the reply is read */
        }
    }
    watch_writable(c, 0);
}

static void begin(conn *c)
{
    c->state = HEAD;
    c->sent = 0;
    c->head_len = c->got_byte = c->status = 0;
    c->line_len = c->events = c->done = c->error = 0;
    c->last_event = 0;
    c->started = now_ns();
    count.requests++;
    send_request(c);
}

static void connection_failed(conn *c)
{
    count.no_connection++;
    close_conn(c);
    c->state = WAITING;
    c->at = now_ns() + RETRY_NS;
}

static void start_connection(conn *c)
{
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) {
        connection_failed(c);
        return;
    }
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP, .data.ptr = c};
    c->want_out = 1;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->state = CONNECTING;
}

static void next(conn *c, uint64_t now)
{
    if (now >= window_end) {
        close_conn(c);
        c->state = ENDED;
    } else if (c->fd >= 0) {
        begin(c);
    } else {
        c->state = WAITING;
        c->at = c->status == 200 ? now : now + AGAIN_NS;
    }
}

static void finish(conn *c, enum outcome how)
{
    uint64_t now = now_ns();
    if (how == NOTHING) {
        count.no_reply++;
    } else if (c->status != 200) {
        count.not_200++;
        if (c->status >= 0 && c->status < STATUSES)
            statuses[c->status]++;
    } else if (how == TRUNCATED) {
        count.truncated++;
    } else if (!whole_replies && !c->done) {
        count.no_done++;
    } else {
        count.ok++;
        if (!whole_replies && expected_events && c->events < expected_events)
            count.short_streams++;
        if (in_window(now))
            count.window_ok++;
        if (in_window(c->started))
            record(&total, now - c->started);
    }
    if (c->error)
        count.error_events++;
    if (how != WHOLE || c->close_after)
        close_conn(c);
    next(c, now);
}

/* --- replies --- */

/* The stamp in a line of the stream, in microseconds; 0: it has none. */
static uint64_t stamp(const char *line, int len)
{
    const char *p = line, *end = line + len;
    while ((p = memmem(p, (size_t)(end - p), "T0", 2)) && end - p > STAMP_DIGITS) {
        if (strspn(p + 1, "0123456789") >= STAMP_DIGITS) {
            uint64_t us = 0;
            for (int i = 1; i <= STAMP_DIGITS; i++)
                us = us * 10 + (uint64_t)(p[i] - '0');
            return us;
        }
        p += 2;
    }
    return 0;
}

static void on_line(conn *c, uint64_t now)
{
    int len = c->line_len;
    c->line[len] = 0;
    if (strncmp(c->line, "data:", 5)) {
        if (!strncmp(c->line, "event:", 6) && strstr(c->line, "error"))
            c->error = 1;
        return;
    }
    if (memmem(c->line, len < 16 ? (size_t)len : 16, "[DONE]", 6)) {
        c->done = 1;
        return;
    }
    uint64_t sent = stamp(c->line, len) * 1000;
    if (!sent) {
        if (strstr(c->line, "\"error\""))
            c->error = 1;
        return;
    }
    c->events++;
    count.events++;
    if (in_window(now)) {
        count.window_events++;
        record(&latency, now > sent ? now - sent : 0);
        if (c->last_event)
            record(&gap, now - c->last_event);
    }
    if (c->events == 1 && in_window(c->started))
        record(&ttfe, now - c->started);
    c->last_event = now;
}

static void on_payload(conn *c, const char *p, size_t len, uint64_t now)
{
    const char *end = p + len;
    while (!whole_replies && p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t part = (size_t)((newline ? newline : end) - p);
        size_t room = sizeof c->line - 1 - (size_t)c->line_len;
        size_t kept = part < room ? part : room;
        memcpy(c->line + c->line_len, p, kept);
        c->line_len += (int)kept;
        if (!newline)
            return;
        if (c->line_len && c->line[c->line_len - 1] == '\r')
            c->line_len--;
        if (c->line_len)
            on_line(c, now);
        c->line_len = 0;
        p = newline + 1;
    }
}

static int hex_digit(char ch)
{
    const char *digits = "0123456789abcdef", *at = ch ? strchr(digits, ch | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Returns whether the reply is complete. */
static int on_chunks(conn *c, const char *p, size_t len, uint64_t now)
{
    const char *end = p + len;
    while (p < end) {
        if (c->chunk == DATA) {
            size_t part = (size_t)(end - p) < c->chunk_left ? (size_t)(end - p) : c->chunk_left;
            on_payload(c, p, part, now);
            p += part;
            if (!(c->chunk_left -= part))
                c->chunk = DATA_END;
            continue;
        }
        char ch = *p++;
        int digit = hex_digit(ch);
        if (c->chunk == TRAILERS) {
            if (ch == '\n' && !c->trailer_len)
                return 1;
            c->trailer_len = ch == '\n' ? 0 : c->trailer_len + (ch != '\r');
        } else if (c->chunk == DATA_END) {
            if (ch == '\n')
                c->chunk = SIZE;
        } else if (ch == '\n') {
            c->chunk = c->chunk_left ? DATA : TRAILERS;
            c->trailer_len = 0;
        } else if (ch == ';') {
            c->chunk = EXTENSION;
        } else if (c->chunk == SIZE && digit >= 0) {
            c->chunk_left = c->chunk_left * 16 + (size_t)digit;
        }
    }
    return 0;
}

static int on_body(conn *c, const char *p, size_t len, uint64_t now)
{
    if (c->chunked)
        return on_chunks(c, p, len, now);
    if (c->left < 0) {
        on_payload(c, p, len, now);
        return 0;
    }
    size_t part = (long long)len > c->left ? (size_t)c->left : len;
    on_payload(c, p, part, now);
    c->left -= (long long)part;
    return c->left == 0;
}

static void read_head(conn *c)
{
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->left = length ? atoll(length + 17) : -1;
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    c->close_after =
        strcasestr(c->head, "\r\nconnection: close") || !strncmp(c->head, "HTTP/1.0", 8);
    c->state = BODY;
    c->chunk = SIZE;
    c->chunk_left = 0;
}

/* Take bytes of a head. Returns how many of them were its own; -1: it is too long. */
static ssize_t on_head(conn *c, const char *p, size_t len, uint64_t now)
{
    int before = c->head_len;
    size_t room = sizeof c->head - 1 - (size_t)before, part = len < room ? len : room;
    if (!c->got_byte) {
        c->got_byte = 1;
        if (in_window(c->started))
            record(&ttfb, now - c->started);
    }
    memcpy(c->head + before, p, part);
    c->head_len += (int)part;
    c->head[c->head_len] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return part < len ? -1 : (ssize_t)part;
    *end = 0;
    read_head(c);
    return end + 4 - c->head - before;
}

static void on_end(conn *c)
{
    int by_close = c->state == BODY && !c->chunked && c->left < 0;
    if (by_close)
        c->close_after = 1;
    finish(c, by_close ? WHOLE : c->got_byte ? TRUNCATED : NOTHING);
}

static void on_readable(conn *c)
{
    static char buffer[READ_SIZE];
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        uint64_t now = now_ns();
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            on_end(c);
            return;
        }
        size_t used = 0;
        if (c->state == HEAD) {
            ssize_t head = on_head(c, buffer, (size_t)n, now);
            if (head < 0) {
                finish(c, TRUNCATED);
                return;
            }
            used = (size_t)head;
        }
        if (c->state == BODY && ((!c->chunked && c->left == 0) ||
                                 on_body(c, buffer + used, (size_t)n - used, now))) {
            finish(c, WHOLE);
            return;
        }
        if ((size_t)n < sizeof buffer)
            return;
    }
}

/* --- the loop --- */

static void on_connected(conn *c, uint32_t happened)
{
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error) {
        connection_failed(c);
    } else if (happened & EPOLLOUT) {
        if (now_ns() < window_end) {
            begin(c);
        } else {
            close_conn(c);
            c->state = ENDED;
        }
    }
}

static void on_event(conn *c, uint32_t happened)
{
    if (c->fd < 0)
        return;
    if (c->state == CONNECTING) {
        on_connected(c, happened);
        return;
    }
    if (c->sent < request_len && happened & EPOLLOUT)
        send_request(c);
    if (happened & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
        on_readable(c);
}

/* Start the connections whose time has come. Returns whether all are through. */
static int scan(uint64_t now)
{
    int ended = 0;
    for (int i = 0; i < connections; i++) {
        conn *c = &conns[i];
        if (c->state == WAITING && now >= window_end)
            c->state = ENDED;
        else if (c->state == WAITING && now >= c->at)
            start_connection(c);
        ended += c->state == ENDED;
    }
    return ended == connections;
}

static void run(void)
{
    struct epoll_event happened[EPOLL_EVENTS];
    struct timespec wait = {0, SCAN_NS};
    uint64_t scanned = 0, now;
    while ((now = now_ns()) < give_up) {
        if (now - scanned > SCAN_NS) {
            scanned = now;
            if (scan(now))
                return;
        }
        int n = epoll_pwait2(epoll_fd, happened, EPOLL_EVENTS, &wait, NULL);
        for (int i = 0; i < n; i++)
            on_event(happened[i].data.ptr, happened[i].events);
    }
}

static void make_request(void)
{
    FILE *file = fopen(body_file, "rb");
    if (!file) {
        perror(body_file);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    size_t len = (size_t)ftell(file);
    rewind(file);
    request = malloc(len + 4096);
    int head = snprintf(request, 4096,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: loadgen\r\n"
                        "Accept: */*\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        path, port, len);
    if (fread(request + head, 1, len, file) != len) {
        perror(body_file);
        exit(1);
    }
    fclose(file);
    request_len = (size_t)head + len;
}

static void report(void)
{
    printf("{\"requests\":%lu,\"ok\":%lu,\"events\":%lu,\"events_per_s\":%.1f,\"rps\":%.1f,"
           "\"failures\":{\"short\":%lu,\"truncated\":%lu,\"no_done\":%lu,\"not_200\":%lu,"
           "\"no_connection\":%lu,\"no_reply\":%lu,\"error_events\":%lu,\"unfinished\":%lu}",
           count.requests, count.ok, count.events, (double)count.window_events / seconds,
           (double)count.window_ok / seconds, count.short_streams, count.truncated, count.no_done,
           count.not_200, count.no_connection, count.no_reply, count.error_events,
           count.unfinished);
    print_histogram("ttfb", &ttfb);
    print_histogram("ttfe", &ttfe);
    print_histogram("latency", &latency);
    print_histogram("gap", &gap);
    print_histogram("total", &total);
    printf(",\"statuses\":{");
    const char *comma = "";
    for (int i = 0; i < STATUSES; i++)
        if (statuses[i]) {
            printf("%s\"%d\":%d", comma, i, statuses[i]);
            comma = ",";
        }
    printf("}}\n");
}

int main(int argc, char **argv)
{
    int option;
    while ((option = getopt(argc, argv, "p:P:b:c:d:r:g:e:m")) != -1)
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'P': path = optarg; break;
        case 'b': body_file = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'r': ramp_ms = atoi(optarg); break;
        case 'g': grace = atoi(optarg); break;
        case 'e': expected_events = atoi(optarg); break;
        case 'm': whole_replies = 1; break;
        default: return 2;
        }
    if (!port || !body_file)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    make_request();
    conns = calloc((size_t)connections, sizeof *conns);
    epoll_fd = epoll_create1(0);
    uint64_t start = now_ns(), ramp = (uint64_t)ramp_ms * 1000000u;
    window_start = start + ramp;
    window_end = window_start + (uint64_t)(seconds * 1e9);
    give_up = window_end + (uint64_t)grace * 1000000000u;
    for (int i = 0; i < connections; i++) {
        conns[i].fd = -1;
        conns[i].status = 200;
        conns[i].at = start + (uint64_t)i * ramp / (uint64_t)connections;
    }
    run();
    for (int i = 0; i < connections; i++)
        count.unfinished += conns[i].state == HEAD || conns[i].state == BODY;
    report();
    return 0;
}
