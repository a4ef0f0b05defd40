"""Reading and editing JSON bodies."""

from __future__ import annotations

import json
from typing import Any

import orjson

from ollad.config.schema import Media
from ollad.errors import BadRequestError
from ollad.jsontext import append_members, parse_object, replace_members
from ollad.sglang.annotate import generate_usage, openai_usage
from ollad.sglang.media import check_media
from ollad.sglang.parameters import ignored_parameters, refuse_fields, replace_rid

__all__ = ["check_json_body"]


def check_json_body(data: bytes) -> None:
    """What is taken is JSON to others too, and edits change what they name and nothing else."""
    try:
        document = parse_object(data)
    except BadRequestError as error:
        _judge_error(error)
        return
    assert list(json.loads(data)) == list(document)
    _judge_guards(document)
    values = {"rid": b'"new"', "model": b"[1,{}]", "": b"0"}
    edited = replace_members(data, values)
    expected = {name: _new(name, value, values) for name, value in document.items()}
    assert orjson.loads(edited) == expected
    assert list(orjson.loads(edited)) == list(document)
    if edited != data:
        assert replace_members(edited, values) == edited
    added = append_members(data, {"metrics": b'{"a":1}', "\N{SNOWMAN}": b"null"})
    assert orjson.loads(added) == {**document, "metrics": {"a": 1}, "\N{SNOWMAN}": None}
    assert added.startswith(data[: data.rindex(b"}")])
    try:
        body, rid = replace_rid(data, document, lambda: "0" * 32)
    except BadRequestError:
        return
    assert rid is None or isinstance(rid, str)
    assert {**orjson.loads(body), "rid": None} == {**document, "rid": None}
    sent = orjson.loads(body).get("rid")
    assert "rid" not in document or sent != document["rid"] or not sent


def _new(name: str, value: Any, values: dict[str, bytes]) -> Any:
    return orjson.loads(values[name]) if name in values else value


def _judge_guards(document: dict[str, Any]) -> None:
    ignored_parameters(document)
    openai_usage(document)
    generate_usage(document)
    for guard in (refuse_fields, lambda d: check_media(d, Media())):
        try:
            guard(document)
        except BadRequestError as error:
            _judge_error(error)


def _judge_error(error: BadRequestError) -> None:
    assert error.status == 400
    assert 0 < len(error.message) < 5000  # longer than an input
