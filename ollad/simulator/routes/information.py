"""What the server is: models, server and model information, the list of routes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ollad.simulator.exposition import kv_gigabytes
from ollad.simulator.refusals import unknown_model
from ollad.simulator.replies import json_reply
from ollad.simulator.service import VERSION, Life

if TYPE_CHECKING:
    from aiohttp import web

    from ollad.simulator.options import Options
    from ollad.simulator.service import Service

__all__ = ["model", "model_info", "models", "openapi", "server_info"]


_UNLISTED: Final = frozenset({"/openapi.json", "/tokenize", "/detokenize", "/simulator/faults"})
"""Routes that a real server does not list either, or does not have."""


def _card(service: Service) -> dict[str, Any]:
    return {
        "id": service.options.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "sglang",
        "root": service.options.model,
        "parent": None,
        "max_model_len": service.options.context_length,
    }


async def models(service: Service, _request: web.Request) -> web.StreamResponse:
    """``/v1/models``."""
    return json_reply({"object": "list", "data": [_card(service)]})


async def model(service: Service, request: web.Request) -> web.StreamResponse:
    """``/v1/models/{model}``."""
    name = request.match_info["model"]
    if name != service.options.model:
        raise unknown_model(name)
    return json_reply(_card(service))


async def model_info(service: Service, _request: web.Request) -> web.StreamResponse:
    """``/model_info``."""
    options = service.options
    kind = "llava" if options.vision else "llama"
    names = {"llava": "LlavaForConditionalGeneration", "llama": "LlamaForCausalLM"}
    return json_reply(
        {
            "model_path": options.model,
            "served_model_name": options.model,
            "tokenizer_path": options.model,
            "is_generation": not options.embedding,
            "preferred_sampling_params": None,
            "weight_version": "default",
            "load_format": "auto",
            "reasoning_parser": None,
            "tool_call_parser": None,
            "disaggregation_mode": "null",
            "has_image_understanding": options.vision,
            "has_audio_understanding": False,
            "model_type": kind,
            "architectures": [names[kind]],
            "embedding": _embedding(options),
        }
    )


def _embedding(options: Options) -> dict[str, Any]:
    """What it says about embeddings, in the words of a decoder model."""
    on = options.embedding
    return {
        "family": "explicit_decoder_embedding" if on else "none",
        "task": "embed" if on else "none",
        "execution": "decoder_pooling" if on else "none",
        "attention": "causal" if on else "none",
        "pooling": "model_defined",
        "normalize": on,
        "postprocessor": "model_defined" if on else "none",
        "tokenizer_special_tokens": "model_default",
        "supports_dimensions": False,
        "supports_token_embeddings": False,
        "supports_multimodal": False,
        "requires_embedding_flag": on,
        "auto_enable_embedding": False,
        "bcg_eligibility": "standard" if on else "disabled",
        "safe_disable_kv_cache": False,
        "safe_disable_radix_cache": False,
        "safe_disable_chunked_prefill": False,
        "enabled": on,
        "matryoshka_dimensions": [],
        "bcg": {
            "prefill_backend": "disabled",
            "enabled": False,
            "capture_token_budget": 2048,
            "capture_batch_sizes": [4, 8, 16, 32],
        },
        "cache": {
            "kv_cache_disabled": False,
            "radix_cache_disabled": not options.engine.caching,
            "chunked_prefill_disabled": False,
        },
    }


async def server_info(service: Service, _request: web.Request) -> web.StreamResponse:
    """``/server_info``: the fields that others read, the API key in clear among them."""
    options, engine = service.options, service.options.engine
    capacity = service.engine.cache.capacity
    host, _, port = service.address.rpartition(":")
    settings: dict[str, Any] = {
        "model_path": options.model,
        "tokenizer_path": options.model,
        "load_format": "auto",
        "context_length": None,
        "is_embedding": options.embedding,
        "enable_multimodal": True if options.vision else None,
        "dtype": "auto",
        "quantization": None,
        "kv_cache_dtype": "auto",
        "mem_fraction_static": 0.88,
        "max_running_requests": engine.max_running,
        "max_queued_requests": engine.max_queued,
        "max_total_tokens": capacity,
        "schedule_policy": "fcfs",
        "page_size": engine.page_size,
        "radix_eviction_policy": "lru",
        "disable_radix_cache": not engine.caching,
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": 1,
        "ep_size": 1,
        "stream_interval": 1,
        "incremental_streaming_output": False,
        "random_seed": options.seed,
        "host": host,
        "port": int(port or 0),
        "served_model_name": options.model,
        "api_key": options.api_key,
        "admin_api_key": None,
        "reasoning_parser": None,
        "tool_call_parser": None,
        "enable_metrics": options.metrics,
        "enable_cache_report": options.cache_report,
        "enable_lora": None,
        "speculative_algorithm": None,
        "disaggregation_mode": "null",
    }
    size = round(kv_gigabytes(capacity), 3)
    state = {
        **settings,
        "effective_max_running_requests_per_dp": engine.max_running,
        "last_gen_throughput": service.engine.usage(service.driver.now()).throughput,
        "memory_usage": {"weight": 15.1, "kvcache": size, "token_capacity": capacity},
    }
    return json_reply(
        {
            **settings,
            "launch_command": f"--model-path {options.model} --host {host} --port {port}",
            "status": "starting" if service.life is Life.STARTING else "ready",
            "max_total_num_tokens": capacity,
            "max_req_input_len": max(1, service.longest - 6),
            # Measured anew by each process of a real server, which is how to tell them apart.
            "startup_time": {"load_weight": 0.0, "tokenizer_e2e": service.started % 1000},
            "internal_states": [state],
            "version": VERSION,
            "frontend": "python",
        }
    )


async def openapi(service: Service, request: web.Request) -> web.StreamResponse:
    """``/openapi.json``: the routes there are, without their schemas."""
    del service
    paths: dict[str, dict[str, Any]] = {}
    for route in request.app.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method != "*" and path not in _UNLISTED:
            paths.setdefault(path, {})[route.method.lower()] = {
                "summary": path,
                "responses": {"200": {"description": "Successful Response"}},
            }
    return json_reply(
        {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths}
    )
