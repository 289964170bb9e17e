"""Kernels kept on disk, and where nothing can be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deepatlas.kernels import compiled, joining, normal, trilinear


def test_without_a_place_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiled.njit

    def without_cache(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return real(**options)

    monkeypatch.setattr(compiled, "njit", without_cache)
    assert compiled.jit(lambda x: 2 * x)(21) == 42


@pytest.mark.parametrize(
    "made",
    [
        *(lambda f=f: f(True) for f in (normal.moments_kernel, joining.sum_kernel)),
        *(lambda f=f: f(True, True) for f in (normal.apply_kernel, normal.back_apply_kernel)),
        lambda: normal.back_moments_kernel(False, True, True),
        *(
            lambda f=f: f(3, 2, True)
            for f in (trilinear.values_kernel, trilinear.index_kernel, trilinear.image_kernel)
        ),
    ],
)
def test_kernels_enclose_numbers_only(made: Callable[[], Any]) -> None:
    """By what it encloses numba knows a kernel on disk; a function would be new every time."""
    enclosed = [cell.cell_contents for cell in made().py_func.__closure__ or ()]
    assert all(isinstance(value, int) for value in enclosed)
