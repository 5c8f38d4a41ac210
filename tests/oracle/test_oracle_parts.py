"""The parts of the oracle that are plain Python; the oracle itself is `make oracle`."""

import re
from pathlib import Path

import oracle_cases
import pytest
from oracle_compare import UNKNOWN, compare, report
from oracle_environment import FOLDER, folder_of, pinned_version
from oracle_history import Parting, partings
from stand_in_symbols import LIBRARIES, Library, parse_symbols, stubs, version_script, wanted_of

from profiler.pipelines import catalogue

HERE = Path(__file__).parent

LISTING = """
                 U cudaMalloc@libcudart.so.13
                 U cudnnCreate@libcudnn.so.9
0000000000000010 T cuInit
                 U cuFileOpen
                 U malloc@GLIBC_2.2.5
"""


def test_symbols_belong_to_their_version_or_else_by_their_name():
    symbols = parse_symbols(LISTING)
    assert symbols == {
        "cudaMalloc": "libcudart.so.13",
        "cudnnCreate": "libcudnn.so.9",
        "cuInit": "",
        "cuFileOpen": "",
        "malloc": "GLIBC_2.2.5",
    }
    owned = {library.soname: wanted_of(library, symbols) for library in LIBRARIES}
    assert {soname: names for soname, names in owned.items() if names} == {
        "libcudart.so.13": {"cudaMalloc"},
        "libcuda.so.1": {"cuInit"},
        "libcudnn.so.9": {"cudnnCreate"},
        "libcufile.so.0": {"cuFileOpen"},
    }


def test_a_stub_fails_where_torch_must_not_believe_it_but_destroying_succeeds():
    export = '__attribute__((visibility("default"))) int'
    assert stubs({"solve", "solverDestroy"}, 9).splitlines()[1:] == [
        f"{export} solve(void) {{ return 9; }}",
        f"{export} solverDestroy(void) {{ return 0; }}",
    ]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("libx.so.1", "libx.so.1 { global: *; };\n"), ("", "{ global: *; };\n")],
)
def test_symbols_get_the_version_that_torch_links_against(version, expected):
    assert version_script(Library("libx.so.1"), {"x": version}) == expected


def test_every_source_is_there_and_belongs_to_one_library():
    named = sorted(source for library in LIBRARIES for source in library.sources)
    assert named == sorted(path.name for path in (HERE / "runtime").glob("*.c"))


def test_no_source_contains_a_header_of_nvidia():
    for path in (HERE / "runtime").iterdir():
        assert not re.search(r"copyright.*nvidia", path.read_text(encoding="utf-8"), re.IGNORECASE)


def test_the_version_of_a_wheel_is_what_metadata_pins():
    metadata = """\
Metadata-Version: 2.4
Name: torch
Requires-Dist: cuda-toolkit[cublas,cudart]==13.0.3; platform_system == "Linux"
Requires-Dist: nvidia-cublas==13.1.1.3.*; extra == "cublas"
"""
    assert pinned_version(metadata, "cuda-toolkit") == "13.0.3"
    assert pinned_version(metadata, "nvidia-cublas") == "13.1.1.3.*"


def test_each_version_of_torch_has_an_environment_of_its_own():
    assert folder_of() == FOLDER
    assert folder_of("2.14.1").name == ".venv-oracle-2.14.1"


def test_the_matrix_covers_35_models_of_the_catalogue_and_400_calls():
    cases = oracle_cases.cases()
    assert len(cases) * oracle_cases.CALLS >= 400
    assert {case.model for case in cases} == set(oracle_cases.MODELS) <= set(catalogue())
    assert len(oracle_cases.MODELS) == 35
    assert {case.gpu for case in cases} == set(oracle_cases.GPUS)
    assert len({case.name for case in cases}) == len(cases)


def test_a_case_names_the_settings_of_the_allocator():
    case = oracle_cases.Case(
        gpu="t4", model="sd15", mode="model", expandable=True, settings="max_split_size_mb:64"
    )
    assert case.name == "t4 sd15 model expandable max_split_size_mb:64"
    assert case.allocator == "expandable_segments:True,max_split_size_mb:64"
    assert oracle_cases.Case(gpu="t4", model="sd15", mode="model").allocator == ""


def result(*calls, error=""):
    """Return what a side writes: allocated, reserved, segments and pinned of each call."""
    names = ("allocated", "reserved", "segments", "pinned")
    stages = [{"stage": "placed", **dict.fromkeys(names, 0)}]
    for number, figures in enumerate(calls, 1):
        failed = ", failed" * (bool(error) and number == len(calls))
        stages.append({"stage": f"call {number}{failed}", **dict(zip(names, figures, strict=True))})
    return {"case": "t4 sd15 model", "stages": stages, "error": error}


def test_calls_are_compared_to_the_byte_and_differences_have_a_cause():
    oracle = result((100, 200, 3, 8), (100, 200, 3, 8))
    found = compare([(oracle, result((100, 200, 3, 0), (100, 180, 2, 8)))])
    assert (found.calls, found.equal_in_all, found.models) == (2, 0, {"sd15"})
    assert found.equal == {"allocated": 2, "reserved": 1, "segments": 1, "pinned": 1}
    assert [(one.measure, one.cause) for one in found.differences] == [
        ("pinned", UNKNOWN),
        ("reserved", UNKNOWN),
        ("segments", UNKNOWN),
    ]
    assert "call 2: reserved 200, predicted 180 (-20, -10.000%)" in report(found)


def test_calls_that_fail_alike_are_compared_and_other_endings_are_told():
    failed = result((100, 200, 3, 0), error="OutOfMemoryError: so many bytes")
    alike = compare([(failed, result((100, 200, 3, 0), error="OutOfMemoryError: other words"))])
    assert (alike.calls, alike.failures, alike.ended_otherwise) == (1, 1, [])
    other = compare([(failed, result((100, 200, 3, 0), (100, 200, 3, 0)))])
    assert other.ended_otherwise == [
        "t4 sd15 model: call 1, failed, OutOfMemoryError; predicted: call 2"
    ]


def test_histories_part_where_they_differ_and_go_on_together():
    shared = [f"+{size}" for size in range(8)]
    oracle = ["+1", "+9", *shared, "-1"]
    predicted = ["+1", *shared, "-1", "S2"]
    assert list(partings(oracle, predicted)) == [
        Parting(1, ("+9",), ()),
        Parting(11, (), ("S2",)),
    ]
