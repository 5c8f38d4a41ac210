"""What loading takes of the host, in worlds of a few bytes."""

import pytest

from profiler.libraries.loading_memory import Loading, WeightFile, loading_of, one_after_the_other

CAST = WeightFile(100, 50, stays=False)  # stored in single precision, loaded in half
PARTLY = WeightFile(100, 30)
AS_IT_IS = WeightFile(100)


@pytest.mark.parametrize(
    ("files", "at_once", "expected"),
    [
        ([AS_IT_IS, AS_IT_IS], False, (200, 200)),  # two mappings that stay
        ([CAST], False, (150, 50)),
        ([CAST, CAST], False, (200, 100)),  # 50 of the first, and 100 + 50 of the second
        ([CAST, CAST], True, (300, 100)),  # both mapped, and two copies
        ([PARTLY, CAST], False, (280, 180)),  # 100 + 30 stay, and 100 + 50
        ([], False, (0, 0)),
    ],
)
def test_a_component_needs_its_copies_and_what_is_mapped(files, at_once, expected):
    assert loading_of(files, at_once=at_once) == Loading(*expected)


def test_components_are_loaded_beside_those_before_them():
    assert one_after_the_other([Loading(30, 10), Loading(25, 20), Loading(5, 5)]) == (35, 35)
