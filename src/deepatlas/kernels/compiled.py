"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
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
    try:
        return njit(cache=True, **_OPTIONS, **more)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return njit(**_OPTIONS, **more)(function)
