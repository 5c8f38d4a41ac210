"""Compiled code, and operators that take functions, on a virtual GPU, where nothing is compiled."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from profiler.errors import InputError
from profiler.units import MIB
from profiler.virtual import VirtualGPU

UNCOMPILED = ("torch.compile", "code runs as written, without what a compiler would fuse")

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")


@pytest.fixture(scope="module")
def compiled():
    """A function that was compiled, and run so; with the first one Dynamo changes `nn.Module` for good."""
    function = torch.compile(lambda numbers: numbers + 1, backend="eager")
    assert function(torch.ones(2)).tolist() == [2.0, 2.0]
    return function


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090") as gpu:
        torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda"))  # cuBLAS's workspace
        yield gpu


@pytest.fixture
def query(gpu):
    """Queries `[1, 8, 512, 64]`: half a MiB; a score for each pair takes 8 MiB in single precision."""
    return torch.zeros(1, 8, 512, 64, device="cuda", dtype=torch.bfloat16)


def peak_of(gpu, function):
    """Return what a call gives, and the most that it held in MiB."""
    before = gpu.allocator.allocated_bytes
    torch.cuda.reset_peak_memory_stats()
    result = function()
    return result, (gpu.allocator.peak_bytes - before) / MIB


def causal(batch, head, row, column):
    return row >= column


def distance(score, batch, head, row, column):
    return score + (row - column)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("score_mod", [None, distance])
def test_plain_flex_attention_holds_its_scores(gpu, query, masked, score_mod):
    """Three at once: the scores before and after they are changed, and their softmax; with a bool for each of them."""
    mask = create_block_mask(causal, None, None, 512, 512) if masked else None
    found, peak = peak_of(gpu, lambda: flex_attention(query, query, query, score_mod, mask))
    assert (found.device.type, found.dtype, found.shape) == ("cuda", query.dtype, query.shape)
    assert 3 * 8 + 2 < peak < 3 * 8 + 4
    assert not gpu.values.assumed


def test_flex_attention_gives_grouped_heads_and_its_statistics(gpu, query):
    out, aux = flex_attention(
        query, query[:, :2], query[:, :2], enable_gqa=True, return_aux=AuxRequest(lse=True)
    )
    assert (out.shape, aux.lse.shape, aux.lse.dtype) == (query.shape, (1, 8, 512), torch.float32)


def test_flex_attention_is_cast_under_autocast(gpu, query):
    with torch.autocast("cuda", torch.float16):
        assert flex_attention(*[query.float()] * 3).dtype == torch.float16


def test_compiled_flex_attention_holds_none_of_its_scores(gpu, query):
    """An output, and two numbers in single precision for each query and head."""
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = create_block_mask(causal, None, None, 512, 512)
    found, peak = peak_of(gpu, lambda: compiled(query, query, query, block_mask=mask))
    numbers = 2 * 8 * 512 * 4
    assert (found.shape, peak) == (query.shape, (MIB / 2 + numbers) / MIB)


def test_compiled_code_runs_as_written_and_says_so(gpu):
    layer = nn.Linear(8, 8).to("cuda")
    image = torch.zeros(2, 8, device="cuda")
    for compiled in (torch.compile(layer), torch.compile(layer.forward, fullgraph=True)):
        assert compiled(image).shape == (2, 8)
    layer.compile()
    assert layer(image).shape == (2, 8)
    assert gpu.values.assumed[UNCOMPILED] == 3


def test_what_was_compiled_before_runs_as_written_and_torch_is_left_as_it_was(compiled):
    def state():
        return torch.compile, torch._dynamo.eval_frame._callback_from_stance

    before = state()
    with VirtualGPU("rtx-4090") as gpu:
        assert compiled(torch.ones(2, device="cuda")).tolist() == [2.0, 2.0]
        assert gpu.values.assumed[UNCOMPILED] == 1
    assert state() == before


def test_a_branch_is_taken_by_the_value_of_its_condition(gpu):
    for condition, right in ((True, 2.0), (False, 0.0)):
        numbers = torch.ones(2, device="cuda")
        chosen = torch.cond(
            torch.tensor(condition, device="cuda"),
            lambda x: x + torch.ones(2, device="cuda"),
            lambda x: x - 1,
            (numbers,),
        )
        assert (chosen.device.type, chosen.tolist()) == ("cuda", [right] * 2)


def test_loops_and_scans_run(gpu):
    begin = (torch.tensor(0, device="cuda"), torch.ones(2, device="cuda"))
    _, powers = while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), begin)
    sums = associative_scan(
        lambda a, b: a + b, torch.ones(4, device="cuda"), dim=0, combine_mode="generic"
    )
    assert (powers.tolist(), sums.tolist()) == ([8.0, 8.0], [1.0, 2.0, 3.0, 4.0])


def test_an_operator_that_cannot_be_followed_is_refused_in_a_sentence(gpu):
    with pytest.raises(InputError, match=r"cannot follow torch.ops.higher_order.scan: leave out"):
        scan(lambda c, x: (c + x, c), torch.ones(2, device="cuda"), torch.ones(3, 2, device="cuda"))
