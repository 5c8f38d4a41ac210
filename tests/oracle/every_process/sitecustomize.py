"""Makes every Python process that has this folder on its path one that can run on the stand-in.

Python imports `sitecustomize` when it starts, so this reaches the processes that scripts start themselves. Small values
are computed as a GPU would, and predictions go without workspaces of convolutions, since those of cuDNN are not known.
Nothing is computed here inside of a virtual GPU, whose tensors are not the stand-in's.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle_environment import runtime_library  # found by the line above
from oracle_values import SmallValues

from profiler.virtual import workspaces
from profiler.virtual.torch_api.functions import active_gpu


class _OutsideOfVirtualGPUs(SmallValues):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if active_gpu() is not None:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


workspaces.convolution = lambda spec, args, output: workspaces.NOTHING
_OutsideOfVirtualGPUs(ctypes.CDLL(str(runtime_library()))).__enter__()
