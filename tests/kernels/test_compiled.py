"""Kernels where nothing can be kept on disk."""

from __future__ import annotations

from typing import Any

import pytest

from deepatlas.kernels import compiled


def test_without_a_place_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiled.njit

    def without_cache(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return real(**options)

    monkeypatch.setattr(compiled, "njit", without_cache)
    assert compiled.jit(lambda x: 2 * x)(21) == 42
