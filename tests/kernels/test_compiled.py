"""Kernels kept on disk, and where nothing can be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepatlas import kernels
from deepatlas.kernels import (
    compiled,
    corners,
    empty,
    exponential,
    following,
    normal,
    to_rows,
    trilinear,
)


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
        *(
            lambda f=f: f(True)
            for f in (normal.moments_kernel, corners.add_kernel, following.values_kernel)
        ),
        lambda: normal.apply_kernel(True, True, True),
        lambda: normal.back_apply_kernel(True, True),
        lambda: normal.back_moments_kernel(False, True, True),
        lambda: exponential.softmax_kernel(True, 3),
        lambda: exponential.back_kernel(True, 0),
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


def test_every_variant_has_files_of_its_own_which_end_with_the_sources() -> None:
    """Else two processes may write one variant's code under the other's name."""
    made = [exponential.softmax_kernel(half, n) for half in (True, False) for n in (2, 3)]
    names = {kernel.py_func.__qualname__ for kernel in made}
    assert len(names) == len(made)
    assert all(name.endswith(compiled._digest()) for name in names)
    assert trilinear.place.py_func.__qualname__ == f"place-{compiled._digest()}"


def test_a_full_disk_keeps_nothing_and_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Any] = []

    def full(*given: Any) -> None:
        attempts.append(given)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert compiled.jit(lambda x: 3 * x)(14) == 42
    assert attempts


@pytest.mark.parametrize("size", [0, 5, 3 << 20])
def test_memory_to_write_to(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[Any] = []
    monkeypatch.setattr(kernels, "_madvise", lambda: lambda *given: ranges.append(given))
    found = empty((2, size), torch.bfloat16)
    if size > 5:
        ((low, length, advice),) = ranges
        start, page = found.data_ptr(), 4096
        assert start <= low.value < start + page
        assert low.value % page == 0
        assert length.value % page == 0
        end = low.value + length.value
        assert start + found.nbytes - page < end <= start + found.nbytes
        assert advice == 14  # MADV_HUGEPAGE
    else:
        assert not ranges
    assert found.shape == (2, size)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous()
    found.fill_(3)
    assert bool((found == 3).all())


def test_rows_of_maps_that_lie_otherwise_are_copied_with_their_gradient() -> None:
    x = torch.randn(2, 3, 4, 5).requires_grad_()
    rows = to_rows(x)
    assert torch.equal(rows, x.movedim(1, -1))
    assert rows.is_contiguous()
    (gradient,) = torch.autograd.grad((rows * rows.detach()).sum(), x)
    assert torch.equal(gradient, x.detach())
    last = x.detach().contiguous(memory_format=torch.channels_last)
    assert to_rows(last).data_ptr() == last.data_ptr()
