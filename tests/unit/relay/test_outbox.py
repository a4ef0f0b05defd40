from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from ollad.relay.outbox import Outbox


class Transport:
    def __init__(self, *, closing: bool = False, broken: bool = False) -> None:
        self.written: list[bytes] = []
        self.closing = closing
        self.broken = broken

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("closed")
        self.written.append(data)

    def abort(self) -> None:
        self.closing = True


def write(outbox: Outbox, transport: Transport, data: bytes) -> None:
    outbox.write(cast("asyncio.Transport", transport), data)


async def test_what_is_written_in_a_turn_is_written_at_its_end_in_order() -> None:
    outbox, one, two = Outbox(), Transport(), Transport()
    for data in (b"a", b"b"):
        write(outbox, one, data)
        write(outbox, two, data)
    assert (one.written, len(outbox)) == ([], 4)
    await asyncio.sleep(0)
    assert (one.written, two.written, len(outbox)) == ([b"a", b"b"], [b"a", b"b"], 0)


async def test_each_turn_is_written_by_itself() -> None:
    outbox, one = Outbox(), Transport()
    for data in (b"a", b"b"):
        write(outbox, one, data)
        await asyncio.sleep(0)
        assert one.written[-1] == data


async def test_whoever_is_called_later_in_the_turn_finds_it_written() -> None:
    outbox, one = Outbox(), Transport()
    seen: list[list[bytes]] = []
    write(outbox, one, b"a")
    asyncio.get_running_loop().call_soon(lambda: seen.append([*one.written]))
    await asyncio.sleep(0)
    assert seen == [[b"a"]]


async def test_what_is_flushed_is_written_at_once_in_order_and_not_again() -> None:
    outbox, one, two = Outbox(), Transport(), Transport()
    outbox.flush()
    for data in (b"a", b"b"):
        write(outbox, one, data)
        write(outbox, two, data)
    outbox.flush()
    assert (one.written, two.written, len(outbox)) == ([b"a", b"b"], [b"a", b"b"], 0)
    await asyncio.sleep(0)
    assert (one.written, two.written) == ([b"a", b"b"], [b"a", b"b"])


async def test_what_is_written_after_a_flush_is_written_at_the_end_of_the_same_turn() -> None:
    outbox, one = Outbox(), Transport()
    write(outbox, one, b"a")
    outbox.flush()
    write(outbox, one, b"b")
    assert (one.written, len(outbox)) == ([b"a"], 1)
    await asyncio.sleep(0)
    assert (one.written, len(outbox)) == ([b"a", b"b"], 0)


async def test_a_flush_does_not_fail_at_a_transport_that_cannot_be_written_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outbox, broken, one = Outbox(), Transport(broken=True), Transport()
    for data in (b"a", b"b"):
        write(outbox, broken, data)
        write(outbox, one, data)
    outbox.flush()
    assert (one.written, broken.closing) == ([b"a", b"b"], True)
    assert capsys.readouterr().out.count("cannot be written to") == 1


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_what_is_closed_meanwhile_loses_what_waits_and_nobody_complains(
    end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    reader, other = await asyncio.open_connection(sock=theirs)
    outbox, transport = Outbox(), cast("asyncio.Transport", writer.transport)
    outbox.write(transport, b"a")
    getattr(transport, end)()
    await asyncio.sleep(0)
    outbox.write(transport, b"b")
    assert await reader.read() == b""
    other.close()
    assert capsys.readouterr().out == ""


async def test_a_transport_that_cannot_be_written_to_keeps_nobody_from_being(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outbox, broken, one = Outbox(), Transport(broken=True), Transport()
    write(outbox, broken, b"a")
    write(outbox, one, b"b")
    await asyncio.sleep(0)
    assert (one.written, broken.closing) == ([b"b"], True)
    assert "cannot be written to" in capsys.readouterr().out
