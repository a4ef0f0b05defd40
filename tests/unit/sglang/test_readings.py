from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.config.schema import ModelFilter
from ollad.sglang import readings
from tests.unit.sglang.test_values import ANYTHING

DATA = Path(__file__).parents[2] / "data" / "sglang"


def reply(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def test_a_real_server_info_is_read() -> None:
    info = readings.server_info(reply("server_info.json"))
    assert info is not None
    assert (info.version, info.radix_cache, info.speculative) == ("0.5.23", True, False)
    assert (info.cache_report, info.embedding) == (True, False)
    assert (info.kv_tokens, info.kv_copies) == (20000, 1)
    assert info.kv_gb == pytest.approx(0.005)
    assert info.fingerprint is not None


def test_no_key_of_the_server_is_kept() -> None:
    keys = {"api_key": "SECRET1", "admin_api_key": "SECRET2", "ssl_keyfile_password": "SECRET3"}
    document = reply("server_info.json") | keys
    document["internal_states"][0] |= keys
    assert "SECRET" not in repr(readings.server_info(document))


def test_an_early_server_info_is_read_as_far_as_it_goes() -> None:
    info = readings.server_info(
        {
            "version": "0.4.6.post5",
            "disable_radix_cache": True,
            "speculative_algorithm": "EAGLE",
            "tp_size": 2,
            "dp_size": 1,
            "max_total_num_tokens": 100,
            "internal_states": [{"last_gen_throughput": 0.0}],
        }
    )
    assert info is not None
    assert (info.radix_cache, info.speculative, info.cache_report) == (False, True, None)
    assert (info.kv_tokens, info.kv_copies, info.kv_gb) == (100, 2, None)


def test_data_parallel_replicas_share_out_the_ranks_only_under_data_parallel_attention() -> None:
    sizes = {"tp_size": 8, "dp_size": 4, "pp_size": 2, "max_total_num_tokens": 10}
    apart, shared = (
        readings.server_info(sizes),
        readings.server_info({**sizes, "enable_dp_attention": True}),
    )
    assert apart is not None
    assert shared is not None
    assert (apart.kv_copies, shared.kv_copies) == (16, 4)
    assert apart.kv_tokens == 40


def test_another_start_has_another_fingerprint() -> None:
    first = reply("server_info.json")
    second = {**first, "startup_time": {**first["startup_time"], "tokenizer_e2e": 1.5}}
    infos = [readings.server_info(document) for document in (first, first, second)]
    prints = [info.fingerprint for info in infos if info]
    assert prints[0] == prints[1] != prints[2]


def test_the_flag_of_an_embedding_server_does_not_tell_whether_prefixes_are_cached() -> None:
    info = readings.server_info(reply("server_info.json") | {"is_embedding": True})
    assert info is not None
    assert info.radix_cache is None
    told = readings.engine(info, reply("model_info_embedding.json"), incarnation="1")
    assert told.radix_cache is False
    assert told.generation is False


def test_an_engine_is_put_together_from_both_descriptions() -> None:
    engine = readings.engine(
        readings.server_info(reply("server_info.json")),
        readings.model_info(reply("model_info.json")),
        incarnation="1",
        routes=frozenset(),
    )
    assert (engine.version, engine.generation, engine.radix_cache) == ("0.5.23", True, True)
    assert (engine.image_understanding, engine.audio_understanding) == (False, False)
    assert engine.model_info is not None
    assert engine.model_info["served_model_name"] == "tiny-llama"


def test_what_no_source_tells_stays_unknown() -> None:
    engine = readings.engine(None, None, incarnation=None, version="0.5.9", speculative=True)
    assert (engine.version, engine.speculative) == ("0.5.9", True)
    assert engine.radix_cache is None
    assert engine.generation is None
    assert engine.native_routes is None


def test_only_the_pages_own_routes_are_taken_from_a_route_list() -> None:
    document = reply("openapi.json")
    assert readings.native_routes(document) == frozenset()
    document["paths"]["/batch"] = {"post": {}}
    document["paths"]["/extend"] = {"get": {}}
    assert readings.native_routes(document) == frozenset({"/batch"})


def test_a_model_list_is_kept_whole_and_its_nonsense_left_out() -> None:
    cards = readings.model_cards(
        {
            "data": [
                {"id": "m", "x": 1},
                {"id": "m"},
                {"id": ""},
                {"id": 3},
                "m",
                {"id": "a", "parent": "m"},
            ]
        }
    )
    assert cards is not None
    assert [(card.id, card.parent) for card in cards] == [("m", None), ("a", "m")]
    assert cards[0].raw == {"id": "m", "x": 1}


def names(include: tuple[str, ...], exclude: tuple[str, ...] = ()) -> list[str]:
    listed = [{"id": n} for n in ("org/a-7b", "org/b-7b", "a[1]", "org/a-7b:lora")]
    cards = readings.model_cards({"data": listed})
    assert cards is not None
    return [card.id for card in readings.offered(cards, ModelFilter(include, exclude))]


def test_models_are_filtered_by_patterns_with_stars() -> None:
    assert len(names(())) == 4
    assert names(("org/a*",)) == ["org/a-7b", "org/a-7b:lora"]
    assert names(("org/*",), ("*:lora",)) == ["org/a-7b", "org/b-7b"]
    assert names(("a[1]",)) == ["a[1]"]
    assert names(("org/a",)) == []


@pytest.mark.parametrize("document", [None, [], "ok", {"status": "ok"}, {"model_loaded": True}])
def test_only_a_document_in_the_pages_shape_is_believed(document: object) -> None:
    assert readings.page_health(document) is None


def test_a_document_in_the_pages_shape_is_kept_whole() -> None:
    document = {"status": "healthy", "num_requests_running": 3, "more": [1]}
    assert readings.page_health(document) == document


KEYS = st.sampled_from([*reply("server_info.json"), "data", "paths", "status", "/batch"])


@given(st.dictionaries(KEYS, ANYTHING) | ANYTHING)
def test_no_reply_breaks_the_readers(document: object) -> None:
    info = readings.server_info(document)
    model = readings.model_info(document)
    readings.engine(info, model, incarnation=None)
    readings.native_routes(document)
    readings.model_cards(document)
    readings.page_health(document)
