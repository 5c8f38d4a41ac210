"""A loaded pipe without a GPU is sized through its twin, and is not touched by it."""

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from pipeline_states import state_of
from torch import nn

from profiler.applying.hooks.pack import Pack, slots_of
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor([2.0]))

    @property
    def device(self):
        return self.first.weight.device

    @property
    def dtype(self):
        return self.first.weight.dtype

    def forward(self, x):
        return self.second(self.first(x)) * self.scale.item()


class Loaded(DiffusionPipeline):
    """A pipeline with real weights on the CPU."""

    model_cpu_offload_seq = "encoder->vae"

    def __init__(self, encoder, vae, scheduler):
        super().__init__()
        self.register_modules(encoder=encoder, vae=vae, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt="x", num_inference_steps=2):
        self.scheduler.set_timesteps(num_inference_steps)
        x = self.encoder(torch.ones(1, 64, device=self._execution_device))
        for step in self.scheduler.timesteps:
            x = self.scheduler.step(x, step, x).prev_sample
        latents = x[:, :16].reshape(1, 4, 2, 2)
        image = self.vae.decode(latents).sample.cpu().numpy()
        self.maybe_free_model_hooks()
        return image


@pytest.fixture
def pipe():
    vae = AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, latent_channels=4
    ).eval()
    return Loaded(Tied(), vae, DDPMScheduler())


def tensors_of(pipe):
    return {
        (name, key): (tensor.data_ptr(), tensor._version, type(tensor))
        for name in ("encoder", "vae")
        for key, tensor in getattr(pipe, name).state_dict(keep_vars=True).items()
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the pipe itself is run")
def test_profiling_a_loaded_pipe_runs_a_twin_and_leaves_the_pipe_untouched(pipe):
    before, image = (state_of(pipe), tensors_of(pipe)), pipe()
    profile = profile_pipeline(pipe, mode="model", num_inference_steps=3)
    assert (state_of(pipe), tensors_of(pipe)) == before
    assert (pipe() == image).all() or image.shape == pipe().shape
    moves = [(e.kind, e.component) for e in profile.events if e.kind in ("onload", "offload")]
    assert moves == [
        ("onload", "encoder"),
        ("offload", "encoder"),
        ("onload", "vae"),
        ("offload", "vae"),
    ]
    assert (profile.source, profile.mode, profile.complete) == ("predicted", "model", True)
    # 64 * 64 floats once, though two layers hold them, and the scale.
    assert profile.components[0].bytes == 64 * 64 * 4 + 4


def test_ties_stay_ties_and_small_buffers_keep_their_value(pipe):
    with VirtualGPU("rtx-4090") as gpu:
        twin = gpu.lend(pipe)
        assert twin.encoder.first.weight is twin.encoder.second.weight
        assert isinstance(twin.encoder.first.weight, nn.Parameter)
        assert twin.encoder.scale.tolist() == [2.0]
        twin.to("cuda")
        assert twin.encoder.first.weight.is_cuda
    assert pipe.encoder.first.weight.device.type == "cpu"


def test_hooks_of_the_original_stay_behind(pipe):
    with VirtualGPU("rtx-4090"):
        pass
    accelerate_hook = object()
    pipe.encoder._hf_hook = accelerate_hook
    pipe.encoder._old_forward = pipe.encoder.forward
    pipe.encoder.forward = lambda *_: pytest.fail("the original's forward ran")
    pipe._all_hooks = []
    with VirtualGPU("rtx-4090") as gpu:
        twin = gpu.lend(pipe).to("cuda")
        twin()
    assert pipe.encoder._hf_hook is accelerate_hook
    assert "_hf_hook" not in vars(twin.encoder)


def test_ctrl_c_in_the_middle_leaves_pipe_and_torch_untouched(pipe, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(DDPMScheduler, "step", interrupted)
    before = (state_of(pipe), tensors_of(pipe))
    with pytest.raises(KeyboardInterrupt):
        profile_pipeline(pipe, mode="model", gpu="rtx-4090")
    assert (state_of(pipe), tensors_of(pipe)) == before
    assert torch.ones(2).add_(1).tolist() == [2, 2]


class Outer(DiffusionPipeline):
    """A combined pipeline: it calls another one."""

    def __init__(self, encoder, vae, scheduler):
        super().__init__()
        self.register_modules(encoder=encoder, vae=vae, scheduler=scheduler)
        self.inner = Loaded(encoder, vae, scheduler)

    def __call__(self, prompt="x"):
        return self.inner(prompt)


def test_the_pipelines_inside_a_combined_one_are_lent_with_the_same_twins(pipe):
    outer = Outer(pipe.encoder, pipe.vae, pipe.scheduler)
    with VirtualGPU("rtx-4090") as gpu:
        twin = gpu.lend(outer)
        assert twin.inner.encoder is twin.encoder
        assert twin.inner is not outer.inner
        twin.to("cuda")()
    assert outer.inner.encoder.first.weight.device.type == "cpu"


def test_a_module_that_is_virtual_already_is_lent_as_one_in_host_memory():
    with VirtualGPU("rtx-3060") as gpu:
        model = torch.nn.Linear(256, 256, device="cuda")
        twin = gpu.lend(model)
        assert (twin.weight.device.type, model.weight.device.type) == ("cpu", "cuda")
        twin.to("cuda")
        assert torch.cuda.memory_allocated() == 2 * (4 * 256 * 256 + 4 * 256)


def test_parameters_that_lie_in_one_memory_count_by_their_own_size():
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    Pack().take_in(slots_of(model), pin=False)
    with VirtualGPU("rtx-4090") as gpu:
        twin = gpu.lend(model)
        assert gpu.host.pageable_bytes == 2 * (100 * 100 + 100) * 4
        assert twin[0].weight.storage_offset() == 0
