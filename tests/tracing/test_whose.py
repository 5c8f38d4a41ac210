"""Real weights are never computed with beside a virtual GPU: a pipe is lent, or refused with what to do."""

import pytest
import torch
from loaded_worlds import call_of, everything, figures, sd15

from profiler.errors import InputError
from profiler.tracing import profile_pipeline, trace
from profiler.virtual import VirtualGPU

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the pipe itself is run"),
]
CALL = call_of(None)


@pytest.fixture(scope="module")
def pipe():
    """Return a loaded pipe, which no test changes."""
    return sd15()


@pytest.fixture(autouse=True)
def _pipe_is_left_as_it_was(pipe):
    before = everything(pipe)
    yield
    assert everything(pipe) == before


@pytest.fixture(scope="module")
def lent(pipe):
    return profile_pipeline(pipe, gpu="rtx-4060", mode="resident", **CALL)


def test_two_profiles_of_a_pipe_are_equal(pipe, lent):
    again = profile_pipeline(pipe, gpu="rtx-4060", mode="resident", **CALL)
    assert again.components == lent.components
    assert again.events == lent.events
    assert again.totals == lent.totals


def test_inside_a_virtual_gpu_a_loaded_pipe_is_lent_to_it(pipe, lent):
    with VirtualGPU("rtx-4060"):
        inside = profile_pipeline(pipe, mode="resident", **CALL)
        assert inside.totals.peak_allocated_bytes == lent.totals.peak_allocated_bytes
        assert torch.cuda.memory_allocated() < lent.totals.peak_allocated_bytes


def test_a_trace_of_real_weights_is_refused_with_what_to_do(pipe):
    with (
        pytest.raises(InputError, match=r'use profile_pipeline\(pipe, gpu="rtx-4090"\)'),
        trace(pipe),
    ):
        pytest.fail("it was traced")
    with (
        VirtualGPU("rtx-4060") as gpu,
        pytest.raises(InputError, match=r"^vae, text_encoder, unet: real weights"),
        trace(pipe),
    ):
        pytest.fail("it was traced")
    with VirtualGPU("rtx-4060") as gpu:
        twin = gpu.lend(pipe)
        with trace(twin) as tracing:
            twin.to("cuda")(**CALL)
    assert tracing.profile.complete


@pytest.mark.parametrize(
    "use",
    [
        lambda pipe: pipe.to("cuda"),
        lambda pipe: pipe.vae.cuda(),
        lambda pipe: pipe.vae.to("cuda:0", torch.float16),
        lambda pipe: pipe.vae.decode(torch.ones(1, 4, 8, 8)),
    ],
)
def test_real_weights_are_neither_moved_to_a_virtual_gpu_nor_computed_with(pipe, use):
    with VirtualGPU("rtx-4060"), pytest.raises(InputError, match=r"gpu\.lend\(pipe\)"):
        use(pipe)


def test_real_tensors_that_are_no_weights_go_to_a_virtual_gpu():
    real = torch.arange(4)
    with VirtualGPU("rtx-4060"):
        sent = [real.to("cuda"), real.cuda(), real.to(device="cuda"), real.cuda(0)]
        assert [(one.is_cuda, one.tolist()) for one in sent] == [(True, [0, 1, 2, 3])] * 4


def test_a_pipe_of_real_and_virtual_components_is_refused(pipe):
    with VirtualGPU("rtx-4060") as gpu:
        mixed = gpu.lend(pipe)
        mixed.vae = pipe.vae
        with pytest.raises(
            InputError, match=r"vae elsewhere; lend those .*pipe\.vae = gpu\.lend\(pipe\.vae\)"
        ):
            profile_pipeline(mixed, **CALL)
        with pytest.raises(InputError, match="vae: real weights"), trace(mixed):
            pytest.fail("it was traced")
        mixed.vae = gpu.lend(pipe.vae)
        assert profile_pipeline(mixed, **CALL, mode="resident").complete


def test_a_pipe_of_a_virtual_gpu_is_lent_to_another_and_after_its_end(lent):
    with VirtualGPU("rtx-4060"):
        built = sd15()
    assert figures(profile_pipeline(built, gpu="rtx-4060", mode="resident", **CALL)) == figures(
        lent
    )
    with VirtualGPU("rtx-4060"):
        inside = profile_pipeline(built, mode="resident", **CALL)
        assert inside.totals.peak_allocated_bytes == lent.totals.peak_allocated_bytes
        with (
            pytest.raises(InputError, match="weights of a virtual GPU that is not active"),
            trace(built),
        ):
            pytest.fail("it was traced")
