"""What PyTorch's releases do differently, as far as memory shows it; each fact was found by asking the CUDA builds.

`tests/oracle/oracle_operators.py` and `oracle.py` compare another release with the virtual GPU: `--torch VERSION`.
"""

from __future__ import annotations

import torch

_RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])

RANDOM_STATE_ON_GPU = _RELEASE >= (2, 14)
"""Memory-efficient attention allocates its seed and offset on the GPU, before the output; on the host before."""

GROUP_NORM_COPIES = _RELEASE >= (2, 14)
"""Group norm copies an image that is not contiguous, channels last or turned; its kernel read it as it was before."""

GROUPED_HEADS_EVERYWHERE = _RELEASE >= (2, 14)
"""Memory-efficient attention serves heads of queries that share one of keys; the plain one did before."""
