"""The whole API on one screen; then one module per endpoint family."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from ollad.handlers.batch import batch
from ollad.handlers.chat import chat_completions
from ollad.handlers.completions import completions
from ollad.handlers.embeddings import embeddings
from ollad.handlers.events import events
from ollad.handlers.extend import extend
from ollad.handlers.generate import generate
from ollad.handlers.health import health
from ollad.handlers.internal import (
    alive,
    ready,
    status,
    status_endpoints,
    status_models,
    version,
)
from ollad.handlers.metrics import own_metrics, page_metrics
from ollad.handlers.models import list_models, model_info, show_model
from ollad.handlers.passthrough import relay_document, relay_upload
from ollad.handlers.responses import cancel_response, create_response, show_response
from ollad.handlers.vision import vision

__all__ = ["ADMIN_ROUTES", "PREFIX", "PUBLIC_ROUTES", "ROUTES", "Handler", "Route"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, the methods it takes (GET takes HEAD too), its family in metrics, its handler."""

    methods: str
    path: str
    family: str
    handler: Handler


PREFIX: Final = "/olla/sglang"

_P = PREFIX
_ID: Final = "{id:[A-Za-z0-9_-]{1,128}}"

ROUTES: Final = (
    Route("GET", f"{_P}/health", "health", health),
    Route("GET", f"{_P}/v1/models", "models", list_models),
    Route("GET", _P + "/v1/models/{id:.+}", "models", show_model),
    Route("POST", f"{_P}/v1/chat/completions", "chat", chat_completions),
    Route("POST", f"{_P}/v1/completions", "completions", completions),
    Route("POST", f"{_P}/v1/embeddings", "embeddings", embeddings),
    Route("POST PUT", f"{_P}/generate", "generate", generate),
    Route("POST", f"{_P}/batch", "batch", batch),
    Route("POST", f"{_P}/extend", "extend", extend),
    Route("POST", f"{_P}/v1/chat/completions/vision", "vision", vision),
    Route("GET", f"{_P}/metrics", "metrics", page_metrics),
    # further routes of a real SGLang, relayed as they are
    Route("POST", f"{_P}/tokenize", "tokenize", relay_document),
    Route("POST", f"{_P}/v1/tokenize", "tokenize", relay_document),
    Route("POST", f"{_P}/detokenize", "tokenize", relay_document),
    Route("POST", f"{_P}/v1/detokenize", "tokenize", relay_document),
    Route("POST", f"{_P}/v1/score", "score", relay_document),
    Route("POST", f"{_P}/v1/classify", "classify", relay_document),
    Route("POST", f"{_P}/classify", "classify", relay_document),
    Route("POST", f"{_P}/encode", "encode", relay_document),
    Route("POST PUT", f"{_P}/v1/rerank", "rerank", relay_document),
    Route("POST", f"{_P}/v1/messages", "messages", relay_document),
    Route("POST", f"{_P}/v1/messages/count_tokens", "messages", relay_document),
    Route("POST", f"{_P}/parse_function_call", "text", relay_document),
    Route("POST", f"{_P}/separate_reasoning", "text", relay_document),
    Route("POST", f"{_P}/v1/audio/transcriptions", "audio", relay_upload),
    Route("POST", f"{_P}/v1/responses", "responses", create_response),
    Route("GET", f"{_P}/v1/responses/{_ID}", "responses", show_response),
    Route("POST", f"{_P}/v1/responses/{_ID}/cancel", "responses", cancel_response),
    # asked by SGLang's own client, answered from snapshots
    Route("GET", f"{_P}/model_info", "models", model_info),
    Route("GET", f"{_P}/get_model_info", "models", model_info),
    # ollad's own
    Route("GET", "/metrics", "internal", own_metrics),
    Route("GET", "/internal/health", "internal", alive),
    Route("GET", "/internal/ready", "internal", ready),
    Route("GET", "/internal/status", "internal", status),
    Route("GET", "/internal/status/endpoints", "internal", status_endpoints),
    Route("GET", "/internal/status/models", "internal", status_models),
    Route("GET", "/internal/events", "internal", events),
    Route("GET", "/version", "internal", version),
)

_VERSION: Final = "/version"

ADMIN_ROUTES: Final = tuple(route for route in ROUTES if not route.path.startswith(PREFIX))
"""What a listener for operators serves."""

PUBLIC_ROUTES: Final = tuple(
    route for route in ROUTES if route not in ADMIN_ROUTES or route.path == _VERSION
)
"""What is left for the other then."""
