"""What is noted of entries that have changed: enough to tell it again, and never more than there is room for."""

from codegen_api.conversations import Form, Slot, TurnChanges
from codegen_api.conversations.late_changes import LateChanges

WAS, IS = Form(1, 1, 1, 1), Form(2, 1, 1, 2)


def test_what_is_noted_of_all_turns_together_is_bounded_however_they_grow() -> None:
    late = LateChanges(max_bytes=100_000)
    turns = [late.of(f"turn {n}") for n in range(50)]
    for offset in range(1, 200):
        for changes in turns:
            changes.record(offset, WAS)
            changes.record(offset, IS)
        assert late._changes.currsize <= 100_000
    assert 0 < sum(late.of(f"turn {n}") is changes for n, changes in reversed([*enumerate(turns)])) < 50


def test_a_turn_that_is_larger_than_all_the_room_goes_on_for_those_who_read_it() -> None:
    late = LateChanges(max_bytes=10_000)
    changes = late.of("turn")
    for form in (WAS, IS):
        for offset in range(1, 1000):
            changes.record(offset, form)
    assert late._changes.currsize == 0
    assert late.of("turn") is not changes
    altered = changes.of(999)
    assert altered is not None
    assert (altered.text, altered.outcome, altered.slot) == (False, True, None)


def test_what_changes_once_more_is_told_at_a_later_slot() -> None:
    changes = TurnChanges()
    changes.reach((3, True))
    changes.record(1, WAS)
    assert changes.of(1) is None
    slots = []
    for form in (IS, WAS, IS):
        changes.record(1, form)
        altered = changes.of(1)
        assert altered is not None
        slots.append(changes.take(altered, Slot(0, False), last=False))
    assert slots == [Slot(3, True, 0), Slot(3, True, 1), Slot(3, True, 2)]
    assert not changes.reach((2, True))
    assert changes.reach((4, False))
    assert altered is not None
    assert changes.take(altered, Slot(4, False, 7), last=False) == Slot(4, False, 8), "behind what a reader has"
