"""The scratch memory of reductions: partial results and semaphores, if several thread blocks work on one output.

A kernel maps threads to outputs and to the inputs of each. If the outputs do not fill the GPU and each thread would
add 256 numbers or more, the inputs of an output are divided among blocks, which leave partial results in a buffer and
count themselves by a semaphore for each column of blocks. With W and H threads across and down a block, O outputs of
which a column of blocks has S, I inputs of an output, M multiprocessors and T threads on each of them:

    columns = O / S,  values = I / (threads on one output),  target = M * (T // (W * H))
    parts = max(min(target / columns, values / 16), values / 256)
    buffer = parts * O * bytes of a partial result (times W, where a row of threads has an output each)
    semaphores = 4 * columns

Source: `setReduceConfig`, `global_memory_size` and `semaphore_size` in aten/src/ATen/native/cuda/Reduce.cuh, a header
that torch 2.13.0 installs. Partial results: ReduceSumProdKernel.cu, ReduceMomentKernel.cu, ReduceLogicKernel.cu,
ReduceMaxValuesKernel.cu, ReduceArgMaxKernel.cu, ReduceAMinMaxKernel.cu and ReduceNormKernel.cu beside it. Tensors
beyond 2 GiB, which are reduced in parts, are taken to be reduced at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.operators.tensor_iterator import Iteration, reduction
from profiler.virtual.steps import Steps
from profiler.virtual.tensor import aten

MOST_THREADS = 512  # of a block
WARP = 32
LEAST_VALUES, MOST_VALUES = 16, 256  # a thread's, for which inputs are divided
SEMAPHORE_BYTES = 4
VECTOR = 4  # outputs that a thread reads at once

_LOGICAL = {aten.all, aten.any}
_MOMENTS = {aten.var, aten.std, aten.var_mean, aten.std_mean}
_SUMS = {aten.sum, aten.nansum, aten.mean, aten.prod, aten.linalg_vector_norm, aten.norm}
_EXTREMES = {aten.max, aten.min, aten.amax, aten.amin}
_PLACES = {aten.argmax, aten.argmin}
_BOTH_EXTREMES = {aten.aminmax}
REDUCTIONS = _LOGICAL | _MOMENTS | _SUMS | _EXTREMES | _PLACES | _BOTH_EXTREMES

# These flatten their input or ask for a contiguous one, unless they reduce given dimensions.
_CONTIGUOUS = {aten.max, aten.min, aten.argmax, aten.argmin, aten.aminmax}


def reduction_steps(func: Any, args: tuple[Any, ...], result: Any, spec: GpuSpec) -> Steps:
    """Return a converted or contiguous copy of the input, and the scratch memory, of any operator in `REDUCTIONS`."""
    packet = func._overloadpacket
    given: torch.Tensor = args[0]
    if given.numel() == 0:
        return ()
    dims = _dims(func, args)
    first = result if isinstance(result, torch.Tensor) else result[0]
    copied: list[int] = []
    source = given
    if packet in _SUMS and _is_converted(given.dtype, first.dtype):
        copied.append(given.numel() * first.element_size())
        source = torch.empty_like(given, dtype=first.dtype)
    if packet in _CONTIGUOUS and dims is None and not given.is_contiguous():
        copied.append(given.numel() * given.element_size())
        source = given.contiguous()
    part_bytes = _part_bytes(packet, source.dtype, by_dim=dims is not None)
    blocks = scratch_bytes(spec, source, dims, part_bytes)
    return (*copied, *blocks)


def scratch_bytes(
    spec: GpuSpec, source: torch.Tensor, dims: Iterable[int] | None, part_bytes: int
) -> Steps:
    """Return the bytes of partial results and of semaphores, empty if one block does for each output.

    Args:
        spec: the GPU.
        source: what is reduced.
        dims: the dimensions that are reduced; all of them if None.
        part_bytes: of one partial result.
    """
    if source.numel() == 0:
        return ()
    every = range(source.dim())
    iteration, reduced = reduction(source, every if dims is None else dims)
    outputs = math.prod(iteration.shape[reduced:])
    inputs = math.prod(iteration.shape[:reduced])
    along, vector = _along(iteration, reduced, source)
    width, height = _block(
        outputs, inputs, along=along, vector=vector, one=_is_vectored(iteration, reduced, along)
    )
    step_input, step_output = (width, 1) if along else (1, width)
    across = -(-inputs // step_input) >= min(height * LEAST_VALUES, MOST_VALUES)
    if not across:
        return ()
    step_input *= height
    values, columns = -(-inputs // step_input), -(-(outputs // vector) // step_output)
    target = spec.multi_processor_count * (spec.threads_per_multiprocessor // (width * height))
    if values < MOST_VALUES or columns > target:
        return ()
    parts = max(min(-(-target // columns), -(-values // LEAST_VALUES)), -(-values // MOST_VALUES))
    if parts <= 1:
        return ()
    partial = part_bytes * outputs * parts * (1 if along else width * vector)
    return partial, SEMAPHORE_BYTES * columns


def _along(iteration: Iteration, reduced: int, source: torch.Tensor) -> tuple[bool, int]:
    """Tell whether a row of threads works on one output, and how many outputs a thread reads at once otherwise."""
    if not iteration.shape:
        return True, 1
    strides = iteration.operands[1]
    if reduced == len(strides) or strides[0] < strides[reduced]:
        return True, 1
    if strides[reduced] != 1:
        return False, 1
    vector = VECTOR
    others = [stride for dim, stride in enumerate(strides) if dim != reduced]
    for number in (source.storage_offset(), iteration.shape[reduced], *others):
        while number % vector:
            vector //= 2
    return False, vector


def _is_vectored(iteration: Iteration, reduced: int, along: bool) -> bool:
    """Tell whether a thread reads several inputs of one output at once."""
    return along and reduced == 1 and iteration.operands[1][0] == 1 and iteration.shape[0] >= 128


def _block(outputs: int, inputs: int, *, along: bool, vector: int, one: bool) -> tuple[int, int]:
    """Return the width and the height of a block of threads. Source: `set_block_dimension`."""
    fast, slow = (inputs, outputs) if along else (outputs // vector, inputs)
    if one:
        fast //= VECTOR
    most = MOST_THREADS // vector
    fast, slow = (_power_below(size) if size < most else most for size in (fast, slow))
    width = min(fast, WARP)
    height = min(slow, most // width)
    return min(fast, most // height), height


def _power_below(number: int) -> int:
    """Return the largest power of two that is not above `number`, at least 1."""
    return 1 << max(number.bit_length() - 1, 0)


def _dims(func: Any, args: tuple[Any, ...]) -> list[int] | None:
    """Return the dimensions that are reduced, None for all."""
    for position, declared in enumerate(func._schema.arguments[: len(args)]):
        if declared.name in ("dim", "dims"):
            dims = args[position]
            if dims is None or dims == []:
                return None
            rank = max(args[0].dim(), 1)
            return [dim % rank for dim in (dims if isinstance(dims, list | tuple) else [dims])]
    return None


def _is_converted(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Tell whether the input is converted before it is added up: not from half to single, which the kernel does."""
    half = given in (torch.float16, torch.bfloat16)
    return given != wanted and not (half and wanted == torch.float32)


def _part_bytes(packet: Any, dtype: torch.dtype, *, by_dim: bool) -> int:
    """Return the bytes of a partial result."""
    if packet in _LOGICAL:
        return 1
    single = max(dtype.itemsize, 4)
    if packet in _MOMENTS:
        return 16 if single == 4 else 32  # mean, sum of squares, count twice
    if packet in _SUMS:
        return single
    value = dtype.itemsize
    if packet in _BOTH_EXTREMES:
        return 2 * value
    if packet in _PLACES or (packet in (aten.max, aten.min) and by_dim):
        return 16  # the value and its place, 8 bytes
    return value
