/*
 * A stand-in SGLang server for benchmarks: one thread, epoll, HTTP/1.1 with keep-alive.
 *
 *   backend [-p PORT] [-n EVENTS] [-d MICROSECONDS]
 *
 * Listens on 127.0.0.1:PORT and prints the port on stdout; 0, the default, takes a free one.
 * A POST with "stream": true is answered with EVENTS events, MICROSECONDS apart (0: as fast as
 * the socket takes them), every other POST with a small JSON reply. Each event carries a T and 16
 * digits, the microseconds of CLOCK_MONOTONIC when it was sent, so that a load generator on the
 * same machine knows how long it was under way.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

#define MODEL "meta-llama/Meta-Llama-3.1-8B-Instruct"
#define COMMON "date: Sat, 22 Nov 2025 12:00:00 GMT\r\nserver: uvicorn\r\n"
#define STREAM_HEAD                                                                               \
    "HTTP/1.1 200 OK\r\n" COMMON "content-type: text/event-stream; charset=utf-8\r\n"             \
    "transfer-encoding: chunked\r\n"
#define STAMP "T0000000000000000"

enum {
    HEAD_LIMIT = 64 << 10,
    BODY_LIMIT = 256 << 20,
    FIRST_BUFFER = 32 << 10,
    READ_ROOM = 16 << 10,    /* least room for one read */
    KEPT_BUFFER = 256 << 10, /* a larger buffer is given back after its request */
    EPOLL_EVENTS = 512,
    ACCEPTS = 256,      /* most connections accepted in one turn */
    TIMER_NS = 500000,  /* timers are rounded up to this, so that near ones share a wake-up */
    REPLY_BYTES = 8192,
};

typedef struct conn {
    int fd;
    char *in; /* what was received; [in_off, in_len) is still to be handled */
    size_t in_len, in_cap, in_off;
    char *out; /* what the socket did not take yet */
    size_t out_len, out_cap, out_off;
    int streaming, left, sent; /* events of the stream under way */
    uint64_t due;              /* when the next one is, in ns of CLOCK_MONOTONIC */
    int timer, ready;          /* index among timers and ready streams; -1: not there */
    int want_out, keep_alive, dead;
} conn;

typedef struct list {
    conn **items;
    int len, cap;
} list;

typedef struct event {
    char text[512]; /* one chunk */
    int len, stamp; /* its length, and where the digits of the time stand */
} event;

static int events_per_stream = 200;
static uint64_t delay_ns;
static volatile sig_atomic_t stopped;
static int epoll_fd;
static list timers; /* binary heap by due */
static list ready;  /* streams without pause whose socket takes more */
static list graves; /* closed in this turn; freed when no event can name them any more */
static event first_event, middle_event, last_event;
static uint64_t plain_replies, active_streams, events_sent;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *grown(void *memory, size_t size)
{
    void *larger = realloc(memory, size);
    if (!larger) {
        perror("realloc");
        exit(1);
    }
    return larger;
}

static int append(list *l, conn *c)
{
    if (l->len == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 1024;
        l->items = grown(l->items, (size_t)l->cap * sizeof *l->items);
    }
    l->items[l->len] = c;
    return l->len++;
}

/* --- timers and ready streams --- */

static void timer_swap(int a, int b)
{
    conn *c = timers.items[a];
    timers.items[a] = timers.items[b];
    timers.items[b] = c;
    timers.items[a]->timer = a;
    timers.items[b]->timer = b;
}

static void timer_up(int i)
{
    for (int parent; i; i = parent) {
        parent = (i - 1) / 2;
        if (timers.items[parent]->due <= timers.items[i]->due)
            return;
        timer_swap(i, parent);
    }
}

static void timer_down(int i)
{
    for (;;) {
        int left = 2 * i + 1, soonest = i;
        for (int child = left; child <= left + 1 && child < timers.len; child++)
            if (timers.items[child]->due < timers.items[soonest]->due)
                soonest = child;
        if (soonest == i)
            return;
        timer_swap(soonest, i);
        i = soonest;
    }
}

static void timer_start(conn *c)
{
    c->timer = append(&timers, c);
    timer_up(c->timer);
}

static void timer_stop(conn *c)
{
    int i = c->timer;
    if (i < 0)
        return;
    c->timer = -1;
    if (i == --timers.len)
        return;
    conn *moved = timers.items[i] = timers.items[timers.len];
    moved->timer = i;
    timer_up(i);
    timer_down(moved->timer);
}

static void ready_add(conn *c)
{
    if (c->ready < 0)
        c->ready = append(&ready, c);
}

static void ready_remove(conn *c)
{
    if (c->ready < 0)
        return;
    conn *moved = ready.items[c->ready] = ready.items[--ready.len];
    moved->ready = c->ready;
    c->ready = -1;
}

/* --- connections --- */

static void end_stream(conn *c)
{
    c->streaming = 0;
    active_streams--;
    timer_stop(c);
    ready_remove(c);
}

static void close_conn(conn *c)
{
    if (c->dead)
        return;
    c->dead = 1;
    if (c->streaming)
        end_stream(c);
    close(c->fd);
    append(&graves, c);
}

static void bury(void)
{
    while (graves.len) {
        conn *c = graves.items[--graves.len];
        free(c->in);
        free(c->out);
        free(c);
    }
}

static void watch_writable(conn *c, int want)
{
    if (c->want_out == want)
        return;
    c->want_out = want;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (want ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void flush(conn *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n >= 0) {
            c->out_off += (size_t)n;
        } else if (errno == EAGAIN) {
            watch_writable(c, 1);
            return;
        } else if (errno != EINTR) {
            close_conn(c);
            return;
        }
    }
    c->out_len = c->out_off = 0;
    watch_writable(c, 0);
}

static void put(conn *c, const char *data, size_t len)
{
    if (c->dead)
        return;
    if (c->out_len == 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            close_conn(c);
            return;
        }
        size_t sent = n > 0 ? (size_t)n : 0;
        if (sent == len)
            return;
        data += sent;
        len -= sent;
    }
    if (c->out_len + len > c->out_cap) {
        c->out_cap = (c->out_len + len) * 2;
        c->out = grown(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    watch_writable(c, 1);
}

static void put_text(conn *c, const char *text)
{
    put(c, text, strlen(text));
}

static void close_if_done(conn *c)
{
    if (!c->dead && !c->streaming && !c->keep_alive && !c->out_len)
        close_conn(c);
}

/* --- streams --- */

static void make_event(event *e, const char *delta, const char *finish_reason)
{
    char data[400];
    int n = snprintf(data, sizeof data,
                     "data: {\"id\":\"chatcmpl-sglang-abc123\","
                     "\"object\":\"chat.completion.chunk\",\"created\":1705334400,"
                     "\"model\":\"" MODEL "\",\"choices\":[{\"index\":0,"
                     "\"delta\":%s,\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                     delta, finish_reason);
    e->len = snprintf(e->text, sizeof e->text, "%x\r\n%s\r\n", (unsigned)n, data);
    e->stamp = (int)(strstr(e->text, STAMP) - e->text) + 1;
}

static void send_event(conn *c, uint64_t now)
{
    event *e = c->sent == 0 ? &first_event : c->left == 1 ? &last_event : &middle_event;
    uint64_t us = now / 1000;
    for (int i = 15; i >= 0; i--, us /= 10)
        e->text[e->stamp + i] = (char)('0' + us % 10);
    put(c, e->text, (size_t)e->len);
    if (c->dead)
        return;
    c->sent++;
    c->left--;
    events_sent++;
}

static void serve(conn *c);

static void finish_stream(conn *c)
{
    end_stream(c);
    put_text(c, "e\r\ndata: [DONE]\n\n\r\n");
    put_text(c, "0\r\n\r\n");
    close_if_done(c);
    if (!c->dead && c->keep_alive)
        serve(c);
}

static void start_stream(conn *c)
{
    c->streaming = 1;
    c->left = events_per_stream;
    c->sent = 0;
    active_streams++;
    put_text(c, c->keep_alive ? STREAM_HEAD "\r\n" : STREAM_HEAD "connection: close\r\n\r\n");
    if (c->dead)
        return;
    if (delay_ns) {
        c->due = now_ns();
        timer_start(c);
    } else {
        ready_add(c);
    }
}

static void run_ready_streams(void)
{
    uint64_t now = now_ns();
    for (int i = ready.len - 1; i >= 0; i--) {
        if (i >= ready.len)
            continue;
        conn *c = ready.items[i];
        if (c->out_len) {
            ready_remove(c);
            continue;
        }
        if (c->left > 0)
            send_event(c, now);
        if (!c->dead && c->left <= 0)
            finish_stream(c);
    }
}

static void run_timers(void)
{
    uint64_t now = now_ns();
    for (int handled = 1; timers.len && timers.items[0]->due <= now; handled++) {
        conn *c = timers.items[0];
        if (handled % 32 == 0)
            now = now_ns();
        if (c->left > 0)
            send_event(c, now);
        if (c->dead)
            continue;
        if (c->left <= 0) {
            finish_stream(c);
            continue;
        }
        c->due += delay_ns;
        if (c->due + delay_ns < now) /* far behind: do not catch up in a burst */
            c->due = now + delay_ns;
        timer_down(0);
    }
}

/* --- requests --- */

static const char REPLY[] =
    "{\"id\":\"chatcmpl-sglang-abc123\",\"object\":\"chat.completion\",\"created\":1705334400,"
    "\"model\":\"" MODEL "\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
    "\"content\":\"RadixAttention in SGLang provides several key benefits over traditional "
    "attention mechanisms: advanced prefix caching, memory efficiency, higher throughput and "
    "faster response times for requests with cached prefixes.\"},\"logprobs\":null,"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":42,\"completion_tokens\":128,"
    "\"total_tokens\":170},\"metrics\":{\"time_to_first_token_ms\":35,\"generation_time_ms\":850,"
    "\"radix_cache_hit_rate\":0.92}}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\","
    "\"created\":1705334400,\"owned_by\":\"sglang\",\"root\":\"" MODEL "\",\"parent\":null,"
    "\"max_model_len\":131072}]}";
static const char SERVER_INFO[] =
    "{\"model_path\":\"/nonexistent/llama\",\"tokenizer_path\":\"/nonexistent/llama\","
    "\"served_model_name\":\"" MODEL "\",\"tp_size\":1,\"dp_size\":1,\"max_total_tokens\":131072,"
    "\"max_prefill_tokens\":16384,\"context_length\":131072,\"max_running_requests\":2048,"
    "\"max_total_num_tokens\":800000,\"disaggregation_mode\":\"null\",\"status\":\"ready\","
    "\"version\":\"0.5.4\",\"internal_states\":[{\"max_total_num_tokens\":800000,"
    "\"max_running_requests_per_dp\":2048}]}";
static const char MODEL_INFO[] =
    "{\"model_path\":\"/nonexistent/llama\",\"tokenizer_path\":\"/nonexistent/llama\","
    "\"is_generation\":true,\"preferred_sampling_params\":null,\"weight_version\":\"default\","
    "\"has_image_understanding\":false,\"has_audio_understanding\":false,"
    "\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]}";
static const char METRICS[] =
    "# HELP sglang:num_running_reqs The number of running requests.\n"
    "# TYPE sglang:num_running_reqs gauge\n"
    "sglang:num_running_reqs{model_name=\"" MODEL "\"} 5.0\n"
    "# HELP sglang:num_queue_reqs The number of requests in the waiting queue.\n"
    "# TYPE sglang:num_queue_reqs gauge\n"
    "sglang:num_queue_reqs{model_name=\"" MODEL "\"} 2.0\n"
    "# HELP sglang:token_usage The token usage\n"
    "# TYPE sglang:token_usage gauge\n"
    "sglang:token_usage{model_name=\"" MODEL "\"} 0.42\n"
    "# HELP sglang:cache_hit_rate The prefix cache hit rate.\n"
    "# TYPE sglang:cache_hit_rate gauge\n"
    "sglang:cache_hit_rate{model_name=\"" MODEL "\"} 0.89\n"
    "# HELP sglang:gen_throughput The generation throughput (token/s).\n"
    "# TYPE sglang:gen_throughput gauge\n"
    "sglang:gen_throughput{model_name=\"" MODEL "\"} 1312.5\n";

static const struct {
    const char *path, *type, *body;
} PAGES[] = {
    {"/health", "application/json", ""},
    {"/health_generate", "application/json", ""},
    {"/v1/models", "application/json", MODELS},
    {"/metrics", "text/plain; version=0.0.4", METRICS},
    {"/get_server_info", "application/json", SERVER_INFO},
    {"/server_info", "application/json", SERVER_INFO},
    {"/get_model_info", "application/json", MODEL_INFO},
    {"/model_info", "application/json", MODEL_INFO},
    {"/version", "application/json", "{\"version\":\"0.5.4\"}"},
};

static void reply(conn *c, const char *status, const char *type, const char *body)
{
    char text[REPLY_BYTES];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 %s\r\n" COMMON "content-type: %s\r\ncontent-length: %zu\r\n%s\r\n%s",
                     status, type, strlen(body),
                     c->keep_alive ? "" : "connection: close\r\n", body);
    put(c, text, (size_t)n);
}

static void reply_stats(conn *c)
{
    char stats[128];
    snprintf(stats, sizeof stats, "{\"plain\":%lu,\"active\":%lu,\"events\":%lu}", plain_replies,
             active_streams, events_sent);
    reply(c, "200 OK", "application/json", stats);
}

/* The value of a header whose name is given in lower case, with its colon; NULL if not there. */
static const char *header(const char *head, size_t len, const char *name)
{
    size_t name_len = strlen(name);
    const char *line = head, *end = head + len, *newline;
    while (line < end && (newline = memchr(line, '\n', (size_t)(end - line)))) {
        if ((size_t)(newline - line) > name_len && !strncasecmp(line, name, name_len))
            return line + name_len + strspn(line + name_len, " ");
        line = newline + 1;
    }
    return NULL;
}

static int asks_for_stream(const char *body, size_t len)
{
    static const char KEY[] = "\"stream\"";
    const char *end = body + len, *p = body;
    while ((p = memmem(p, (size_t)(end - p), KEY, sizeof KEY - 1))) {
        p += sizeof KEY - 1;
        while (p < end && (*p == ' ' || *p == ':'))
            p++;
        if (end - p >= 4 && !memcmp(p, "true", 4))
            return 1;
    }
    return 0;
}

/* Join the chunks of a body in place. Returns how many bytes it took up, 0 if it is not whole. */
static size_t join_chunks(char *body, size_t len, size_t *joined)
{
    char *p = body, *end = body + len, *newline;
    if (len < 5 || memcmp(end - 5, "0\r\n\r\n", 5))
        return 0;
    *joined = 0;
    while ((newline = memchr(p, '\n', (size_t)(end - p)))) {
        size_t size = strtoull(p, NULL, 16);
        p = newline + 1;
        if ((size_t)(end - p) < size + 2)
            return 0;
        memmove(body + *joined, p, size);
        *joined += size;
        p += size + 2;
        if (!size)
            return (size_t)(p - body);
    }
    return 0;
}

/* Find the body behind a head. Returns how many bytes it took up; -1: more must arrive first. */
static ssize_t find_body(conn *c, const char *head, size_t head_len, size_t have, size_t *body_len)
{
    const char *length = header(head, head_len, "content-length:");
    const char *coding = header(head, head_len, "transfer-encoding:");
    *body_len = 0;
    if (length) {
        *body_len = strtoull(length, NULL, 10);
        if (have >= head_len + *body_len)
            return (ssize_t)*body_len;
        if (*body_len < BODY_LIMIT && c->in_cap < c->in_off + head_len + *body_len + READ_ROOM) {
            c->in_cap = c->in_off + head_len + *body_len + READ_ROOM;
            c->in = grown(c->in, c->in_cap);
        }
        return -1;
    }
    if (coding && !strncasecmp(coding, "chunked", 7)) {
        char *body = c->in + c->in_off + head_len;
        size_t used = join_chunks(body, have - head_len, body_len);
        return used ? (ssize_t)used : -1;
    }
    return 0;
}

static void answer(conn *c, const char *head, size_t head_len, const char *body, size_t body_len)
{
    const char *connection = header(head, head_len, "connection:");
    const char *line_end = memchr(head, '\r', head_len);
    int old = line_end - head > 8 && !memcmp(line_end - 8, "HTTP/1.0", 8);
    c->keep_alive = connection ? !strncasecmp(connection, "keep-alive", 10) || !old : !old;
    if (connection && !strncasecmp(connection, "close", 5))
        c->keep_alive = 0;

    const char *path = (const char *)memchr(head, ' ', head_len) + 1;
    size_t path_len = strcspn(path, " ?");
    if (head[0] == 'P' && asks_for_stream(body, body_len)) {
        start_stream(c);
        return;
    }
    if (head[0] == 'P') {
        plain_replies++;
        reply(c, "200 OK", "application/json", REPLY);
        return;
    }
    if (path_len == 6 && !memcmp(path, "/stats", 6)) {
        reply_stats(c);
        return;
    }
    for (size_t i = 0; i < sizeof PAGES / sizeof *PAGES; i++)
        if (path_len == strlen(PAGES[i].path) && !memcmp(path, PAGES[i].path, path_len)) {
            reply(c, "200 OK", PAGES[i].type, PAGES[i].body);
            return;
        }
    fprintf(stderr, "404 %.*s\n", (int)(line_end - head), head);
    reply(c, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
}

/* Answer the whole requests that have arrived, up to one that starts a stream. */
static void serve(conn *c)
{
    while (!c->dead && !c->streaming) {
        char *head = c->in + c->in_off;
        size_t have = c->in_len - c->in_off, body_len;
        if (!have) {
            c->in_len = c->in_off = 0;
            if (c->in_cap > KEPT_BUFFER) {
                free(c->in);
                c->in = NULL;
                c->in_cap = 0;
            }
            return;
        }
        char *end = memmem(head, have < HEAD_LIMIT ? have : HEAD_LIMIT, "\r\n\r\n", 4);
        if (!end && have < HEAD_LIMIT)
            return;
        /* Not HTTP/1: some peers ask first whether HTTP/2 is spoken, to find gRPC. */
        if (!end || !memmem(head, (size_t)(end - head), " HTTP/1.", 8)) {
            close_conn(c);
            return;
        }
        size_t head_len = (size_t)(end + 4 - head);
        ssize_t used = find_body(c, head, head_len, have, &body_len);
        if (used < 0)
            return;
        answer(c, head, head_len, head + head_len, body_len);
        if (c->dead)
            return;
        c->in_off += head_len + (size_t)used;
        if (!c->streaming && !c->keep_alive) {
            close_if_done(c);
            return;
        }
    }
}

static void make_room(conn *c)
{
    if (c->in_cap - c->in_len >= READ_ROOM)
        return;
    if (c->in_off) {
        memmove(c->in, c->in + c->in_off, c->in_len - c->in_off);
        c->in_len -= c->in_off;
        c->in_off = 0;
    }
    if (c->in_cap - c->in_len < READ_ROOM) {
        c->in_cap = c->in_cap ? c->in_cap * 2 : FIRST_BUFFER;
        c->in = grown(c->in, c->in_cap);
    }
}

static void on_readable(conn *c)
{
    for (;;) {
        if (c->in_len > BODY_LIMIT) {
            close_conn(c);
            return;
        }
        make_room(c);
        size_t room = c->in_cap - c->in_len;
        ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            close_conn(c);
            return;
        }
        c->in_len += (size_t)n;
        if ((size_t)n < room)
            break;
    }
    serve(c);
}

static void on_writable(conn *c)
{
    flush(c);
    if (c->dead || c->out_len)
        return;
    if (c->streaming && !delay_ns)
        ready_add(c);
    close_if_done(c);
}

/* --- the loop --- */

static void accept_all(int listener)
{
    int one = 1, fd;
    for (int i = 0; i < ACCEPTS; i++) {
        if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn *c = grown(NULL, sizeof *c);
        *c = (conn){.fd = fd, .timer = -1, .ready = -1};
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static struct timespec patience(void)
{
    if (ready.len)
        return (struct timespec){0, 0};
    if (!timers.len)
        return (struct timespec){1, 0};
    uint64_t now = now_ns(), due = timers.items[0]->due, wait = due > now ? due - now : 0;
    wait = (wait + TIMER_NS - 1) / TIMER_NS * TIMER_NS;
    return (struct timespec){(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
}

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8192) ||
        getsockname(fd, (struct sockaddr *)&a, &len)) {
        perror("listen");
        exit(1);
    }
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

int main(int argc, char **argv)
{
    int option, port = 0;
    while ((option = getopt(argc, argv, "p:n:d:")) != -1)
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'n': events_per_stream = atoi(optarg); break;
        case 'd': delay_ns = strtoull(optarg, NULL, 10) * 1000; break;
        default: return 2;
        }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    make_event(&first_event, "{\"role\":\"assistant\",\"content\":\"" STAMP "\"}", "null");
    make_event(&middle_event, "{\"content\":\" " STAMP "\"}", "null");
    make_event(&last_event, "{\"content\":\" " STAMP "\"}", "\"stop\"");

    int listener = listen_on(port);
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, happened[EPOLL_EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    while (!stopped) {
        struct timespec wait = patience();
        int n = epoll_pwait2(epoll_fd, happened, EPOLL_EVENTS, &wait, NULL);
        for (int i = 0; i < n; i++) {
            conn *c = happened[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (!c->dead && happened[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
                on_readable(c);
            if (!c->dead && happened[i].events & EPOLLOUT)
                on_writable(c);
        }
        if (ready.len)
            run_ready_streams();
        if (timers.len)
            run_timers();
        bury();
    }
    return 0;
}
