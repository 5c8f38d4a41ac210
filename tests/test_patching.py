"""Replaced attributes come back as they were."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from interrupting import Interrupter

from profiler.errors import InputError
from profiler.patching import Patches, take_turn


class _Base:
    colour = "red"


class _Child(_Base):
    pass


def test_an_own_attribute_is_restored_and_an_inherited_one_is_own_no_more():
    thing = _Child()
    thing.size = 1
    with Patches() as patches:
        patches.replace(thing, "size", 2)
        patches.replace(thing, "size", 3)
        patches.replace(_Child, "colour", "blue")
        assert (thing.size, thing.colour) == (3, "blue")
    assert (vars(thing), thing.colour, "colour" in vars(_Child)) == ({"size": 1}, "red", False)


def test_restoring_twice_changes_nothing():
    thing = _Child()
    patches = Patches()
    patches.replace(thing, "size", 2)
    patches.restore()
    patches.restore()
    assert vars(thing) == {}


def test_an_interrupt_at_any_line_is_made_up_for_by_restoring_again():
    """At the first lines of `restore` nothing is put back; at all others everything is, at once."""
    thing, undone = SimpleNamespace(size=1), []

    def replaced_and_restored(patches):
        patches.afterwards(lambda: undone.append(thing.size))
        for size in (2, 3):
            patches.replace(thing, "size", size)
        patches.replace(thing, "name", "new")
        patches.restore()

    count = Interrupter().run(lambda: replaced_and_restored(Patches())).lines
    assert count > 50
    for at in range(1, count + 1):
        patches = Patches()
        Interrupter(at).run(lambda patches=patches: replaced_and_restored(patches))
        patches.restore()
        assert vars(thing) == {"size": 1}, at
    assert set(undone) == {1}


def test_two_that_leave_in_the_wrong_order_leave_nothing():
    thing = SimpleNamespace(size=1)
    first, second, third = Patches(), Patches(), Patches()
    for size, patches in ((2, first), (3, second), (4, third)):
        patches.replace(thing, "size", size)
    second.restore()
    assert thing.size == 4
    first.restore()
    assert thing.size == 4
    third.restore()
    assert thing.size == 1


def test_an_error_while_restoring_is_raised_after_the_rest_is_back():
    thing = SimpleNamespace(size=1)
    patches = Patches()
    patches.replace(thing, "size", 2)
    patches.afterwards(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        patches.restore()
    assert thing.size == 1
    patches.restore()


def in_a_thread(action, name):
    """Return what `action` returned, or the InputError that it raised, in a thread of its own, which has ended then."""
    box = []

    def run():
        try:
            box.append(action())
        except InputError as error:
            box.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    return box[0]


def test_another_thread_is_told_whose_turn_it_is():
    mine, again, theirs = Patches(), Patches(), Patches()
    take_turn("a trace", mine)
    take_turn("a virtual GPU", again)
    told = in_a_thread(lambda: take_turn("a trace", theirs), "worker")
    theirs.restore()
    assert isinstance(told, InputError)
    assert str(told).startswith("a trace is already active in thread 'MainThread'")
    assert "before entering a trace in thread 'worker'" in str(told)
    again.restore()
    assert isinstance(in_a_thread(lambda: take_turn("a trace", theirs), "worker"), InputError)
    theirs.restore()
    mine.restore()
    assert in_a_thread(lambda: take_turn("a trace", theirs), "worker") is None
    theirs.restore()


def test_what_an_ended_thread_left_standing_is_put_back_by_the_next():
    thing, left, next_ones = SimpleNamespace(size=1), Patches(), Patches()

    def leave_standing():
        take_turn("a trace", left)
        left.replace(thing, "size", 2)

    in_a_thread(leave_standing, "worker")
    assert thing.size == 2
    take_turn("a trace", next_ones)
    assert thing.size == 1
    next_ones.restore()
