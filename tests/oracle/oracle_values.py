"""Small tensors on a GPU that computes nothing: their values are computed on the host and written where they belong.

Pipelines read such values: tables of schedulers, masks of prompts, how many elements a mask selects. The stand-in's
memory is the host's own, so a function of small tensors is called twice: as it is, which is what allocates, and with
the same values on the CPU, whose result is written into the memory of the first. Where a shape follows from values,
torch asks the GPU for a count; the count is given to the stand-in beforehand.

This listens as a `TorchFunctionMode`. A `TorchDispatchMode` would see more, but C++ code asks whether one is active and
then takes other branches, which allocate otherwise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LIMIT = (
    1 << 12
)  # elements: tables of schedulers and masks of prompts have fewer; the stand-in copies as much
_RETURNED = frozenset({"equal", "allclose"})  # whose answer is no tensor, and is found on the GPU
_COUNTED = frozenset({"nonzero", "argwhere", "masked_select", "where", "unique"})
_INDEXED = frozenset({"__getitem__", "__setitem__", "index_put_", "index_put"})
# Attributes, moves that compute nothing, and random numbers, whose values decide no memory.
_PASSED = frozenset(
    {
        "__get__",
        "__set__",
        "cuda",
        "data_ptr",
        "pin_memory",
        "record_stream",
        "storage",
        "untyped_storage",
    }
    | {
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "normal",
        "normal_",
        "uniform_",
    }
    | {
        "bernoulli",
        "multinomial",
        "dropout",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "item",
        "tolist",
    }
)


class SmallValues(TorchFunctionMode):
    """Computes the values of small tensors on the GPU.

    Args:
        runtime: The stand-in's runtime library.
    """

    def __init__(self, runtime: ctypes.CDLL) -> None:
        super().__init__()
        self._runtime = runtime

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, and write what it would have computed."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = list(_leaves((args, kwargs)))
        if not _is_followed(name, given):
            return func(*args, **kwargs)
        self._count_masks(name, args)
        tensors = [one for one in given if isinstance(one, torch.Tensor)]
        if not all(map(_is_small, tensors)):
            return self._called(func, args, kwargs)
        return self._computed(func, args, kwargs, tensors)

    def _computed(
        self, func: Callable[..., Any], args: Any, kwargs: Any, tensors: list[torch.Tensor]
    ) -> Any:
        """Call `func` on the GPU and on the host, and write what the host found where the GPU would."""
        name = func.__name__
        own_args = _on_host(args)
        try:
            own = func(*own_args, **_on_host(kwargs))
        except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError):
            return self._called(func, args, kwargs)  # which says what is wrong, if anything is
        self._count_found(name, args, own)
        result = self._called(func, args, kwargs)
        if name in _RETURNED:
            return own
        if _is_in_place(name):
            _write(args[0], own_args[0])
        else:
            _write_results(result, own, tensors)
        return result

    def _called(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return func(*args, **kwargs)
        finally:
            self._runtime.stand_in_drop_answers()

    def _count_masks(self, name: str, args: tuple[Any, ...]) -> None:
        """Tell the stand-in how many elements each mask of an index selects; of a large one, that it is one."""
        if name not in _INDEXED:
            return
        for one in _leaves(args[1:2]):
            if isinstance(one, torch.Tensor) and one.dtype in (torch.bool, torch.uint8):
                count = (
                    int(_host_view(one).count_nonzero()) if one.is_cuda and _is_small(one) else 1
                )
                self._runtime.stand_in_answer(ctypes.c_int64(count))

    def _count_found(self, name: str, args: tuple[Any, ...], own: Any) -> None:
        """Tell the stand-in how many elements a function finds, if its result's shape follows from that."""
        if name not in _COUNTED or (name == "where" and len(args) > 1):
            return
        first = own[0] if isinstance(own, tuple) else own
        self._runtime.stand_in_answer(ctypes.c_int64(first.shape[0]))


def _is_followed(name: str, given: list[Any]) -> bool:
    """Tell whether a call is on the GPU, and of values that mean something; nobody wrote the weights."""
    if name in _PASSED or not any(map(_names_gpu, given)):
        return False
    if any(isinstance(one, torch.nn.Parameter) for one in given):
        return False
    return torch._C._functorch.peek_interpreter_stack() is None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    else:
        yield value


def _names_gpu(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_cuda
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")
    )


def _is_small(tensor: torch.Tensor) -> bool:
    return tensor.numel() <= LIMIT and tensor.layout == torch.strided


def _is_in_place(name: str) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or (
            name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
        )
    return name.endswith("_")


def _host_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return a CPU tensor over the same bytes, which on the stand-in are the host's."""
    if not tensor.is_cuda or tensor.numel() == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype) if tensor.is_cuda else tensor
    storage = tensor.untyped_storage()
    buffer = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    count = storage.nbytes() // tensor.element_size()
    flat = torch.frombuffer(buffer, dtype=tensor.dtype, count=count)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _on_host(value: Any) -> Any:
    """Return `value` with copies of its tensors on the CPU, and the CPU where it names the GPU."""
    if isinstance(value, torch.Tensor):
        return _host_view(value.detach()).clone()
    if isinstance(value, dict):
        return {key: _on_host(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_on_host, value))
    return "cpu" if _names_gpu(value) else value


def _write(tensor: Any, values: Any) -> None:
    if isinstance(tensor, torch.Tensor) and tensor.shape == values.shape and tensor.numel():
        _host_view(tensor.detach()).copy_(values)


def _write_results(results: Any, values: Any, given: list[torch.Tensor]) -> None:
    """Write `values` into those `results` that are no views of what was given."""
    if isinstance(results, (list, tuple)):
        for one, own in zip(results, values, strict=False):
            _write_results(one, own, given)
        return
    if not isinstance(results, torch.Tensor) or not isinstance(values, torch.Tensor):
        return
    own_bytes = {one.untyped_storage().data_ptr() for one in given}
    if _is_small(results) and results.untyped_storage().data_ptr() not in own_bytes:
        _write(results, values)
