"""Prompts with an id each, and what the simulator's model says to them.

The model's words depend on the whole prompt, so a reply, or any part of it, shows which prompt it
belongs to.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.simulator.completion import complete
from ollad.simulator.conversation import render
from ollad.simulator.sampling import native_sampling, openai_sampling
from ollad.simulator.tokens import encode
from tests.chaos.records import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODEL", "SEED", "Content", "Prompt", "expected", "prompt", "read_reply"]

MODEL: Final = "simulated-llama"
SEED: Final = 0
"""The simulator's."""

_PATHS: Final = {
    Kind.CHAT: "/olla/sglang/v1/chat/completions",
    Kind.CHAT_STREAM: "/olla/sglang/v1/chat/completions",
    Kind.GENERATE: "/olla/sglang/generate",
    Kind.GENERATE_STREAM: "/olla/sglang/generate",
}
_SHARES: Final = {
    Kind.CHAT_STREAM: 45,
    Kind.CHAT: 30,
    Kind.GENERATE_STREAM: 10,
    Kind.GENERATE: 15,
}
_PREAMBLES: Final = tuple(
    f"You are assistant number {number}. " + "You answer in a few words. " * number
    for number in range(8)
)
_FEWEST, _MOST = 5, 40
_IMPATIENT: Final = 0.02
_LONGEST_PATIENCE: Final = 0.3
_DONE: Final = b"[DONE]"
_LAST_REASONS: Final = ("stop", "length")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to be made.

    Attributes:
        id: stands in the prompt as ``[id:…]`` and is the request's id.
        kind: which route, streamed or not.
        body: JSON.
        leaves_after: seconds after which its client goes away; None if it waits.
    """

    id: str
    kind: Kind
    body: Mapping[str, Any]
    leaves_after: float | None

    def request(self) -> bytes:
        """The request as it goes over the wire."""
        data = orjson.dumps(self.body)
        head = (
            f"POST {_PATHS[self.kind]} HTTP/1.1\r\nHost: chaos\r\n"
            "Content-Type: application/json\r\n"
            f"X-Olla-Request-ID: {self.id}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


def prompt(seed: int, number: int) -> Prompt:
    """The prompt with this number; the same one for the same seed."""
    dice = random.Random(f"{seed} {number}")
    kind = dice.choices(list(_SHARES), list(_SHARES.values()))[0]
    name = f"chaos-{seed}-{number:06d}"
    text = f"[id:{name}] What of it?"
    length = dice.randint(_FEWEST, _MOST)
    impatient = dice.random() < _IMPATIENT
    leaves_after = dice.uniform(0, _LONGEST_PATIENCE) if impatient else None
    body: dict[str, Any] = {"model": MODEL, "stream": kind.stream}
    if kind in {Kind.GENERATE, Kind.GENERATE_STREAM}:
        sampling = {"max_new_tokens": length, "temperature": 0, "ignore_eos": True}
        body |= {"text": f"{dice.choice(_PREAMBLES)}{text}", "sampling_params": sampling}
    else:
        messages = [
            {"role": "system", "content": dice.choice(_PREAMBLES)},
            {"role": "user", "content": text},
        ]
        body |= {
            "messages": messages,
            "max_tokens": length,
            "temperature": 0,
            "ignore_eos": True,
        }
    return Prompt(name, kind, body, leaves_after)


def expected(prompt: Prompt) -> str:
    """What the model says to a prompt."""
    body = prompt.body
    if "text" in body:
        tokens = encode(body["text"])
        sampling, _ = native_sampling(body["sampling_params"])
    else:
        tokens = list(render(body, image_size=None).tokens)
        sampling, _ = openai_sampling(body, 0)
    return complete(tokens, sampling, seed=SEED).text


@dataclass(frozen=True, slots=True)
class Content:
    """What a body says.

    Attributes:
        text: what was generated, as far as it came.
        finished: whether it says that it is all.
        error: what went wrong, in the words of the body; empty where nothing did.
    """

    text: str
    finished: bool
    error: str = ""


def read_reply(kind: Kind, status: int, body: bytes) -> Content:
    """Read a body, whole or in part."""
    if status == 200 and kind.stream:
        return _read_stream(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Content("", False)
    if status != 200 or not isinstance(document, dict):
        return Content("", False, _message(document))
    text, reason = _said(document)
    return Content(text, reason in _LAST_REASONS, "" if reason else _message(document))


def _read_stream(body: bytes) -> Content:
    pieces: list[str] = []
    reason: str | None = None
    done = False
    *events, _unfinished = body.split(b"\n\n")
    for event in events:
        data = event.removeprefix(b"data: ")
        if data == _DONE:
            done = True
            continue
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return Content("".join(pieces), False, "an event is no JSON")
        if "error" in document:
            return Content("".join(pieces), False, _message(document))
        text, ended = _said(document)
        if "meta_info" in document:  # cumulative
            pieces = [text]
        else:
            pieces.append(text)
        reason = ended or reason
    if reason == "abort":
        return Content("".join(pieces), False, "aborted")
    return Content("".join(pieces), done and reason in _LAST_REASONS)


def _said(document: dict[str, Any]) -> tuple[str, str | None]:
    """The text of a document or an event, and why it ended if it did."""
    if "meta_info" in document:
        reason = document["meta_info"].get("finish_reason")
        return document["text"], reason["type"] if reason else None
    for choice in document.get("choices") or ():
        said = choice.get("delta") or choice.get("message") or {}
        return said.get("content") or "", choice.get("finish_reason")
    return "", None


def _message(document: Any) -> str:
    """What an error says: ollad's envelope, or one of SGLang's shapes."""
    if not isinstance(document, dict):
        return ""
    error = document.get("error", document)
    if isinstance(error, dict):
        message, code = error.get("message"), error.get("code")
        return f"{code}: {message}" if message else ""
    return error if isinstance(error, str) else ""
