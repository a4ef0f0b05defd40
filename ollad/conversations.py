"""What was said so far, for ``/extend``: a bounded store of transcripts.

A conversation is in one of two places: idle, in order of last use, where it can expire or be
evicted; or busy, with an extension under way, where nothing touches it. Memory is bounded by
``conversations.max_bytes`` in both together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ollad.errors import BadRequestError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.config.schema import Conversations

__all__ = ["Conversation", "ConversationStats", "ConversationStore"]

_Key = tuple[str, str]

LONGEST_RID: Final = 256
"""Characters of a ``rid`` that can name a conversation."""

ENTRY_OVERHEAD: Final = 512
"""Bytes counted for an entry besides its strings, so that many small ones are bounded too."""

MOST_TOMBSTONES: Final = 1024
"""Conversations that outgrew the limit and are remembered to say so."""


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """One conversation as it was last left; each turn makes a new one.

    Attributes:
        tenant: whom it belongs to.
        rid: the client's name for it.
        text: all that was said, prompts and completions.
        model: the model it is held with, or None for the only one there is.
        tokens: length of ``text`` in tokens as of the last turn, or None if not known.
        size: bytes it is counted with.
        used: when it was last used, monotonic seconds.
    """

    tenant: str
    rid: str
    text: str
    model: str | None
    tokens: int | None
    size: int
    used: float

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by."""
        return self.tenant, self.rid


@dataclass(frozen=True, slots=True)
class ConversationStats:
    """How full a store is: conversations, those being extended, and bytes."""

    count: int
    busy: int
    bytes: int


class ConversationStore:
    """Transcripts by tenant and ``rid``.

    Args:
        settings: the limits.
        clock: monotonic time in seconds.
    """

    __slots__ = ("_busy", "_bytes", "_clock", "_idle", "_outgrown", "_settings")

    def __init__(self, settings: Conversations, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._idle: OrderedDict[_Key, Conversation] = OrderedDict()
        self._busy: dict[_Key, Conversation] = {}
        self._outgrown: OrderedDict[_Key, None] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<ConversationStore idle={len(self._idle)} busy={len(self._busy)} {self._bytes}B>"

    def resize(self, settings: Conversations) -> None:
        """Keep to other limits from now on."""
        self._settings = settings
        self._make_room(0)

    def stats(self) -> ConversationStats:
        """How full it is now."""
        self._expire()
        return ConversationStats(len(self._idle) + len(self._busy), len(self._busy), self._bytes)

    def put(
        self, tenant: str, rid: str, *, text: str, model: str | None, tokens: int | None
    ) -> bool:
        """Start a conversation, in place of an earlier one of that name.

        An extension of the earlier one that is under way ends without effect.

        Returns:
            Whether it is stored; not if its name or its text is too long, or other
            conversations that are being extended take up all the room.
        """
        self._expire()
        if not _valid(rid):
            return False
        return self._store(tenant, rid, text, model, tokens)

    def has(self, tenant: str, rid: str) -> bool:
        """Whether there is such a conversation."""
        self._expire()
        return (tenant, rid) in self._idle or (tenant, rid) in self._busy

    def forget(self, tenant: str, rid: str) -> None:
        """Drop a conversation, if there is one; an extension under way ends without effect."""
        self._forget((tenant, rid))

    def model_of(self, tenant: str, rid: str) -> str | None:
        """The model a conversation is held with, or None if there is no such conversation."""
        key = (tenant, rid)
        conversation = self._idle.get(key) or self._busy.get(key)
        return None if conversation is None else conversation.model

    def require(self, tenant: str, rid: str) -> None:
        """Refuse a ``rid`` under which there is nothing to extend.

        Raises:
            BadRequestError: ``rid`` cannot name a conversation.
            NotFoundError: there is none of that name.
        """
        if not _valid(rid):
            raise BadRequestError(
                f"'rid' must be 1 to {LONGEST_RID} printable characters.", param="rid"
            )
        if not self.has(tenant, rid):
            raise self._unknown((tenant, rid))

    def begin(self, tenant: str, rid: str) -> Conversation:
        """Begin to extend a conversation; ``end`` must follow, whatever happens.

        Raises:
            BadRequestError: ``rid`` cannot name a conversation.
            NotFoundError: there is none of that name.
            ConflictError: it is being extended already.
        """
        self.require(tenant, rid)
        key = (tenant, rid)
        if key in self._busy:
            raise ConflictError(
                f"The conversation {rid!r} is being extended by another request. "
                "Wait for that to end.",
                param="rid",
                code="conversation_busy",
            )
        conversation = self._busy[key] = self._idle.pop(key)
        return conversation

    def end(self, conversation: Conversation, text: str | None, tokens: int | None) -> None:
        """End what ``begin`` began.

        Args:
            conversation: what ``begin`` returned.
            text: all of the conversation now, or None to leave it as it was.
            tokens: its length in tokens, or None if not known.
        """
        key = conversation.key
        if self._busy.get(key) is not conversation:
            return  # a new conversation took its place
        self._expire()
        if text is None:
            text, tokens = conversation.text, conversation.tokens
        self._store(*key, text, conversation.model, tokens)

    def _store(
        self, tenant: str, rid: str, text: str, model: str | None, tokens: int | None
    ) -> bool:
        """Make this the idle conversation of its name, or leave none of that name."""
        key = (tenant, rid)
        self._forget(key)
        length = _utf8_length(text)
        if length > self._settings.max_conversation_bytes:
            self._outgrown[key] = None
            if len(self._outgrown) > MOST_TOMBSTONES:
                self._outgrown.popitem(last=False)
            return False
        size = length + _utf8_length(tenant) + _utf8_length(rid) + ENTRY_OVERHEAD
        if not self._make_room(size):
            return False
        self._idle[key] = Conversation(tenant, rid, text, model, tokens, size, self._clock())
        self._bytes += size
        return True

    def _make_room(self, size: int) -> bool:
        """Evict idle conversations, the longest unused first, until ``size`` more bytes fit."""
        room = self._settings.max_bytes - size
        if sum(conversation.size for conversation in self._busy.values()) > room:
            return False
        while self._bytes > room:
            _, evicted = self._idle.popitem(last=False)
            self._bytes -= evicted.size
        return True

    def _forget(self, key: _Key) -> None:
        for place in (self._idle, self._busy):
            conversation = place.pop(key, None)
            if conversation is not None:
                self._bytes -= conversation.size
        self._outgrown.pop(key, None)

    def _expire(self) -> None:
        oldest = self._clock() - self._settings.ttl
        while self._idle:
            key, conversation = next(iter(self._idle.items()))
            if conversation.used > oldest:
                break
            self._forget(key)

    def _unknown(self, key: _Key) -> NotFoundError:
        rid = key[1]
        if key in self._outgrown:
            reason = (
                f"The conversation {rid!r} grew over conversations.max_conversation_bytes "
                f"({self._settings.max_conversation_bytes} bytes) and was dropped."
            )
        else:
            reason = (
                f"There is no conversation {rid!r}: none was started with this rid by "
                f"/generate, or it was forgotten (after {self._settings.ttl:g} s without use, "
                "or earlier when memory is short)."
            )
        return NotFoundError(reason, param="rid", code="conversation_not_found")


def _valid(rid: str) -> bool:
    return 0 < len(rid) <= LONGEST_RID and rid.isprintable()


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
