"""What is fuzzed, by name.

A target is opened once and then called with one input after another; it raises AssertionError, or
whatever the code under test let out, when an input finds a mistake.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from tests.fuzz.targets.configuration import check_configuration
from tests.fuzz.targets.events import check_events
from tests.fuzz.targets.exposition import check_exposition
from tests.fuzz.targets.headers import check_headers
from tests.fuzz.targets.json_body import check_json_body
from tests.fuzz.targets.multipart import check_multipart
from tests.fuzz.targets.replies import open_replies
from tests.fuzz.targets.requests import open_requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["TARGETS"]

TARGETS: dict[str, Callable[[], AbstractContextManager[Callable[[bytes], None]]]] = {
    "requests": open_requests,
    "headers": lambda: nullcontext(check_headers),
    "configuration": lambda: nullcontext(check_configuration),
    "replies": open_replies,
    "json_body": lambda: nullcontext(check_json_body),
    "multipart": lambda: nullcontext(check_multipart),
    "events": lambda: nullcontext(check_events),
    "exposition": lambda: nullcontext(check_exposition),
}
