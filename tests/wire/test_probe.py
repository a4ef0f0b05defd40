"""``ollad probe``: what it prints, how it ends, and that it never sends its prompt twice."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ollad.cli import main, probe
from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    chunked,
    event_bytes,
    reply,
    sse,
)
from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        FakeSGLang,
        Script,
    )
    from tests.wire.loglines import LogLines

CHAT = "/v1/chat/completions"
USAGE = {
    "prompt_tokens": 24,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 16},
}


def words(*texts: str) -> list[dict[str, Any]]:
    return [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]


def as_ollad(fake: FakeSGLang, script: Script) -> None:
    """Let ``fake`` answer as ollad itself would be asked, so that it sees every request."""
    fake.scripts[PREFIX + CHAT] = script
    fake.scripts[f"{PREFIX}/v1/models"] = reply({"data": [{"id": "tiny"}]})


def posts(fake: FakeSGLang) -> list[Exchange]:
    return [request for request in fake.requests if request.method == "POST"]


def unfinished(how: str) -> Script:
    """A stream of one word that does not end as it should."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(event_bytes(words("half")[0])))
        match how:
            case "ends in order":
                await exchange.send(b"0\r\n\r\n")
            case "closes":
                exchange.writer.close()
            case "resets":
                exchange.reset()
            case "is silent":
                await exchange.client_gone.wait()

    return script


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["probe", *arguments])


async def test_the_text_comes_first_and_then_how_it_went(
    log: LogLines, fake: FakeSGLang, ollad: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    final = {"choices": [], "usage": USAGE}
    fake.scripts[CHAT] = sse(*words("Hel", "lo\x1b[2J"), final, pause=0.02)
    assert await run("--url", f"http://127.0.0.1:{ollad.port}", "--max-tokens", "9", "Hi!") == 0
    output = capsys.readouterr()
    assert output.err == ""
    text, figures = output.out.split("\n\n")
    assert text == "Hello?[2J"
    named = {line[:12].strip(): line[12:] for line in figures.splitlines()}
    assert (named["model"], named["endpoint"]) == ("tiny", "one")
    assert re.fullmatch(r"after \d+ ms", named["first token"])
    assert float(named["tokens/s"]) > 0
    assert named["tokens"] == "2, after 24 of the prompt"
    assert named["cache hit"] == "yes, 16 of 24 tokens of the prompt"
    assert re.fullmatch(r"[0-9a-f-]{36}", named["request id"])
    assert len(log.requests()) == 2
    [request] = fake.requests
    body = request.json
    assert body.pop("messages") == [{"role": "user", "content": "Hi!"}]
    body.pop("rid", None)
    assert body == {
        "model": "tiny",
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_stream_that_ended_is_not_counted_as_one_whose_client_left(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT] = sse(*words("Hello"))
    assert await run("--url", f"http://127.0.0.1:{ollad.port}") == 0
    await until(lambda: not ollad.gateway.traffic)
    aborts = ollad.gateway.telemetry.registry.get_sample_value(
        "ollad_stream_aborts_total", {"family": "chat", "side": "client"}
    )
    assert not aborts


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("ends in order", "it ended without [DONE]"),
        ("closes", "closed the connection"),
        ("resets", "closed the connection"),
        ("is silent", "stopped answering"),
    ],
)
async def test_a_cut_stream_is_said_to_be_cut_and_the_prompt_sent_once(
    fake: FakeSGLang,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    said: str,
) -> None:
    monkeypatch.setattr(probe, "_SILENCE", 0.3)
    as_ollad(fake, unfinished(how))
    assert await run("--url", fake.url) == 1
    output = capsys.readouterr()
    assert output.out.startswith("half\n\nmodel")
    [line] = output.err.splitlines()
    assert "the stream was cut: " in line
    assert said in line
    assert len(posts(fake)) == 1


@pytest.mark.parametrize("ending", ["in order", "late", "broken"])
async def test_after_done_nothing_is_sent_again_however_the_stream_ends(
    fake: FakeSGLang, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(probe, "_LAST_WORDS", 0.2)

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(event_bytes(words("all")[0])))
        await exchange.send(chunked(b"data: [DONE]\n\n"))
        match ending:
            case "in order":
                await exchange.send(b"0\r\n\r\n")
            case "late":
                await exchange.client_gone.wait()
            case "broken":
                exchange.reset()

    as_ollad(fake, script)
    assert await run("--url", fake.url) == 0
    assert len(posts(fake)) == 1


async def hang_up(exchange: Exchange) -> None:
    exchange.writer.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (reply({"error": {"message": "Queue full."}}, "503 Busy"), "answered 503: Queue full."),
        (reply(b"", "307 Temporary Redirect", {"location": "/elsewhere"}), "answered 307"),
        (reply({"choices": []}), "something other than an event stream"),
        (sse({"error": {"message": "out of memory"}}), "out of memory"),
        (sse(b"data: nonsense\n\n"), "cannot be read"),
        (hang_up, "closed the connection before its reply was complete"),
    ],
)
async def test_a_failure_is_one_clear_line_and_the_prompt_is_sent_once(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str], script: Script, said: str
) -> None:
    as_ollad(fake, script)
    assert await run("--url", fake.url) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(posts(fake)) == 1


async def test_an_unknown_model_is_refused_in_the_words_of_ollad(
    log: LogLines, ollad: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--url", f"http://127.0.0.1:{ollad.port}", "--model", "nope") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert len(log.requests()) == 1
    assert "answered 404: The model 'nope' is not served here" in line


async def test_an_ollad_without_a_model_is_sent_nothing(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    as_ollad(fake, sse(*words("x")))
    fake.scripts[f"{PREFIX}/v1/models"] = reply({"object": "list", "data": []})
    assert await run("--url", fake.url) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "has no model" in line
    assert not posts(fake)


async def test_no_daemon_is_one_clear_line_and_69(
    unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--url", f"http://127.0.0.1:{unused_tcp_port}", "--model", "tiny") == 69
    [line] = capsys.readouterr().err.splitlines()
    assert f"no ollad can be reached at http://127.0.0.1:{unused_tcp_port}" in line


@pytest.fixture
def sigint_heeded() -> Iterator[None]:
    """Processes do not inherit that a shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_heeded")
async def test_ctrl_c_ends_it_with_130_and_the_figures_so_far(fake: FakeSGLang) -> None:
    as_ollad(fake, unfinished("is silent"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollad", "probe", "--url", fake.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readexactly(4) == b"half"
    process.send_signal(signal.SIGINT)
    output, errors = await process.communicate()
    assert process.returncode == 130
    assert b"request id" in output
    assert errors == b""
    assert len(posts(fake)) == 1
