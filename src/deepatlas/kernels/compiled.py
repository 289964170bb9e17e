"""How kernels are compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_FAST = {"contract", "nsz", "arcp"}  # NaN and infinity stay what they are


def jit(function: Callable[..., Any]) -> Any:
    """The function compiled when first called, and kept on disk where there is a place for it.

    Sums may be taken in any order, so that loops that sum become vector instructions.
    """
    return _compiled(function, fastmath=_FAST | {"reassoc"})


def jit_in_order(function: Callable[..., Any]) -> Any:
    """The same for functions that take differences of differences, which order must not lose."""
    return _compiled(function, fastmath=_FAST)


def _compiled(function: Callable[..., Any], **more: Any) -> Any:
    # Files on disk are named by it. Numba looks at the time of one source file only, and keeps all
    # functions of one name in one index, which processes write without waiting for each other.
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    function.__qualname__ = "-".join(map(str, [function.__qualname__, *enclosed, _digest()]))
    try:
        made = njit(cache=True, **_OPTIONS, **more)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return njit(**_OPTIONS, **more)(function)
    if hasattr(made, "_cache"):
        made._cache.save_overload = _where_there_is_room(made._cache.save_overload)
    return made


def _where_there_is_room(save: Callable[..., None]) -> Callable[..., None]:
    def attempt(*given: Any) -> None:
        try:
            save(*given)
        except OSError:  # a full disk or quota: what was compiled is used, and not kept
            return

    return attempt


@cache
def _digest() -> str:
    """Of all kernels' sources, some of which call others."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
