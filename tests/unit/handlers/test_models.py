from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollad.backends.snapshot import Engine, Load, Snapshot, State
from ollad.handlers.models import ModelCatalogue, list_models, model_info, show_model
from tests.unit.builders import card, make_backend

if TYPE_CHECKING:
    from tests.unit.handlers.conftest import Client, Serve


async def listed(client: Client) -> list[dict[str, Any]]:
    response = await client.get("/")
    document = await response.json()
    assert (response.status, document["object"]) == (200, "list")
    data: list[dict[str, Any]] = document["data"]
    return data


async def test_a_card_has_every_field_of_the_page(serve: Serve) -> None:
    backend = make_backend(
        models=("meta-llama/Meta-Llama-3.1-8B-Instruct",),
        engine=Engine(speculative=True),
        load=Load(kv_bytes=17179869184),
    )
    [model] = await listed(await serve(list_models, backend))
    assert model == {
        "id": "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "object": "model",
        "created": 1705334400,
        "owned_by": "sglang",
        "root": "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "parent": None,
        "max_model_len": 8192,
        "permission": [],
        "radix_cache_size": 17179869184,
        "speculative_decoding": True,
    }


async def test_models_of_all_backends_are_listed_once_and_sorted(serve: Serve) -> None:
    client = await serve(
        list_models,
        make_backend("sgl-a", models=("zephyr", "llama")),
        make_backend("sgl-b", models=("llama", "bert")),
        make_backend("sgl-c", models=("hidden",), state=State.DOWN),
    )
    assert [model["id"] for model in await listed(client)] == ["bert", "llama", "zephyr"]


async def test_what_is_not_known_of_a_model_is_left_out(serve: Serve) -> None:
    [model] = await listed(await serve(list_models, make_backend()))
    assert not {"radix_cache_size", "speculative_decoding"} & model.keys()


async def test_backends_of_a_model_are_taken_together(serve: Serve) -> None:
    client = await serve(
        list_models,
        make_backend("sgl-a", engine=Engine(speculative=False), load=Load(kv_bytes=10)),
        make_backend("sgl-b", engine=Engine(speculative=True), load=Load(kv_bytes=20)),
        make_backend("sgl-c"),
    )
    [model] = await listed(client)
    assert (model["speculative_decoding"], model["radix_cache_size"]) == (True, 30)


async def test_a_card_is_kept_whole_and_what_it_says_itself_believed(serve: Serve) -> None:
    own = card("llama", permission=["x"], radix_cache_size=7, speculative_decoding=False, extra=1)
    backend = make_backend(models=(own,), engine=Engine(speculative=True), load=Load(kv_bytes=10))
    [model] = await listed(await serve(list_models, backend))
    assert model == own.raw


async def test_created_stays_what_it_was_first(serve: Serve) -> None:
    backend = make_backend()
    client = await serve(list_models, backend)
    first = await listed(client)
    backend.snapshot = Snapshot(
        state=State.HEALTHY, models=(card("tiny-llama", created=1800000000),)
    )
    assert [model["created"] for model in first] == [1705334400]
    assert await listed(client) == first


async def test_a_card_without_created_gets_the_time_it_was_first_seen(serve: Serve) -> None:
    for nothing in (None, "soon", True):
        backend = make_backend(models=(card("tiny-llama", created=nothing),))
        [model] = await listed(await serve(list_models, backend))
        assert model["created"] == 1795348800


async def test_a_model_that_is_served_no_more_is_gone(serve: Serve) -> None:
    backend = make_backend()
    client = await serve(list_models, backend)
    assert len(await listed(client)) == 1
    backend.snapshot = Snapshot(state=State.HEALTHY)
    assert await listed(client) == []


async def test_aliases_are_listed_with_the_model_they_stand_for(serve: Serve) -> None:
    aliases = {"gpt-4o": "tiny-llama", "lost": "not-served", "other": "tiny-llama"}
    client = await serve(list_models, make_backend(models=("tiny-llama", "other")), aliases=aliases)
    models = await listed(client)
    roots = {model["id"]: model["root"] for model in models}
    assert roots == {"gpt-4o": "tiny-llama", "other": "other", "tiny-llama": "tiny-llama"}


async def test_one_model_can_be_asked_for_though_its_id_has_slashes(serve: Serve) -> None:
    name = "meta-llama/Meta-Llama-3.1-8B-Instruct"
    client = await serve(show_model, make_backend(models=(name,)), path="/v1/models/{id:.+}")
    for spelling in (name, name.replace("/", "%2F")):
        response = await client.get(f"/v1/models/{spelling}")
        assert (response.status, (await response.json())["id"]) == (200, name)


async def test_an_unknown_model_is_404_and_names_the_known_ones(serve: Serve) -> None:
    client = await serve(
        show_model, make_backend(models=("b", "a")), path="/{id:.+}", aliases={"c": "a"}
    )
    response = await client.get("/nope")
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "a, b, c" in error["message"]


async def test_a_long_list_of_known_models_is_cut(serve: Serve) -> None:
    many = tuple(f"model-{number:03}" for number in range(25))
    client = await serve(show_model, make_backend(models=many), path="/{id:.+}")
    message = (await (await client.get("/nope")).json())["error"]["message"]
    assert "model-019 and 5 more" in message
    assert "model-020" not in message


def test_the_catalogue_forgets_models_that_went_once_it_is_full() -> None:
    catalogue = ModelCatalogue(limit=2)
    for number in range(5):
        backend = make_backend(models=(f"model-{number}", "kept"))
        catalogue.cards([backend], {}, 0.0)
    later = make_backend(models=(card("model-0", created=2), card("kept", created=2)))
    created = {name: model["created"] for name, model in catalogue.cards([later], {}, 0.0).items()}
    assert created == {"kept": 1705334400, "model-0": 2}


async def test_model_info_is_that_of_a_backend_that_has_it(serve: Serve) -> None:
    client = await serve(
        model_info,
        make_backend("sgl-a", state=State.DOWN, engine=Engine(model_info={"model_path": "/a"})),
        make_backend("sgl-b"),
        make_backend("sgl-c", engine=Engine(model_info={"model_path": "/c", "x": None})),
    )
    response = await client.get("/")
    assert (response.status, await response.json()) == (200, {"model_path": "/c", "x": None})


async def test_model_info_can_be_asked_for_by_model_or_alias(serve: Serve) -> None:
    client = await serve(
        model_info,
        make_backend("sgl-a", models=("a",), engine=Engine(model_info={"model_path": "/a"})),
        make_backend("sgl-b", models=("b",), engine=Engine(model_info={"model_path": "/b"})),
        aliases={"bee": "b"},
    )
    for name in ("b", "bee"):
        response = await client.get("/", params={"model": name})
        assert await response.json() == {"model_path": "/b"}
    unknown = await client.get("/", params={"model": "c"})
    assert (unknown.status, (await unknown.json())["error"]["code"]) == (404, "model_not_found")


async def test_model_info_is_503_while_nobody_has_told(serve: Serve) -> None:
    response = await (await serve(model_info, make_backend())).get("/")
    assert response.status == 503
