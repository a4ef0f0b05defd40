"""A program in SGLang's own front-end language; prints what came out as one JSON object.

Runs in the virtual environment that ``setup.sh`` makes.

usage: client.py BASE_URL
"""

from __future__ import annotations

import json
import sys
from typing import Any

import sglang as sgl


@sgl.function
def answer(s: Any, question: str) -> None:
    """One question, answered with two generated texts; SGLang demands the name ``s``."""
    s += "Q: " + question + "\n"
    s += "A:" + sgl.gen("answer", max_tokens=12, temperature=0)
    s += "\nMore: " + sgl.gen("more", max_tokens=4, temperature=0)


@sgl.function
def choose(s: Any) -> None:
    """A choice, which the client makes by the log probabilities of a list of prompts."""
    s += "Is the river green? " + sgl.select("choice", ["yes", "no"])


def main() -> None:
    """Run the program against the server named on the command line."""
    backend = sgl.RuntimeEndpoint(sys.argv[1])
    sgl.set_default_backend(backend)
    question = "Where is the light house?"
    whole = answer.run(question=question)
    pieces = list(answer.run(question=question, stream=True).text_iter("answer"))
    batch = answer.run_batch([{"question": f"{n} {question}"} for n in range(4)], num_threads=4)
    print(
        json.dumps(
            {
                "model": backend.get_model_name(),
                "answer": whole["answer"],
                "more": whole["more"],
                "meta": whole.get_meta_info("answer"),
                "pieces": pieces,
                "batch": [state["answer"] for state in batch],
                "choice": choose.run()["choice"],
            }
        )
    )


if __name__ == "__main__":
    main()
