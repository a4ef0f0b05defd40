"""The model of a server."""

from __future__ import annotations

import pytest

from tests.bench.routing.load import Request
from tests.bench.routing.server import Job, Server, ServerConfig

CONFIG = ServerConfig(prefill_rate=100, chunk_tokens=50, decode_rate=10, cache_tokens=1000)


def asked(*chain: int, output: int = 1, tokens: int | None = None) -> Job:
    """A job whose blocks have ten tokens each."""
    return Job(Request(chain, 10 * len(chain) if tokens is None else tokens, output))


def served(server: Server, job: Job) -> float:
    """Let a job pass through a server that has nothing else to do; seconds to its first token."""
    seconds = server.submit(job)
    total = 0.0
    done: list[Job] = []
    while seconds is not None:
        total += seconds
        done, seconds = server.step_ended()
    assert done == [job]
    assert server.finished(job) is None
    return total


def test_a_prompt_is_prefilled_at_the_rate_of_the_server() -> None:
    assert served(Server(CONFIG, 10), asked(*range(12))) == pytest.approx(1.2)


def test_a_cached_prefix_is_not_prefilled_again() -> None:
    server = Server(CONFIG, 10)
    served(server, asked(1, 2, 3))
    job = asked(1, 2, 3, 4)
    assert served(server, job) == pytest.approx(0.1)
    assert job.cached == 30
    assert server.busy_seconds == pytest.approx(0.4)


def test_of_a_prompt_that_is_cached_whole_one_token_is_computed() -> None:
    server = Server(CONFIG, 10)
    served(server, asked(1, 2))
    job = asked(1, 2)
    assert served(server, job) == pytest.approx(0.01)
    assert job.cached == 19


def test_the_answer_is_cached_when_it_is_complete() -> None:
    server = Server(CONFIG, 10)
    served(server, Job(Request((1,), 10, 10, answer=(2,))))
    assert server.cache.match([1, 2]) == 2


def test_a_last_block_that_is_not_full_takes_only_its_tokens() -> None:
    server = Server(CONFIG, 10)
    assert served(server, asked(1, 2, tokens=13)) == pytest.approx(0.13)
    assert server.cache.cached == 13


def test_a_step_has_no_more_than_its_tokens_and_serves_who_came_first() -> None:
    server = Server(CONFIG, 10)
    long, short, last = asked(*range(8)), asked(100), asked(101, 102)
    assert server.submit(long) == pytest.approx(0.5)
    assert server.submit(short) is None
    assert server.submit(last) is None
    steps = [server.step_ended() for _ in range(3)]
    assert [done for done, _ in steps] == [[], [long, short], [last]]
    assert steps[0][1] == pytest.approx(0.5)
    assert steps[1][1] == pytest.approx(0.1)
    assert steps[2][1] is None


def test_so_many_run_and_no_more() -> None:
    server = Server(ServerConfig(max_running=1), 10)
    first, second = asked(1), asked(2)
    assert server.submit(first) is not None
    assert server.submit(second) is None
    assert server.step_ended() == ([first], None)
    assert server.finished(first) is not None
    assert server.step_ended() == ([second], None)


def test_who_does_not_fit_in_memory_waits_for_who_does() -> None:
    server = Server(ServerConfig(cache_tokens=100), 10)
    first, second, third = asked(1, 2, 3, output=40), asked(4), asked(5, 6, 7, output=40)
    for job in (first, second, third):
        server.submit(job)
    server.step_ended()
    assert server.step_ended() == ([second], None)
    assert list(server.waiting) == [third]
    assert server.finished(second) is None
    assert server.finished(first) is not None
    assert not server.waiting


def test_a_request_that_never_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="never fit"):
        Server(ServerConfig(cache_tokens=100), 10).submit(asked(*range(11)))


def test_memory_is_as_it_was_when_all_is_over() -> None:
    server = Server(CONFIG, 10)
    for start in range(40):
        served(server, asked(*range(start, start + 7), output=9))
    assert server.cache.reserved == 0
    assert server.cache.idle == server.cache.cached
    assert server.decoding == 0


def test_the_queue_says_what_it_has_to_compute() -> None:
    server = Server(CONFIG, 10)
    served(server, asked(1, 2, 3))
    server.submit(asked(*range(50, 57)))
    server.submit(asked(1, 2, 3, 4))
    assert server.waiting_uncached == 20 + 10
    server.step_ended()
    assert server.waiting_uncached == 0
