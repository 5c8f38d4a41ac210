"""Replaced attributes come back as they were."""

from profiler.patching import Patches


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
