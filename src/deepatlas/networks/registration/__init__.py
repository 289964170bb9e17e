"""Registration networks: moving and fixed (B, 1, *S) to the Deformation from fixed to moving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.errors import BadInput
from deepatlas.networks.blocks import channels_last
from deepatlas.networks.outside import apply_padded, build_outside, is_outside
from deepatlas.networks.registration.base import Deformation, RegistrationNetwork
from deepatlas.networks.registration.voxelmorph import VoxelMorph
from deepatlas.parts import build
from deepatlas.spatial.velocity import integrate

REGISTRATION_NETWORKS = {"voxelmorph": VoxelMorph}


class OutsideRegistration(RegistrationNetwork):
    """A network from another package that maps two channels (moving, fixed) to d channels.

    Its output is a displacement in voxels, or a stationary velocity where `velocity` is set.
    """

    def __init__(self, module: nn.Module, multiple: int, velocity: bool) -> None:
        super().__init__()
        self.module = module
        self.multiple = multiple
        self.velocity = velocity

    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        pair = torch.cat([moving, fixed], dim=1)
        field = apply_padded(self.module, pair, self.multiple, pair.ndim - 2)
        with torch.autocast(pair.device.type, enabled=False):
            field = field.contiguous()
            if not self.velocity:
                return Deformation(field)
            return Deformation(integrate(field), field)


def build_registration(
    spec: str | Mapping[str, Any], *, ndim: int, what: str = "networks.registration"
) -> nn.Module:
    """The network a recipe names, with fresh weights.

    Parameters
    ----------
    spec : a name of `REGISTRATION_NETWORKS` with its fields, or a dotted path; a network from
        outside that is no RegistrationNetwork gets moving and fixed as two channels and gives a
        displacement in voxels (or a velocity, with `velocity: true`); it is padded to `multiple`
        (default 16). Both fields are refused for a RegistrationNetwork, which sees to itself.

    Raises
    ------
    BadInput : a spec that names no network, or with wrong fields.
    """
    if is_outside(spec):
        defaults = {"multiple": 16, "velocity": False}
        module, options = build_outside(spec, what, defaults, ndim=ndim)
        if not isinstance(module, RegistrationNetwork):
            module = OutsideRegistration(module, options["multiple"], options["velocity"])
        elif given := [name for name in defaults if isinstance(spec, Mapping) and name in spec]:
            raise BadInput(f"{what}: {', '.join(given)} cannot be set for a RegistrationNetwork")
        return channels_last(module, ndim)
    return channels_last(build(REGISTRATION_NETWORKS, spec, what).build(ndim=ndim), ndim)
