"""The API page: its requests, line by line, and the members of its replies.

Host and model are put in by ``request``; everything else of a curl line is the page's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tests.system.curl import run

if TYPE_CHECKING:
    from tests.system.curl import Reply

__all__ = [
    "BATCH",
    "CHAT",
    "COMPLETION",
    "EMBEDDINGS",
    "EXTEND",
    "GENERATE",
    "HEALTH",
    "METRICS",
    "MODELS",
    "REQUESTS",
    "VISION",
    "assert_headers",
    "assert_shape",
    "request",
]

HOST: Final = "http://localhost:40114"
MODELS_ON_THE_PAGE: Final = (
    "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "llava-hf/llava-1.5-13b-hf",
    "BAAI/bge-large-en-v1.5",
)

REQUESTS: Final = {
    "health": "curl -X GET http://localhost:40114/olla/sglang/health",
    "models": "curl -X GET http://localhost:40114/olla/sglang/v1/models",
    "chat": r"""curl -X POST http://localhost:40114/olla/sglang/v1/chat/completions \
  -H "Content-Type: application/json" \
  -d '{
    "model": "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "messages": [
      {
        "role": "system",
        "content": "You are a helpful AI assistant specialising in efficient inference."
      },
      {
        "role": "user",
        "content": "Explain the benefits of RadixAttention in SGLang"
      }
    ],
    "temperature": 0.7,
    "max_tokens": 300,
    "stream": false
  }'
""",
    "completions": r"""curl -X POST http://localhost:40114/olla/sglang/v1/completions \
  -H "Content-Type: application/json" \
  -d '{
    "model": "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "prompt": "The advantages of SGLang over vLLM include:",
    "max_tokens": 200,
    "temperature": 0.8,
    "top_p": 0.95,
    "stream": false
  }'
""",
    "generate": r"""curl -X POST http://localhost:40114/olla/sglang/generate \
  -H "Content-Type: application/json" \
  -d '{
    "text": "def fibonacci(n):\n    if n <= 1:\n        return n",
    "sampling_params": {
      "temperature": 0.2,
      "max_new_tokens": 150,
      "top_p": 0.9
    }
  }'
""",
    "batch": r"""curl -X POST http://localhost:40114/olla/sglang/batch \
  -H "Content-Type: application/json" \
  -d '{
    "requests": [
      {
        "text": "Translate to French: Hello world",
        "sampling_params": {
          "temperature": 0.1,
          "max_new_tokens": 50
        }
      },
      {
        "text": "Translate to Spanish: Hello world",
        "sampling_params": {
          "temperature": 0.1,
          "max_new_tokens": 50
        }
      },
      {
        "text": "Translate to German: Hello world",
        "sampling_params": {
          "temperature": 0.1,
          "max_new_tokens": 50
        }
      }
    ]
  }'
""",
    "extend": r"""curl -X POST http://localhost:40114/olla/sglang/extend \
  -H "Content-Type: application/json" \
  -d '{
    "rid": "conversation-789",
    "text": "\n\n# Now create a memoized version:",
    "sampling_params": {
      "temperature": 0.3,
      "max_new_tokens": 200
    }
  }'
""",
    "vision": r"""curl -X POST http://localhost:40114/olla/sglang/v1/chat/completions/vision \
  -H "Content-Type: application/json" \
  -d '{
    "model": "llava-hf/llava-1.5-13b-hf",
    "messages": [
      {
        "role": "user",
        "content": [
          {
            "type": "text",
            "text": "What architectural pattern is shown in this diagram?"
          },
          {
            "type": "image_url",
            "image_url": {
              "url": "..."
            }
          }
        ]
      }
    ],
    "temperature": 0.7,
    "max_tokens": 300
  }'
""",
    "embeddings": r"""curl -X POST http://localhost:40114/olla/sglang/v1/embeddings \
  -H "Content-Type: application/json" \
  -d '{
    "model": "BAAI/bge-large-en-v1.5",
    "input": "SGLang provides efficient inference with RadixAttention",
    "encoding_format": "float"
  }'
""",
    "metrics": "curl -X GET http://localhost:40114/olla/sglang/metrics",
}

NUMBER: Final = (int, float)
NUMBER_OR_NULL: Final = (int, float, type(None))
BOOL_OR_NULL: Final = (bool, type(None))
ANYTHING: Final = object

HEALTH: Final = {
    "status": "healthy",
    "model_loaded": True,
    "radix_cache_ready": True,
    "radix_cache_usage_perc": NUMBER,
    "num_requests_running": int,
    "num_requests_waiting": int,
    "speculative_decoding_enabled": bool,
}
MODELS: Final = {
    "object": "list",
    "data": [
        {
            "id": str,
            "object": "model",
            "created": int,
            "owned_by": "sglang",
            "root": str,
            "parent": type(None),
            "max_model_len": int,
            "permission": list,
            "radix_cache_size": int,
            "speculative_decoding": bool,
        }
    ],
}
USAGE: Final = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}
CHAT_CHOICES: Final = [
    {
        "index": int,
        "message": {"role": "assistant", "content": str},
        "logprobs": ANYTHING,
        "finish_reason": str,
    }
]
CHAT: Final = {
    "id": str,
    "object": "chat.completion",
    "created": int,
    "model": str,
    "choices": CHAT_CHOICES,
    "usage": USAGE,
    "metrics": {
        "time_to_first_token_ms": NUMBER_OR_NULL,
        "generation_time_ms": NUMBER,
        "radix_cache_hit_rate": NUMBER,
    },
}
COMPLETION: Final = {
    **CHAT,
    "object": "text_completion",
    "choices": [{"text": str, "index": int, "logprobs": ANYTHING, "finish_reason": str}],
}
META: Final = {
    "id": str,
    "finish_reason": str,
    "input_tokens": int,
    "output_tokens": int,
    "completion_time_ms": NUMBER,
}
GENERATE: Final = {"text": str, "meta": {**META, "rid": str, "radix_cache_hit": bool}}
BATCH: Final = {
    "responses": [{"text": str, "meta": META}],
    "batch_meta": {
        "total_requests": int,
        "successful": int,
        "total_time_ms": NUMBER,
        "avg_radix_cache_hit_rate": NUMBER,
    },
}
EXTEND: Final = {
    "text": str,
    "meta": {**META, "rid": str, "radix_cache_hit": bool, "context_length": int},
}
VISION: Final = {
    "id": str,
    "object": "chat.completion",
    "created": int,
    "model": str,
    "choices": CHAT_CHOICES,
    "usage": USAGE,
    "vision_metrics": {
        "image_processing_time_ms": NUMBER_OR_NULL,
        "vision_encoding_tokens": NUMBER_OR_NULL,
    },
}
EMBEDDINGS: Final = {
    "object": "list",
    "data": [{"object": "embedding", "index": int, "embedding": [float]}],
    "model": str,
    "usage": {"prompt_tokens": int, "total_tokens": int},
}
METRICS: Final = {
    "sglang_request_duration_seconds": "histogram",
    "sglang_num_requests_running": "gauge",
    "sglang_num_requests_waiting": "gauge",
    "sglang_radix_cache_usage_perc": "gauge",
    "sglang_radix_cache_hit_rate": "gauge",
    "sglang_time_to_first_token_seconds": "histogram",
    "sglang_spec_decode_num_accepted_tokens": "counter",
}
"""Families of the page's metrics; a counter's samples add ``_total``."""


def request(name: str, url: str, model: str = "", **replacements: str) -> Reply:
    """Send one of the page's requests.

    Args:
        name: key of ``REQUESTS``.
        url: base URL that stands for the page's ``http://localhost:40114``.
        model: stands for the page's model.
        replacements: ``old=new`` pairs of text for what else has to differ.
    """
    line = REQUESTS[name].replace(HOST, url)
    for page_model in MODELS_ON_THE_PAGE:
        line = line.replace(page_model, model)
    for old, new in replacements.items():
        assert old in line
        line = line.replace(old, new)
    return run(line)


def assert_shape(shape: Any, value: Any, at: str = "$") -> None:
    """Check that a JSON value has every member of a shape, each of the right type.

    A shape is a type or a tuple of types, a literal, a mapping of members (more are allowed), or
    a list of one shape that every item of a non-empty list must have.
    """
    if isinstance(shape, dict):
        assert isinstance(value, dict), f"{at}: {value!r} is no object"
        for key, member in shape.items():
            assert key in value, f"{at}.{key} is missing in {value!r}"
            assert_shape(member, value[key], f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), f"{at}: {value!r} is no list"
        assert value, f"{at} is empty"
        for index, item in enumerate(value):
            assert_shape(shape[0], item, f"{at}[{index}]")
    elif isinstance(shape, type | tuple):
        wanted = shape if isinstance(shape, tuple) else (shape,)
        assert isinstance(value, wanted), f"{at}: {value!r} is none of {wanted}"
        if bool not in wanted and object not in wanted:
            assert not isinstance(value, bool), f"{at}: {value!r} is none of {wanted}"
    else:
        assert value == shape, f"{at}: {value!r} is not {shape!r}"


def assert_headers(reply: Reply, model: str | None = None) -> None:
    """Check the headers that every response has, and with a model those of a generation too."""
    headers = reply.headers
    assert headers["x-olla-backend-type"] == "sglang"
    assert re.fullmatch(r"\d+ms", headers["x-olla-response-time"])
    assert headers["x-request-id"] == headers["x-olla-request-id"] != ""
    if model is not None:
        assert headers["x-olla-model"] == model
        assert headers["x-olla-endpoint"]
        assert headers["x-sglang-cache-hit"] in {"true", "false", "unknown"}
        assert headers["x-sglang-spec-decode"] in {"true", "false", "unknown"}
