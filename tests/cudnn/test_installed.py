"""Where cuDNN is found, what its headers say, and what happens when it does not work."""

from __future__ import annotations

import pytest

from profiler.cudnn.convolution import Convolution
from profiler.cudnn.gpu_properties import properties
from profiler.cudnn.header import enumerators
from profiler.cudnn.installed import installed_cudnn
from profiler.cudnn.live import LiveCudnn
from profiler.gpus.hardware import gpu_spec, gpu_specs

PLAIN = Convolution(
    "float16", "nchw", (1, 4, 8, 8), (2, 4, 3, 3), (1, 2, 8, 8), (1, 1), (1, 1), (1, 1), 1, False
)


def installation(folder, version=(9, 20, 0)):
    """Make what a wheel of NVIDIA's puts into a folder, with a library that is none."""
    for name in ("cudnn/include", "cudnn/lib", "cu13/lib"):
        (folder / "nvidia" / name).mkdir(parents=True)
    lines = zip(("MAJOR", "MINOR", "PATCHLEVEL"), version, strict=True)
    header = "\n".join(f"#define CUDNN_{name} {number}" for name, number in lines)
    (folder / "nvidia/cudnn/include/cudnn_version.h").write_text(header)
    (folder / "nvidia/cudnn/include/cudnn_graph.h").write_text("enum { CUDNN_STATUS_SUCCESS = 0 };")
    (folder / "nvidia/cudnn/lib/libcudnn_graph.so.9").write_text("no library")
    for name in ("libcublasLt.so.13", "libcublas.so.13"):
        (folder / "nvidia/cu13/lib" / name).write_text("no library")
    return folder


def test_an_installation_is_found_with_its_version_and_what_it_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("VRAM_CUDNN", str(installation(tmp_path)))
    found = installed_cudnn()
    assert found is not None
    assert (found.name, found.version) == ("cuDNN 9.20.0", (9, 20, 0))
    assert found.library == tmp_path / "nvidia/cudnn/lib/libcudnn_graph.so.9"
    assert [path.name for path in found.needed()] == ["libcublasLt.so.13"]


@pytest.mark.parametrize("version", [(8, 9, 7), (9, 7, 1)])
def test_a_version_that_does_not_answer_without_a_gpu_is_none(tmp_path, monkeypatch, version):
    monkeypatch.setenv("VRAM_CUDNN", str(installation(tmp_path, version)))
    assert installed_cudnn() is None


def test_no_folder_is_no_installation(tmp_path, monkeypatch):
    for place in ("", str(tmp_path), str(tmp_path / "missing")):
        monkeypatch.setenv("VRAM_CUDNN", place)
        assert installed_cudnn() is None


def test_a_library_that_cannot_be_loaded_leaves_the_question_open(tmp_path, monkeypatch):
    monkeypatch.setenv("VRAM_CUDNN", str(installation(tmp_path)))
    live = LiveCudnn(installed_cudnn())
    try:
        gpu = properties(gpu_spec("h100-sxm"))
        for _ in range(2):
            assert live.workspaces(PLAIN, gpu, deterministic=False, tf32=True) is None
    finally:
        live.close()


def test_enumerators_count_on_from_the_last_number():
    text = """
    /* enum { CUDNN_NOT_THIS = 9 }; */
    typedef enum {
        CUDNN_ZERO,
        CUDNN_SEVEN CUDNN_DEPRECATED_ENUM = 7, // CUDNN_NOR_THIS,
        CUDNN_EIGHT,
        CUDNN_SAME = CUDNN_SEVEN,
        CUDNN_HEX = 0x10,
        CUDNN_LESS = -1,
    } cudnnKind_t;
    enum cudnnOther { CUDNN_AGAIN };
    """
    assert enumerators(text) == {
        "CUDNN_ZERO": 0,
        "CUDNN_SEVEN": 7,
        "CUDNN_EIGHT": 8,
        "CUDNN_SAME": 7,
        "CUDNN_HEX": 16,
        "CUDNN_LESS": -1,
        "CUDNN_AGAIN": 0,
    }


def test_known_nvidia_gpus_can_be_described_but_for_a_few():
    unknown = {spec.architecture for spec in gpu_specs() if properties(spec) is None}
    served_by_no_cudnn = {"apple", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1201"}
    not_asked_for = {"sm_60", "sm_61", "sm_87", "sm_103", "sm_110", "sm_121"}
    assert unknown == served_by_no_cudnn | not_asked_for
