"""Components whose blocks travel: event for event on the virtual GPU, bit for bit on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate.hooks import remove_hook_from_module
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from profiler.allocator.pinned_chunks import pinned_bytes
from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.pinned import PinnedOffload
from profiler.applying.hooks.streamed import StreamedOffload
from profiler.applying.hooks.swaps import hang_up
from profiler.libraries.modules import blocks_of
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.usefixtures("one_thread")

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
BLOCK = 4000  # bytes of weights in a block; 4096 on the GPU
EMBED = 2000  # bytes of the rest; 2048 on the GPU, as is every activation
INDEX = 24  # bytes of the integers in a block, which do not travel; 512 on the GPU


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(BLOCK // 4))
        self.register_buffer("index", torch.arange(3))

    def forward(self, x):
        return x + self.weight


class Model(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.embed = nn.Parameter(torch.empty(EMBED // 4))
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.order = range(count)

    def forward(self, x):
        for index in self.order:
            x = self.blocks[index](x)
        return x


def hook(device, *, resident_blocks, rest=DropOffload, stays=False):
    return StreamedOffload(rest(device), resident_blocks=resident_blocks, stays=stays)


def streamed(model, **options):
    """Hook a model on the virtual GPU, and run what comes before its first call."""
    hang_up(model, hook(CUDA, **options))
    return torch.empty(BLOCK // 4, device="cuda")


def log_of(profile, call=0):
    """Return what happened in a call: (what, bytes that crossed the link, allocated bytes after)."""
    letters = {"onload": "+", "offload": "-", "enter": ">", "exit": "<"}
    return [
        (letters[e.kind] + e.group, e.bytes, e.after_bytes)
        for e in profile.events
        if e.call == call and e.kind in letters
    ]


def test_every_block_travels():
    """One block computes while the next comes; x and its successor take 4096 bytes each."""
    with VirtualGPU(capacity="2GiB"):
        model = Model(3)
        with trace(model) as t:
            x = streamed(model, resident_blocks=0)
            model(x)
    rest = 2048 + 3 * 512
    x, two = 4096, 2 * 4096
    assert log_of(t.profile) == [
        (">", 0, x),
        ("+", EMBED + 3 * INDEX, x + rest),
        ("+blocks.0", BLOCK, x + rest + 4096),
        ("+blocks.1", BLOCK, x + rest + two),
        ("-blocks.0", 0, 2 * x + rest + 4096),
        ("+blocks.2", BLOCK, 2 * x + rest + two),
        # Its output is there, and its input: the second activation goes when the loop takes the third.
        ("-blocks.1", 0, 3 * x + rest + 4096),
        ("-blocks.2", 0, 3 * x + rest),
        ("<", 0, 2 * x + rest),
    ]
    peaks = [max(e.lead_peak_bytes, e.peak_bytes) for e in t.profile.events]
    assert max(peaks) == 3 * x + rest + two


def test_some_blocks_stay():
    """Of three blocks the middle one travels if two stay."""
    with VirtualGPU(capacity="2GiB"):
        model = Model(3)
        with trace(model) as t:
            x = streamed(model, resident_blocks=2)
            model(x)
    rest, x = 2048 + 3 * 512 + 2 * 4096, 4096
    assert log_of(t.profile) == [
        (">", 0, x),
        ("+", EMBED + 3 * INDEX + 2 * BLOCK, x + rest),
        ("+blocks.1", BLOCK, x + rest + 4096),
        ("-blocks.1", 0, 3 * x + rest),
        ("<", 0, 2 * x + rest),
    ]


def test_rest_that_stays_is_brought_once():
    with VirtualGPU(capacity="2GiB"):
        model = Model(3)
        with trace(model) as t:
            x = streamed(model, resident_blocks=1, stays=True)
            model(x)
            model(x)
    rest = EMBED + 3 * INDEX + BLOCK
    assert [e.bytes for e in t.profile.events if e.call < 0] == [rest]
    travelling = [("+blocks.0", BLOCK), ("+blocks.2", BLOCK), ("-blocks.0", 0), ("-blocks.2", 0)]
    for call in range(2):
        moves = [move for move in log_of(t.profile, call) if move[0] not in "<>"]
        assert [move[:2] for move in moves] == travelling


@pytest.mark.parametrize(
    ("order", "moves"),
    [
        ([0, 1, 2], "+0 +1 -0 +2 -1 -2"),
        ([1, 0, 2], "+0 -0 +1 +2 -1 -2 +0 +1 -0 -1 +2 -2"),
        ([0, 0, 1, 2], "+0 +1 -0 -1 +0 +1 -0 +2 -1 -2"),
        ([0, 2], "+0 +1 -0 -1 +2 -2"),
        ([2], "+0 -0 +2 -2"),
        ([0], "+0 +1 -0 -1"),
        ([], "+0 -0"),
    ],
)
def test_blocks_called_out_of_turn_twice_or_not_at_all(order, moves):
    with VirtualGPU(capacity="2GiB"):
        model = Model(3)
        x = streamed(model, resident_blocks=0, stays=True)
        model.order = order
        with trace(model) as t:
            for _ in range(2):
                held = torch.cuda.memory_allocated()
                model(x)
                assert torch.cuda.memory_allocated() == held
    told = [e for e in t.profile.events if e.kind in ("onload", "offload")]
    signs = {"onload": "+", "offload": "-"}
    assert " ".join(signs[e.kind] + e.group[-1] for e in told) == f"{moves} {moves}"


def test_pinned_memory_is_what_the_packing_says():
    with VirtualGPU(capacity="2GiB") as gpu:
        model = Model(5)
        streamed(model, resident_blocks=2, rest=PinnedOffload)
        travelling, rest = [BLOCK] * 3, [EMBED, BLOCK, BLOCK]
        assert gpu.host.pinned_bytes == pinned_bytes(travelling) + pinned_bytes(rest)
        model.order = range(5)
        remove_hook_from_module(model)
        assert gpu.host.pinned_bytes == 0


def test_copies_run_beside_the_computing():
    """Uploads are hidden behind the block before, and the host waits for none."""

    class Slow(Block):
        def forward(self, x):
            for _ in range(50):
                x = x @ self.weight.view(-1)[: 2048 * 2048].view(2048, 2048)
            return x

    def model():
        made = Model(0)
        for _ in range(6):
            block = Slow()
            block.weight = nn.Parameter(torch.empty(1 << 22))
            made.blocks.append(block)
        made.order = range(6)
        return made

    with VirtualGPU("rtx-4090"):
        x = torch.empty(2048, 2048, device="cuda")
        still, travelling = model().to("cuda"), model()
        streamed(travelling, resident_blocks=0, stays=True)
        spent = {}
        for name, one in (("still", still), ("travelling", travelling)):
            one(x)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            one(x)
            end.record()
            spent[name] = begin.elapsed_time(end)
        upload = (4 << 22) / VirtualGPU("rtx-4090").spec.pinned_bytes_per_second * 1000
    # Only the first block is waited for.
    assert spent["travelling"] == pytest.approx(spent["still"] + upload, rel=0.02)


def test_failed_forward_leaves_nothing_behind_for_the_next():
    with VirtualGPU(capacity="2GiB"):
        model = Model(3)
        x = streamed(model, resident_blocks=0, stays=True)
        held = torch.cuda.memory_allocated()
        broken = nn.Parameter(torch.empty(7, device="cuda"))
        with pytest.raises(RuntimeError):
            model(broken)
        model(x)
        del broken
        assert torch.cuda.memory_allocated() == held


def test_taking_the_hook_off_leaves_the_module_as_it_was():
    with VirtualGPU(capacity="2GiB"):
        model = Model(3)
        before = {path: set(vars(part)) for path, part in model.named_modules()}
        x = streamed(model, resident_blocks=1)
        model(x)
        remove_hook_from_module(model)
        vars(model).pop("forward")  # accelerate's own way leaves it there
        assert {path: set(vars(part)) for path, part in model.named_modules()} == before
        assert {str(one.device) for one in model.state_dict().values()} == {"cpu"}
        hang_up(model, hook(CUDA, resident_blocks=0))
        model(x)


def flux():
    model = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return model, {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
        "return_dict": False,
    }


def unet():
    """Its middle is a module after the ways up and down, so that blocks are called out of turn."""
    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    given = {"sample": torch.randn(1, 4, 16, 16), "timestep": 3, "return_dict": False}
    return model, {**given, "encoder_hidden_states": torch.randn(1, 5, 32)}


def vae():
    model = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return model, {"sample": torch.randn(1, 3, 16, 16), "return_dict": False}


def t5():
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "vocab_size": 64}
    model = T5EncoderModel(T5Config(**sizes, num_layers=3))
    return model, {"input_ids": torch.arange(9)[None], "return_dict": False}


def clip():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 64}
    model = CLIPTextModel(CLIPTextConfig(**sizes, **ends, num_hidden_layers=3))
    return model, {"input_ids": torch.arange(9)[None], "return_dict": False}


PATHS = {
    flux: ["transformer_blocks.0", "transformer_blocks.1"]
    + [f"single_transformer_blocks.{i}" for i in range(3)],
    t5: [f"encoder.block.{i}" for i in range(3)],
    clip: [f"encoder.layers.{i}" for i in range(3)],
}


@pytest.mark.parametrize("make", PATHS)
def test_blocks_are_what_the_outermost_lists_hold(make):
    assert list(blocks_of(make()[0])) == PATHS[make]


def test_lists_in_lists_are_no_blocks():
    inner = nn.ModuleList([nn.Linear(1, 1), nn.ModuleDict({"a": nn.Linear(1, 1)})])
    model = nn.ModuleDict({"layers": nn.ModuleList([inner, nn.Sequential(nn.Linear(1, 1))])})
    assert list(blocks_of(model)) == ["layers.0.0", "layers.0.1.a", "layers.1"]


@pytest.mark.parametrize("make", [flux, unet, vae, t5, clip])
def test_results_are_bit_for_bit_the_same(make):
    model, given = make()
    model.eval()
    plain = copy.deepcopy(model)
    count = len(blocks_of(model))
    with torch.no_grad():
        expected = plain(**given)[0]
        for resident in (0, 1, count - 1):
            for stays in (False, True):
                hang_up(model, hook(CPU, resident_blocks=resident, stays=stays))
                for _ in range(2):
                    assert torch.equal(model(**given)[0], expected)
                remove_hook_from_module(model)
    weights = zip(model.state_dict().values(), plain.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)


def test_weights_that_are_written_to_or_cast_in_between_are_taken_along():
    model = Model(2)
    with torch.no_grad():
        for block in model.blocks:
            block.weight.fill_(1)
    hang_up(model, hook(CPU, resident_blocks=0))
    with torch.no_grad():
        assert model(torch.zeros(1000)).unique().tolist() == [2.0]
        model.blocks[0].weight += 1
        model.blocks[1].weight.data = torch.full((1000,), 5.0)
        assert model(torch.zeros(1000)).unique().tolist() == [7.0]
        model.double()
        assert model(torch.zeros(1000)).dtype == torch.float64
