"""Files of virtual tensors: group offload to disk saves and loads with safetensors, here without writing any data.

Saved tensors are remembered by path: names, shapes and dtypes. An empty file stands in for them, because diffusers
checks whether there is one, and is removed with the virtual GPU. Of a file that was there before, the header is read.

Source: `save_file` and `load_file` in safetensors 0.8, `torch.py`: contiguous tensors that share no memory are saved,
and each is loaded into memory of its own, on the host first and from there to the device.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from profiler.patching import Patches
from profiler.virtual.tensor import CPU, META, VirtualTensor, canonical
from profiler.virtual.torch_api.cuda import here_or

if TYPE_CHECKING:
    from profiler.virtual.device import Device

Saved = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""The contents of one file: shape and dtype of each tensor, in order."""


def install(gpu: Device, patches: Patches) -> None:
    """Serve `safetensors.torch.save_file` and `load_file` for `gpu`, and leave no file behind."""
    disk = _Disk(gpu)
    patches.afterwards(disk.clear)
    for name, make in (("save_file", disk.saver), ("load_file", disk.loader)):
        original = getattr(safetensors.torch, name)
        patches.replace(safetensors.torch, name, here_or(gpu, make(original), original))
    patches.replace(os, "makedirs", here_or(gpu, disk.maker(os.makedirs), os.makedirs))


class _Disk:
    """The files of one virtual GPU."""

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._files: dict[str, Saved] = {}
        self._folders: set[Path] = set()  # those made in the meantime

    def maker(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def makedirs(name: Any, *args: Any, **kwargs: Any) -> None:
            wanted = Path(os.path.realpath(name))
            self._folders |= {path for path in (wanted, *wanted.parents) if not path.exists()}
            original(name, *args, **kwargs)

        return makedirs

    def saver(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
            # A group without tensors is saved too.
            if not all(isinstance(tensor, VirtualTensor) for tensor in tensors.values()):
                original(tensors, filename, metadata)
                return
            _check(tensors)
            self._files[os.path.realpath(filename)] = {
                name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()
            }
            Path(filename).touch()

        return save_file

    def loader(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_file(filename: Any, device: Any = "cpu", **options: Any) -> dict[str, Any]:
            path = os.path.realpath(filename)
            saved = self._files[path] if path in self._files else self._header(path)
            target = canonical(device)
            loaded = {}
            for name, (shape, dtype) in saved.items():
                tensor = self._gpu.empty(shape, dtype, CPU)
                loaded[name] = tensor if target == CPU else tensor.to(target)
            return loaded

        return load_file

    def _header(self, path: str) -> Saved:
        """Return the contents of a real file; its tensors are mapped, not read."""
        with self._gpu.suspended(), safetensors.safe_open(path, framework="pt") as file:
            return {
                name: (tuple(tensor.shape), tensor.dtype)
                for name in file.keys()  # noqa: SIM118  # no mapping
                for tensor in (file.get_tensor(name),)
            }

    def clear(self) -> None:
        """Remove the empty files, and the folders that were made for them."""
        used = {parent for path in self._files for parent in Path(path).parents}
        for path in self._files:
            Path(path).unlink(missing_ok=True)
        for folder in sorted(self._folders & used, reverse=True):  # inner ones come first
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _check(tensors: dict[str, torch.Tensor]) -> None:
    """Raise what safetensors raises for tensors that it does not save."""
    sharing: dict[int, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        if isinstance(tensor, VirtualTensor) and tensor.device != META and tensor.numel():
            sharing[id(tensor.storage_record)].append(name)
    failing = [set(names) for names in sharing.values() if len(names) > 1]
    if failing:
        raise RuntimeError(
            "Some tensors share memory, this will lead to duplicate memory on disk and potential differences when "
            f"loading them again: {failing}."
        )
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(
                f"You are trying to save a non contiguous tensor: `{name}` which is not allowed."
            )
