"""Networks from other packages, named in a recipe by a dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.errors import BadInput
from deepatlas.networks.blocks import crop, pad_to_multiple
from deepatlas.networks.fuse import fuse
from deepatlas.parts import build


def is_outside(spec: str | Mapping[str, Any]) -> bool:
    """Whether a spec names a class by its dotted path."""
    return ":" in (spec if isinstance(spec, str) else str(spec.get("kind", "")))


def build_outside(
    spec: str | Mapping[str, Any], what: str, options: Mapping[str, Any], **sizes: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The module, with `{ndim}` and the other sizes filled in, and our options beside it.

    Parameters
    ----------
    options : fields of the spec that are ours and not the network's, with their defaults.
    sizes : values of the placeholders.

    Raises
    ------
    BadInput : unknown placeholder, module, class or field; not an nn.Module; an option of a wrong
        type.
    """
    fields = {"kind": spec} if isinstance(spec, str) else dict(spec)
    ours = {name: fields.pop(name, default) for name, default in options.items()}
    for name, default in options.items():
        if type(ours[name]) is not type(default) or (name == "multiple" and ours[name] < 1):
            raise BadInput(f"{what}.{name}: expected a value such as {default}, got {ours[name]!r}")
    filled = {name: _filled(value, f"{what}.{name}", sizes) for name, value in fields.items()}
    module = build({}, filled, what)
    if not isinstance(module, nn.Module):
        raise BadInput(f"{what}: {fields['kind']} gives a {type(module).__name__}, no nn.Module")
    return fuse(module), ours


def _filled(value: Any, place: str, sizes: Mapping[str, int]) -> Any:
    """A value with its placeholders replaced, within lists and mappings too."""
    if isinstance(value, Mapping):
        return {key: _filled(item, f"{place}.{key}", sizes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, place, sizes) for item in value]
    if not (isinstance(value, str) and value.startswith("{") and value.endswith("}")):
        return value
    if value[1:-1] not in sizes:
        known = ", ".join(f"{{{name}}}" for name in sizes)
        raise BadInput(f"{place}: there is no placeholder {value}; use one of {known}")
    return sizes[value[1:-1]]


def apply_padded(module: nn.Module, x: Tensor, multiple: int, channels: int) -> Tensor:
    """A network's output for an input of any size: padded to a multiple, cropped back, float32.

    Of several outputs (deep supervision) the first counts. Raises BadInput where it has not
    `channels` channels or not the size of its input.
    """
    padded = pad_to_multiple(x, multiple)
    out = module(padded)
    if isinstance(out, list | tuple):
        out = out[0]
    expected = (len(x), channels, *padded.shape[2:])
    if tuple(out.shape) != expected:
        raise BadInput(
            f"network {type(module).__name__} gives {tuple(out.shape)} where {expected} was "
            "expected (batch, channels, size); check its channels, strides and `multiple`"
        )
    return crop(out, x.shape[2:]).to(torch.float32)
