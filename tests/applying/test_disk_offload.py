"""Group offload to disk by diffusers' own hooks, on the virtual GPU: no weights are written, no file is left."""

import pytest
import safetensors.torch
import torch
from diffusers.hooks import apply_group_offloading
from tiny_folder import write_tiny_pipeline
from torch import nn

from profiler.errors import InputError
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

CALL = {"num_inference_steps": 2, "height": 64, "width": 64}


class Blocks(nn.Module):
    """Two blocks, which diffusers groups by their names."""

    def __init__(self, size):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(2))

    def forward(self, rows):
        for block in self.blocks:
            rows = block(rows)
        return rows


def on_disk(module, folder):
    apply_group_offloading(
        module,
        onload_device=torch.device("cuda"),
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(folder),
    )


def test_a_block_is_on_the_gpu_only_while_it_runs_and_comes_from_its_file(tmp_path):
    with VirtualGPU("rtx-4060") as gpu:
        model = Blocks(256)
        on_disk(model, tmp_path / "weights")
        files = sorted(tmp_path.rglob("*.safetensors"))
        assert [file.stat().st_size for file in files] == [0, 0]  # of each block, without weights
        rows = torch.empty(1, 256, device="cuda")
        gpu.need_blas_workspace()
        before, copied = torch.cuda.memory_allocated(), gpu.h2d_bytes
        torch.cuda.reset_peak_memory_stats()
        model(rows)
        # One block of 256 x 256 floats, its input and its output.
        assert torch.cuda.max_memory_allocated() - before <= 256 * 256 * 4 + 2 * 1024
        assert gpu.h2d_bytes - copied == 2 * 256 * 256 * 4
    assert list(tmp_path.iterdir()) == []


def test_components_in_one_folder_get_each_others_weights_as_in_diffusers(tmp_path):
    """The file's name says the group only: the second component finds the first one's, and reads it."""
    with VirtualGPU("rtx-4060"):
        first, second = Blocks(64), Blocks(32)
        on_disk(first, tmp_path)
        on_disk(second, tmp_path)
        with pytest.raises(RuntimeError, match=r"\[1, 32\] X \[64, 64\]"):
            second(torch.empty(1, 32, device="cuda"))
        assert first(torch.empty(1, 64, device="cuda")).shape == (1, 64)


def test_a_file_that_is_there_is_read_for_its_header_and_kept(tmp_path):
    path = tmp_path / "group.safetensors"
    safetensors.torch.save_file({"a": torch.ones(3, 5, dtype=torch.float16)}, path)
    before = path.read_bytes()
    with VirtualGPU("rtx-4060") as gpu:
        loaded = safetensors.torch.load_file(path, device="cuda")
        assert {name: (t.shape, t.dtype, t.is_cuda) for name, t in loaded.items()} == {
            "a": ((3, 5), torch.float16, True)
        }
        assert gpu.h2d_bytes == 30
        with pytest.raises(FileNotFoundError):
            safetensors.torch.load_file(tmp_path / "nothing.safetensors")
    assert path.read_bytes() == before


def test_tensors_that_safetensors_refuses_are_refused(tmp_path):
    path = tmp_path / "it.safetensors"
    with VirtualGPU("rtx-4060"):
        one = torch.empty(4, 6)
        with pytest.raises(RuntimeError, match="share memory"):
            safetensors.torch.save_file({"a": one, "b": one.view(6, 4)}, path)
        with pytest.raises(ValueError, match="non contiguous tensor: `a`"):
            safetensors.torch.save_file({"a": one.t()}, path)
    assert not path.exists()


@pytest.mark.parametrize("stream", [False, True])
def test_a_pipeline_offloads_each_component_into_a_folder_of_its_own(tmp_path, stream):
    folder = write_tiny_pipeline(tmp_path / "model")
    found = {}
    for disk in ("", str(tmp_path / "disk")):
        mode = Mode(name="group-leaf", stream=stream, disk=disk)
        with VirtualGPU("rtx-4060") as gpu:
            pipe = load_pipeline(folder)
            profile = profile_pipeline(pipe, mode=mode, **CALL)
            assert profile.complete, profile.error
            found[disk] = (profile.totals.peak_allocated_bytes, gpu.host.peak_pinned_bytes)
    peaks = {peak for peak, _ in found.values()}
    assert max(peaks) < 1.2 * min(peaks)
    if stream:  # pinned one group at a time, not all for good
        assert found[str(tmp_path / "disk")][1] < found[""][1]
    assert not (tmp_path / "disk").exists()


def test_disk_is_for_group_offload():
    with pytest.raises(InputError, match="--disk has no meaning in mode model"):
        Mode(name="model", disk="somewhere")
