"""Running averages of weights: steadier than any single step's (Tarvainen & Valpola 2017)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deepatlas.errors import BadInput
from deepatlas.training.checkpoint import pack, unpack


class Averages:
    """Running averages of the weights of some networks, in their order of training.

    Parameters
    ----------
    networks : all networks of the run.
    decays : by name, the share of the average that a step keeps; 0 for no average.
    restored : tensors of a checkpoint, or nothing.

    Attributes
    ----------
    networks : every network by name: its average, or itself where none is kept. The averages are
        in eval mode and take no gradient.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        decays: Mapping[str, float],
        restored: Mapping[str, Tensor],
    ) -> None:
        self.decays = {name: decay for name, decay in decays.items() if decay > 0}
        self.originals = networks
        self.networks = nn.ModuleDict(dict(networks.items()))
        for name in self.decays:
            average = _copy(networks[name], name).eval().requires_grad_(False)
            weights = unpack(f"average.{name}", restored)
            if weights:
                average.load_state_dict(weights)
            self.networks[name] = average

    @torch.no_grad()
    def update(self, name: str, steps: int) -> None:
        """Take the weights after step number `steps` (from 1) of a network into its average.

        The first steps count more: the average is over about a ninth of all steps until that is
        longer than what the decay remembers.
        """
        if name not in self.decays:
            return
        keep = min(self.decays[name], steps / (steps + 9))
        average, network = self.networks[name], self.originals[name]
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)
        for old, new in zip(average.buffers(), network.buffers(), strict=True):
            old.copy_(new)

    def tensors(self) -> dict[str, Tensor]:
        """The averages for a checkpoint."""
        found: dict[str, Tensor] = {}
        for name in self.decays:
            found |= pack(f"average.{name}", self.networks[name])
        return found

    def settle(self) -> None:
        """The networks take their averages: the end of a stage."""
        for name in self.decays:
            self.originals[name].load_state_dict(self.networks[name].state_dict())


def _copy(network: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:  # weight_norm of old holds results of computation
        raise BadInput(
            f"optimisers.{name}.average: this network cannot be copied, and an average needs "
            f"a copy ({error}); set it to 0"
        ) from error
