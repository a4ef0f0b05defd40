from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ollad.errors import BadRequestError
from ollad.sglang.parameters import (
    IGNORED_PARAMETERS,
    REFUSED_FIELDS,
    ignored_parameters,
    refuse_fields,
    refuse_several,
    replace_rid,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("field", REFUSED_FIELDS)
@pytest.mark.parametrize("value", [True, 0, "x", {"id": "s"}, []])
def test_a_refused_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadRequestError, match=f"'{field}' is not accepted") as caught:
        refuse_fields({"text": "x", field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("field", REFUSED_FIELDS)
def test_a_refused_field_that_is_null_asks_for_nothing(field: str) -> None:
    refuse_fields({field: None})


def test_a_switch_turned_off_asks_for_nothing_but_a_false_rank_is_rank_zero() -> None:
    refuse_fields({"return_hidden_states": False, "return_routed_experts": False})
    with pytest.raises(BadRequestError, match="routed_dp_rank"):
        refuse_fields({"routed_dp_rank": False})


def test_parameters_that_no_server_has_are_listed_in_the_order_of_the_request() -> None:
    document = {
        "text": "x",
        "max_tree_depth": 4,
        "temperature": 1,
        "radix_cache_enable": True,
        "sampling_params": {"radix_cache_size": 1},
    }
    assert ignored_parameters(document) == ("max_tree_depth", "radix_cache_enable")
    assert IGNORED_PARAMETERS == (
        "radix_cache_enable",
        "radix_cache_size",
        "max_tree_depth",
        "speculative_draft_length",
        "spec_decode_acceptance_threshold",
        "max_image_resolution",
        "image_aspect_ratio",
        "vision_feature_select_strategy",
    )
    assert ignored_parameters({}) == ()


def numbered() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"{next(numbers):032x}"


def test_a_rid_is_replaced_and_handed_back() -> None:
    body = b'{"rid": "mine", "n":1.50}'
    edited, rid = replace_rid(body, orjson.loads(body), numbered())
    assert edited == b'{"rid": "' + b"0" * 32 + b'", "n":1.50}'
    assert rid == "mine"


def test_each_rid_of_a_list_is_replaced_by_another_one() -> None:
    body = b'{"rid":["a","a","b"],"text":["","",""]}'
    edited, rid = replace_rid(body, orjson.loads(body), numbered())
    assert rid is None
    fresh = orjson.loads(edited)["rid"]
    assert len(set(fresh)) == 3
    assert all(len(item) == 32 for item in fresh)


@pytest.mark.parametrize("body", [b'{"text":"x"}', b'{"rid":null}'])
def test_a_request_without_a_rid_stays_as_it_is(body: bytes) -> None:
    assert replace_rid(body, orjson.loads(body), numbered()) == (body, None)


def test_every_duplicate_of_a_rid_is_replaced() -> None:
    body = rb'{"r\u0069d":"x","rid":"y"}'
    edited, rid = replace_rid(body, orjson.loads(body), numbered())
    assert rid == "y"
    assert b'"x"' not in edited
    assert b'"y"' not in edited


@pytest.mark.parametrize("rid", [5, True, {}, ["a", 1], [None], [["a"]]])
def test_a_rid_of_another_type_is_refused(rid: Any) -> None:
    document = {"rid": rid}
    with pytest.raises(BadRequestError, match="'rid' must be a string") as caught:
        replace_rid(orjson.dumps(document), document, numbered())
    assert caught.value.param == "rid"


@pytest.mark.parametrize("n", [2, 0, "2", [1], 1.5])
def test_more_than_one_completion_is_refused_by_field(n: Any) -> None:
    with pytest.raises(BadRequestError) as caught:
        refuse_several({"sampling_params": {"n": n}}, "requests[3].")
    assert caught.value.param == "requests[3].sampling_params.n"


@pytest.mark.parametrize("document", [{}, {"sampling_params": None}, {"sampling_params": [1]}])
def test_one_completion_is_fine(document: dict[str, Any]) -> None:
    refuse_several(document)
    refuse_several({"sampling_params": {"n": 1}})
    refuse_several({"sampling_params": {"n": None}})
