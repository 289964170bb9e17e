"""Networks from other packages, named in a recipe by a dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from deepatlas.errors import BadInput
from deepatlas.parts import build

OPTIONS = {"multiple": 16, "velocity": False}  # ours, not the network's: padding, and what it says


def is_outside(spec: str | Mapping[str, Any]) -> bool:
    """Whether a spec names a class by its dotted path."""
    return ":" in (spec if isinstance(spec, str) else str(spec.get("kind", "")))


def build_outside(
    spec: str | Mapping[str, Any], what: str, **sizes: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The module, with `{ndim}` and `{classes}` filled in, and our options beside it."""
    fields = {"kind": spec} if isinstance(spec, str) else dict(spec)
    options = {name: fields.pop(name, default) for name, default in OPTIONS.items()}
    for name, value in fields.items():
        if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
            if value[1:-1] not in sizes:
                raise BadInput(f"{what}.{name}: {value} is unknown; use one of {sorted(sizes)}")
            fields[name] = sizes[value[1:-1]]
    module = build({}, fields, what)
    if not isinstance(module, nn.Module):
        raise BadInput(f"{what}: {fields['kind']} is no torch.nn.Module but {type(module)}")
    return module, options
