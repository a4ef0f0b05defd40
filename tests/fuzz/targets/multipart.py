"""The look into forms."""

from __future__ import annotations

from ollad.multipart import form_field

__all__ = ["check_multipart"]


def check_multipart(data: bytes) -> None:
    """Whatever the form, a field that is found stands where it is said to stand."""
    boundary, _, body = data.partition(b"\n")
    if not boundary or not boundary.isascii():
        return
    for name in ("model", ""):
        found = form_field(body, boundary.decode(), name)
        if found is None:
            continue
        assert 0 < found.start <= found.end <= len(body)
        assert body[found.start : found.end].decode() == found.value
        assert b"\r\n--" + boundary not in body[found.start : found.end]
        assert body.startswith(b"\r\n--" + boundary, found.end)
        assert body[: found.start].endswith(b"\r\n\r\n")
