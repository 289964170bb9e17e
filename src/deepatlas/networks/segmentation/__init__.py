"""Segmentation networks: image (B, 1, *S) to logits (B, classes, *S)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from deepatlas.networks.blocks import channels_last
from deepatlas.networks.outside import apply_padded, build_outside, is_outside
from deepatlas.networks.segmentation.unet import UNet
from deepatlas.parts import build

SEGMENTATION_NETWORKS = {"unet": UNet}


class OutsideSegmentation(nn.Module):
    """A network from another package, padded to the size it needs and cropped back."""

    def __init__(self, module: nn.Module, multiple: int, classes: int) -> None:
        super().__init__()
        self.module = module
        self.multiple = multiple
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        return apply_padded(self.module, image, self.multiple, self.classes)


def build_segmentation(
    spec: str | Mapping[str, Any], *, ndim: int, classes: int, what: str = "networks.segmentation"
) -> nn.Module:
    """The network a recipe names, with fresh weights.

    Parameters
    ----------
    spec : a name of `SEGMENTATION_NETWORKS` with its fields, or a dotted path
        (`monai.networks.nets:UNet`) whose arguments may say `{ndim}` and `{classes}` and whose
        `multiple` (default 16) is the size it must be padded to.

    Raises
    ------
    BadInput : a spec that names no network, or with wrong fields.
    """
    if is_outside(spec):
        module, options = build_outside(spec, what, {"multiple": 16}, ndim=ndim, classes=classes)
        return channels_last(OutsideSegmentation(module, options["multiple"], classes), ndim)
    part = build(SEGMENTATION_NETWORKS, spec, what)
    return channels_last(part.build(ndim=ndim, classes=classes), ndim)
