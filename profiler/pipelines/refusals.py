"""The reasons why a component cannot be built, in one sentence: a missing library, too small a GPU, or its values.

Libraries report a missing one in several ways: Python's own error, `requires_backends` of diffusers (0.42) and
transformers (5.23) in a paragraph, a name that was never imported because the library is optional.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from profiler.errors import FindingError, InputError, ProfilerError
from profiler.libraries.out_of_memory import parse
from profiler.units import format_bytes

# Libraries whose name for installation differs from the one that they are imported or written by.
_PACKAGES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "google": "protobuf",
    "k_diffusion": "k-diffusion",
    "optimum": "optimum-quanto",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# diffusers imports these if they are installed, and its pipelines use them without a check.
_OPTIONAL = ("bs4", "ftfy")
_MISSING = (
    re.compile(r"pip install (?:-\S+ )*[`'\"]?([A-Za-z][\w.-]*)"),
    re.compile(r"requires the ([\w.-]+) library"),
    re.compile(r"need to have ([\w.-]+)"),  # "sentencepiece or tiktoken installed"
)


def refused(model: str, component: str, class_name: str, error: Exception) -> ProfilerError:
    """Return the error that tells the user why a component could not be built.

    Args:
        model: the user's name for the pipeline.
        component: its name.
        class_name: the name of its class.
        error: the error with which building ended.
    """
    if isinstance(error, ProfilerError):
        return error
    missing = missing_library(error)
    if missing:
        return InputError(f"{model!r}: its {component} ({class_name}) cannot be built: {missing}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return InputError(
        f"{model!r}: its {component} ({class_name}) cannot be built from its configuration: {reason}"
    )


def missing_library(error: BaseException) -> str:
    """Return an error's message about a missing library, and how to install it; "" if it is another error.

    Example:
        >>> missing_library(ModuleNotFoundError("No module named 'torchsde'", name="torchsde"))
        "No module named 'torchsde': pip install torchsde"
    """
    for each in _causes(error):
        package = _package(each)
        if package:
            said = " ".join(str(each).split()).replace("`", "").rstrip(".")
            stated = re.search(rf"pip install (-\S+ )*{re.escape(package)}\b", said, re.IGNORECASE)
            return said if stated else f"{said}: pip install {package}"
    return " ".join(str(error).split()) if isinstance(error, ImportError) else ""


def out_of_memory(
    model: str, component: str, error: torch.OutOfMemoryError, loaded: Mapping[str, Any]
) -> FindingError:
    """Return the finding that a GPU is too small to load a model as `from_pretrained` would.

    Args:
        model: the user's name for the pipeline.
        component: the component that was being loaded.
        error: the error with which its loading ended.
        loaded: the components that were loaded before.
    """
    shortage = getattr(error, "shortage", None) or parse(str(error))
    asked = getattr(shortage, "requested_bytes", None)
    free = getattr(shortage, "free_bytes", None)
    sizes = (
        ""
        if asked is None
        else f" ({format_bytes(asked)} asked for, {format_bytes(free or 0)} free)"
    )
    there = ", ".join(name for name, part in loaded.items() if _is_on_gpu(part))
    beside = f" beside {there}, which loading left there," if there else ""
    return FindingError(
        f"{model!r} does not load: its {component} is quantised on the GPU, and{beside} that ran out of memory{sizes}; "
        "load, place and free one component at a time (encode the prompt first, then free its encoders), "
        "or quantise in host memory: torchao-int8wo, gguf-q4_k"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes, the deepest last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _package(error: BaseException) -> str:
    """Return the package that an error reports as not installed; "" if it names none."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        return _PACKAGES.get(name, name)
    if isinstance(error, NameError):
        return _PACKAGES.get(error.name, error.name) if error.name in _OPTIONAL else ""
    text = " ".join(str(error).split())
    if not isinstance(error, ImportError) and "install" not in text:
        return ""
    found = next((match for one in _MISSING if (match := one.search(text))), None)
    return "" if found is None else found[1].lower().rstrip(".")


def _is_on_gpu(part: Any) -> bool:
    return isinstance(part, nn.Module) and any(one.is_cuda for one in part.parameters())
