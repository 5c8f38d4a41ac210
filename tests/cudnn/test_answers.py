"""The packaged answers, the rules that stand in for them, and which of the two is taken."""

from __future__ import annotations

import pytest

from profiler.cudnn import answers
from profiler.cudnn.convolution import Convolution
from profiler.cudnn.gpu_properties import kind_of, properties
from profiler.cudnn.installed import installed_cudnn
from profiler.cudnn.live import LiveCudnn
from profiler.cudnn.rules import copied_bytes, estimate
from profiler.cudnn.shipped import CONVOLUTIONS, VERSION, shipped_chain, shipped_lines
from profiler.gpus.hardware import gpu_spec, gpu_specs
from profiler.units import MIB

# Stable Diffusion's VAE: 512 x 512 pixels of 128 channels, half precision.
DECODER = Convolution.parse("f16 nchw 1,128,512,512 128,128,3,3 1,128,512,512 1,1 1,1 1,1 1")


# The architectures whose multiprocessors are described. Pascal is none of cuDNN 9.20's for CUDA 13; the Jetsons, GB10
# and B300 were not asked for. Their convolutions go by rule.
KINDS = sorted({kind_of(spec) for spec in gpu_specs() if properties(spec) is not None})


@pytest.fixture(scope="module")
def texts():
    return shipped_lines(CONVOLUTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_gpu_has_an_answer_to_every_convolution_that_it_gives_cudnn(kind, texts):
    parsed = [Convolution.parse(text) for text in texts]
    assert [one.text() for one in parsed] == texts == sorted(texts)
    lines = shipped_lines(kind)
    missing = {one.dtype for one, line in zip(parsed, lines, strict=True) if not line}
    assert missing == ({"bfloat16"} if kind in ("sm_70", "sm_75") else set())


@pytest.mark.parametrize("kind", KINDS)
def test_plans_take_less_and_less_down_to_nothing(kind):
    for line in filter(None, shipped_lines(kind)):
        chain = [int(word) for word in line.split()]
        assert chain == sorted(set(chain), reverse=True)
        assert chain[-1] == 0


def test_an_answer_names_who_gave_it():
    found = answers.answer(gpu_spec("rtx-4090"), DECODER, deterministic=False, tf32=True)
    # Input and output, 64 MiB each; the weight; 16 bytes.
    assert found.workspaces[0] == 128 * MIB + 128 * 128 * 9 * 2 + 16
    assert found.source == "cuDNN 9.20.0"


def test_what_the_table_does_not_hold_has_no_answer_without_a_cudnn():
    odd = DECODER._replace(image=(1, 128, 511, 512), output=(1, 128, 511, 512))
    asked = [(odd, True), (DECODER._replace(dtype="float32"), False)]
    for convolution, tf32 in asked:
        assert (
            answers.answer(gpu_spec("rtx-4090"), convolution, deterministic=False, tf32=tf32)
            is None
        )


def test_a_large_batch_is_copied_in_parts_and_a_huge_image_not_at_all():
    """In elements: an image of 2^28, of which eight are copied at a time; one of 2^31 is, one of more is not."""
    one = Convolution.parse("f16 nchw 9,256,1024,1024 256,256,1,1 9,256,1024,1024 1,1 0,0 1,1 1")
    weight = 256 * 256 * 2
    assert copied_bytes(one) == (8 * 2**28 * 2 + weight, 8 * 2**28 * 2)
    whole = one._replace(image=(1, 256, 8192, 1024), output=(1, 256, 8192, 1024))
    assert copied_bytes(whole) == (2**32 + weight, 2**32)
    huge = one._replace(image=(1, 256, 8192, 1025), output=(1, 256, 8192, 1025))
    assert copied_bytes(huge) == (0, 0)


def test_channels_are_rounded_up_for_the_tensor_cores():
    """Input of 3 and output of 5 channels: 8 each in half precision, 4 and 8 in single."""
    one = Convolution.parse("f16 nchw 2,3,10,10 5,3,3,3 2,5,10,10 1,1 1,1 1,1 1")
    assert copied_bytes(one) == ((2 * 8 * 100 + 8 * 8 * 9) * 2, 2 * 8 * 100 * 2)
    single = one._replace(dtype="float32")
    assert copied_bytes(single) == ((2 * 4 * 100 + 8 * 4 * 9) * 4, 2 * 8 * 100 * 4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("sm_")])
def test_the_rules_bounds_hold_what_cudnn_answers(kind, texts):
    """Of what is above 200 MB; the few outside take less than is copied, of which no shape tells."""
    capability = (int(kind[3:-1]), int(kind[-1]))
    asked = inside = 0
    for text in texts:
        found = estimate(capability, Convolution.parse(text))
        taken = (shipped_chain(kind, text) or (0,))[0]
        if max(taken, found.nbytes) > 200e6:
            asked += 1
            inside += found.least * 0.99 <= taken <= found.most
    assert inside >= 0.93 * asked


def test_an_installed_cudnn_gives_the_packaged_answers(texts, monkeypatch):
    monkeypatch.delenv("VRAM_CUDNN")
    installed = installed_cudnn()
    if installed is None or installed.version != VERSION:
        pytest.skip("cuDNN {}.{}.{} is not installed".format(*VERSION))
    live = LiveCudnn(installed)
    try:
        for name in ("rtx-4090", "h100-sxm"):
            spec = gpu_spec(name)
            for text in texts[::50]:
                found = live.workspaces(
                    Convolution.parse(text), properties(spec), deterministic=False, tf32=True
                )
                assert tuple(found) == shipped_chain(kind_of(spec), text), text
    finally:
        live.close()
