"""The series that requests of one kind count in, at hand.

Looking up the child of each metric by its labels costs more than counting does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollad.metrics.counter import Count
    from ollad.metrics.histogram import Observations

__all__ = ["PageHistograms", "Series"]


@dataclass(frozen=True, slots=True)
class PageHistograms:
    """ollad's own measurements of one backend and model, for ``/olla/sglang/metrics``.

    Attributes:
        duration: seconds from the arrival of a request to the end of its reply.
        first_token: seconds from the arrival of a request to the first byte of a streamed reply.
    """

    duration: Observations
    first_token: Observations


@dataclass(slots=True)
class Series:
    """What requests of one family, model, status and backend count in.

    What only some of them count in is None until one does: a series is shown once it is there.

    Attributes:
        in_flight: requests whose answer has not ended.
        requests: requests answered.
        duration: seconds from the arrival of a request to the end of its answer.
        body_in: bytes of request bodies.
        body_out: bytes of response bodies.
        input: tokens of prompts.
        output: tokens of completions.
        cached: tokens of prompts that the radix cache had.
        served: exchanges with the backend that went well.
        first_byte: seconds from the start of an exchange to the first byte of the reply's body.
        page: the page's measurements.
    """

    in_flight: Count
    requests: Count
    duration: Observations
    body_in: Count | None = None
    body_out: Count | None = None
    input: Count | None = None
    output: Count | None = None
    cached: Count | None = None
    served: Count | None = None
    first_byte: Observations | None = None
    page: PageHistograms | None = None
