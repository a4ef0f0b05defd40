"""The whole API on one screen; then one module per endpoint family."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ollad.handlers.batch import batch
from ollad.handlers.chat import CHAT, chat_completions
from ollad.handlers.completions import COMPLETIONS, completions
from ollad.handlers.embeddings import EMBEDDINGS, embeddings
from ollad.handlers.events import events
from ollad.handlers.extend import extend
from ollad.handlers.generate import NATIVE, generate
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
from ollad.handlers.passthrough import document, relay_document, relay_upload
from ollad.handlers.responses import cancel_response, create_response, show_response
from ollad.handlers.vision import vision

if TYPE_CHECKING:
    from ollad.serving import Relaying

__all__ = ["ADMIN_ROUTES", "PREFIX", "PUBLIC_ROUTES", "ROUTES", "Handler", "Route"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, the methods it takes (GET takes HEAD too), its family in metrics, its handler.

    ``relaying`` is what the handler does, where it does nothing but that.
    """

    methods: str
    path: str
    family: str
    handler: Handler
    relaying: Relaying | None = None


PREFIX: Final = "/olla/sglang"

_P = PREFIX
_ID: Final = "{id:[A-Za-z0-9_-]{1,128}}"


def _document(methods: str, path: str, family: str) -> Route:
    return Route(methods, _P + path, family, relay_document, document(path))


ROUTES: Final = (
    Route("GET", f"{_P}/health", "health", health),
    Route("GET", f"{_P}/v1/models", "models", list_models),
    Route("GET", _P + "/v1/models/{id:.+}", "models", show_model),
    Route("POST", f"{_P}/v1/chat/completions", "chat", chat_completions, CHAT),
    Route("POST", f"{_P}/v1/completions", "completions", completions, COMPLETIONS),
    Route("POST", f"{_P}/v1/embeddings", "embeddings", embeddings, EMBEDDINGS),
    Route("POST PUT", f"{_P}/generate", "generate", generate, NATIVE),
    Route("POST", f"{_P}/batch", "batch", batch),
    Route("POST", f"{_P}/extend", "extend", extend),
    Route("POST", f"{_P}/v1/chat/completions/vision", "vision", vision),
    Route("GET", f"{_P}/metrics", "metrics", page_metrics),
    # further routes of a real SGLang, relayed as they are
    _document("POST", "/tokenize", "tokenize"),
    _document("POST", "/v1/tokenize", "tokenize"),
    _document("POST", "/detokenize", "tokenize"),
    _document("POST", "/v1/detokenize", "tokenize"),
    _document("POST", "/v1/score", "score"),
    _document("POST", "/v1/classify", "classify"),
    _document("POST", "/classify", "classify"),
    _document("POST", "/encode", "encode"),
    _document("POST PUT", "/v1/rerank", "rerank"),
    _document("POST", "/v1/messages", "messages"),
    _document("POST", "/v1/messages/count_tokens", "messages"),
    _document("POST", "/parse_function_call", "text"),
    _document("POST", "/separate_reasoning", "text"),
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
