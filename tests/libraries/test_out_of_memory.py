"""torch's words about missing memory, as figures."""

from __future__ import annotations

import pytest

from profiler.libraries.out_of_memory import Shortage, parse
from profiler.units import GIB, KIB, MIB

NOW = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 512.00 MiB is "
    "free. Including non-PyTorch memory, this process has 23.14 GiB memory in use. Of the allocated memory 20.50 GiB "
    "is allocated by PyTorch, and 2.25 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory "
    "is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
BEFORE = (
    "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.93 GiB total capacity; 5.25 GiB already allocated; "
    "2.50 MiB free; 5.50 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting"
)
FIGURES = Shortage(2 * GIB, 512 * MIB, 20 * GIB + 512 * MIB, 2 * GIB + 256 * MIB)


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        (NOW, FIGURES),
        (NOW.replace("capacity", "capacty"), FIGURES),  # as 2.1 wrote it
        (
            NOW.replace("Including", "Process 77 has 1.00 GiB memory in use. Including"),
            FIGURES,
        ),
        (
            NOW.replace("Of the allocated", "20.00 GiB allowed; Of the allocated"),
            FIGURES._replace(allowed_bytes=20 * GIB),
        ),
        (
            NOW.replace("PyTorch, and", "PyTorch, with 24.00 MiB allocated in private pools, and"),
            FIGURES,
        ),
        (NOW.replace("CUDA out", "HIP out"), FIGURES),
        (NOW.replace("2.00 GiB. GPU", "512 bytes. GPU"), FIGURES._replace(requested_bytes=512)),
        (NOW.replace("512.00 MiB", "1.50 KiB"), FIGURES._replace(free_bytes=KIB * 3 // 2)),
        (BEFORE, Shortage(20 * MIB, 5 * MIB // 2, 5 * GIB + 256 * MIB, 256 * MIB)),
        ("CUDA error: out of memory", Shortage()),
        ("CUDA out of memory. Tried to allocate 1.2.3 GiB.", Shortage()),
        ("Expected all tensors to be on the same device", None),
    ],
)
def test_every_wording_gives_the_same_figures(text, figures):
    assert parse(text) == figures
