from __future__ import annotations

from types import MappingProxyType

import pytest

from ollad.responses import json_response


def test_a_document_becomes_compact_json() -> None:
    response = json_response({"a": [1, None], "b": MappingProxyType({"c": "é"})}, 503)
    assert response.body == '{"a":[1,null],"b":{"c":"é"}}'.encode()
    assert (response.status, response.content_type) == (503, "application/json")


def test_what_has_no_json_form_is_an_error() -> None:
    with pytest.raises(TypeError):
        json_response({"a": object()})
