from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ollad.config.schema import Conversations
from ollad.conversations import (
    ENTRY_OVERHEAD,
    LONGEST_RID,
    MOST_TOMBSTONES,
    ConversationStats,
    ConversationStore,
)
from ollad.errors import BadRequestError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.conversations import Conversation


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


LIMITS = Conversations(ttl=60.0, max_bytes=4000, max_conversation_bytes=1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Callable[[], float]) -> ConversationStore:
    return ConversationStore(LIMITS, clock)


def put(store: ConversationStore, rid: str, text: str = "x", tenant: str = "") -> bool:
    return store.put(tenant, rid, text=text, model="m", tokens=7)


def test_a_conversation_is_continued_turn_by_turn(store: ConversationStore) -> None:
    assert put(store, "c", "one")
    first = store.begin("", "c")
    assert (first.text, first.tokens, first.model) == ("one", 7, "m")
    store.end(first, "one two", 9)
    second = store.begin("", "c")
    assert (second.text, second.tokens, second.model) == ("one two", 9, "m")


def test_a_failed_turn_leaves_the_conversation_as_it_was(store: ConversationStore) -> None:
    put(store, "c", "one")
    store.end(store.begin("", "c"), None, None)
    again = store.begin("", "c")
    assert (again.text, again.tokens) == ("one", 7)


def test_an_unknown_conversation_is_not_found(store: ConversationStore) -> None:
    with pytest.raises(NotFoundError, match="no conversation 'c'") as caught:
        store.begin("", "c")
    assert (caught.value.param, caught.value.code) == ("rid", "conversation_not_found")


def test_a_conversation_that_goes_on_elsewhere_can_be_forgotten(store: ConversationStore) -> None:
    put(store, "c", "one")
    assert store.has("", "c")
    store.forget("", "c")
    assert not store.has("", "c")
    store.forget("", "c")
    assert store.stats() == ConversationStats(0, 0, 0)


def test_an_extension_of_a_forgotten_conversation_ends_without_effect(
    store: ConversationStore,
) -> None:
    put(store, "c", "one")
    busy = store.begin("", "c")
    assert store.has("", "c")
    store.forget("", "c")
    store.end(busy, "one two", 9)
    assert store.stats() == ConversationStats(0, 0, 0)


def test_an_expired_conversation_is_there_no_more(store: ConversationStore, clock: Clock) -> None:
    put(store, "c", "one")
    clock.now += LIMITS.ttl + 1
    assert not store.has("", "c")


def test_tenants_do_not_see_each_others_conversations(store: ConversationStore) -> None:
    put(store, "c", "mine", tenant="a")
    with pytest.raises(NotFoundError):
        store.begin("b", "c")
    assert store.begin("a", "c").text == "mine"


def test_a_second_extension_at_once_is_a_conflict(store: ConversationStore) -> None:
    put(store, "c")
    first = store.begin("", "c")
    with pytest.raises(ConflictError, match="another request"):
        store.begin("", "c")
    store.end(first, None, None)
    store.begin("", "c")


def test_ending_twice_does_no_harm(store: ConversationStore) -> None:
    put(store, "c")
    first = store.begin("", "c")
    store.end(first, "new", 1)
    store.end(first, None, None)
    assert store.begin("", "c").text == "new"


def test_a_new_conversation_of_the_same_name_wins_over_an_extension(
    store: ConversationStore,
) -> None:
    put(store, "c", "old")
    extension = store.begin("", "c")
    put(store, "c", "new")
    store.end(extension, "old extended", 1)
    assert store.begin("", "c").text == "new"


def test_an_idle_conversation_is_forgotten_but_not_a_busy_one(
    store: ConversationStore, clock: Clock
) -> None:
    put(store, "idle")
    put(store, "busy")
    busy = store.begin("", "busy")
    clock.now += 59
    assert store.stats().count == 2
    clock.now += 1
    assert store.stats() == ConversationStats(1, 1, busy.size)
    store.end(busy, "more", 1)
    clock.now += 59
    assert store.begin("", "busy").text == "more"


def test_the_longest_unused_is_evicted_when_memory_is_short(store: ConversationStore) -> None:
    for rid in ("a", "b", "c", "d"):
        put(store, rid, "x" * (1000 - ENTRY_OVERHEAD - 1))
    store.end(store.begin("", "a"), None, None)
    put(store, "e", "")
    assert store.begin("", "a")
    with pytest.raises(NotFoundError):
        store.begin("", "b")


def test_busy_conversations_are_never_evicted(store: ConversationStore) -> None:
    room = "x" * (1000 - ENTRY_OVERHEAD - 1)
    for rid in ("a", "b", "c", "d"):
        put(store, rid, room)
    busy = [store.begin("", rid) for rid in ("a", "b", "c", "d")]
    assert not put(store, "e", room)
    store.end(busy[0], room + "y", 1)
    with pytest.raises(NotFoundError):
        store.begin("", "a")
    for conversation in busy[1:]:
        store.end(conversation, None, None)
        assert store.begin("", conversation.rid).text == room


def test_a_conversation_that_outgrew_the_limit_is_dropped_and_says_so(
    store: ConversationStore,
) -> None:
    put(store, "c")
    store.end(store.begin("", "c"), "é" * 501, 1)
    with pytest.raises(NotFoundError, match="max_conversation_bytes"):
        store.begin("", "c")
    assert put(store, "c", "é" * 500)
    assert store.begin("", "c").text == "é" * 500


def test_few_outgrown_conversations_are_remembered(store: ConversationStore) -> None:
    for number in range(MOST_TOMBSTONES + 1):
        assert not put(store, str(number), "x" * 1001)
    for rid, message in (("0", "no conversation"), ("1", "max_conversation_bytes")):
        with pytest.raises(NotFoundError, match=message):
            store.begin("", rid)


@pytest.mark.parametrize("rid", ["", "x" * (LONGEST_RID + 1), "a\nb", "\x00"])
def test_a_name_that_is_too_long_or_not_printable_is_refused(
    store: ConversationStore, rid: str
) -> None:
    assert not put(store, rid)
    with pytest.raises(BadRequestError, match="1 to 256 printable"):
        store.begin("", rid)


def test_its_repr_shows_its_state(store: ConversationStore) -> None:
    put(store, "c")
    put(store, "d")
    store.begin("", "d")
    assert repr(store) == f"<ConversationStore idle=1 busy=1 {2 * ENTRY_OVERHEAD + 4}B>"


RIDS = st.sampled_from(["a", "b", "c", "d", "e"])
TEXTS = st.integers(0, 1200).map("x".__mul__)


class StoreMachine(RuleBasedStateMachine):
    """Whatever is asked in whatever order, bounds hold and nobody sees another's text."""

    begun = Bundle("begun")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = ConversationStore(LIMITS, self.clock)
        self.last: dict[str, str] = {}
        self.open: dict[str, Conversation] = {}

    @rule(rid=RIDS, text=TEXTS)
    def put(self, rid: str, text: str) -> None:
        self.open.pop(rid, None)
        if put(self.store, rid, text):
            self.last[rid] = text
        else:
            self.last.pop(rid, None)

    @rule(target=begun, rid=RIDS)
    def begin(self, rid: str) -> Conversation | None:
        try:
            conversation = self.store.begin("", rid)
        except ConflictError:
            assert rid in self.open
            return None
        except NotFoundError:
            assert rid not in self.open
            return None
        assert rid not in self.open
        assert conversation.text == self.last[rid]
        self.open[rid] = conversation
        return conversation

    @rule(conversation=consumes(begun), text=TEXTS | st.none())
    def end(self, conversation: Conversation | None, text: str | None) -> None:
        if conversation is None:
            return
        self.store.end(conversation, text, None)
        if self.open.get(conversation.rid) is conversation:
            del self.open[conversation.rid]
            if text is not None:
                self.last[conversation.rid] = text

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def bounds_hold(self) -> None:
        stats = self.store.stats()
        held = [*self.store._idle.values(), *self.store._busy.values()]
        assert stats.bytes == sum(conversation.size for conversation in held)
        assert stats.bytes <= LIMITS.max_bytes
        assert stats.count == len(held)
        assert stats.busy == len(self.open)
        assert all(len(conversation.text) <= 1000 for conversation in held)
        assert all(self.last[conversation.rid] == conversation.text for conversation in held)


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestStore = StoreMachine.TestCase
