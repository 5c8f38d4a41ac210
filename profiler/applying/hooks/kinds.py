"""Recognition of this package's hooks, by name.

The code of `Plan.to_code` defines the hooks' classes anew, so they are other objects than those of `Plan.apply`.
"""

from __future__ import annotations

from typing import Any


def is_kind(hook: Any, kind: type) -> bool:
    """Tell whether a hook is of exactly this class, or of the copy of it in printed code."""
    return type(hook).__name__ == kind.__name__
