"""Blocks that an operator takes around its outputs, and the scratch memory of reductions by hand."""

from __future__ import annotations

import pytest
import torch

from profiler.gpus.hardware import gpu_spec
from profiler.virtual.operators.reductions import scratch_bytes
from profiler.virtual.operators.tensor_iterator import pointwise_strides
from profiler.virtual.steps import OUTPUT, HeldBlocks, Output, around_work


@pytest.mark.parametrize(
    ("steps", "until_work", "afterwards"),
    [
        ((8,), (OUTPUT, 8), ()),
        ((8, OUTPUT), (8, OUTPUT), ()),
        ((4, OUTPUT, 8, -4, -8), (4, OUTPUT, 8), (-4, -8)),
        ((8, -8, 2), (OUTPUT, 8, -8, 2), ()),
        ((Output(1),), (Output(1), OUTPUT), ()),
    ],
)
def test_the_kernel_runs_before_the_last_blocks_are_freed(steps, until_work, afterwards):
    assert around_work(steps) == (until_work, afterwards)


def test_blocks_are_freed_when_it_is_said_and_the_rest_the_last_one_first():
    log = []

    def allocate(nbytes):
        log.append(nbytes)
        return nbytes

    held = HeldBlocks(allocate, lambda block: log.append(-block))
    for step in (1, 2, 3, -2, 4):
        held.take(step)
    held.free_all()
    assert log == [1, 2, 3, -2, 4, -4, -3, -1]


def meta(*shape):
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize(
    ("gpu", "source", "dims", "expected"),
    [
        # 2^24 numbers by blocks of 32 x 16 threads, 32768 a thread. 132 multiprocessors hold 4 blocks each: 528 parts.
        ("h100-sxm", meta(1 << 24), None, (528 * 4, 4)),
        # 128 multiprocessors with 1536 threads hold 3 blocks each, 40 with 1024 threads 2.
        ("rtx-4090", meta(1 << 24), None, (384 * 4, 4)),
        # More than 256 numbers a thread are never left: 2^24 / 512 / 256 = 128 parts, not 80.
        ("t4", meta(1 << 24), None, (128 * 4, 4)),
        # 2^17 numbers, 256 a thread: parts of 16 numbers a thread.
        ("h100-sxm", meta(1 << 17), None, (16 * 4, 4)),
        # Fewer than 256 a thread: one block.
        ("h100-sxm", meta(1 << 16), None, ()),
        # As many outputs as fill the GPU.
        ("h100-sxm", meta(4096, 4096), [1], ()),
        ("h100-sxm", meta(0), None, ()),
    ],
)
def test_a_reduction_takes_partial_results_and_semaphores(gpu, source, dims, expected):
    assert scratch_bytes(gpu_spec(gpu), source, dims, 4) == expected


def test_pointwise_results_are_laid_out_as_tensor_iterator_does():
    def strides(function, *given):
        return pointwise_strides([one.to("meta") for one in given], function(*given).shape)

    whole = torch.zeros(2, 8, 4, 6)
    last = whole.to(memory_format=torch.channels_last)
    halves = torch.zeros(1, 8, 4, 6)[:, :4]
    for given in (
        (whole, whole),
        (last, last),
        (whole, last),
        (last, whole),
        (last, whole[:, :1, :1]),
        (whole[:, :1, :1], last),
        (halves, halves),
        (halves, halves.clone()),
        (whole.transpose(1, 2), whole.transpose(1, 2)),
        (whole[..., ::2], whole[..., ::2]),
        (last, torch.tensor(2.0)),
    ):
        assert strides(torch.add, *given) == torch.add(*given).stride()
