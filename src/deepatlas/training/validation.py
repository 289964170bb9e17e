"""Scores on validation scans, on the working grid; they choose the model, never the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepatlas.data.batches import one_hot
from deepatlas.data.prepare import PreparedScan
from deepatlas.spatial.jacobian import folds_percent
from deepatlas.spatial.warp import warp


class Validation:
    """Labelled scans that are not trained on.

    Parameters
    ----------
    scans : all with labels; pairs are fixed in ascending order of ids against moving descending.
    """

    def __init__(self, scans: Sequence[PreparedScan], device: torch.device) -> None:
        self.scans = sorted(scans, key=lambda scan: scan.id)
        self.device = device
        n = len(self.scans)
        self.pairs = [(n - 1 - i, i) for i in range(n) if n - 1 - i != i]

    @torch.no_grad()
    def score(self, networks: nn.ModuleDict, names: Sequence[str]) -> dict[str, float]:
        """Scores of the named networks, "segmentation.dice", "registration.dice" and others."""
        scores: dict[str, float] = {}
        if "segmentation" in names and self.scans:
            scores["segmentation.dice"] = self._segmentation(networks["segmentation"])
        if "registration" in names and self.pairs:
            scores.update(self._registration(networks["registration"]))
        return scores

    def _segmentation(self, network: nn.Module) -> float:
        values = []
        for scan in self.scans:
            labels = network(scan.image[None].to(self.device, torch.float32)).argmax(dim=1)[0].cpu()
            values.append(_dice(labels, scan, scan.present))
        return _mean(values)

    def _registration(self, network: nn.Module) -> dict[str, float]:
        values, folds = [], []
        for moving, fixed in ((self.scans[m], self.scans[f]) for m, f in self.pairs):
            images = [scan.image[None].to(self.device, torch.float32) for scan in (moving, fixed)]
            displacement = network(*images).displacement.cpu()
            labels = moving.labels
            assert labels is not None
            warped = warp(labels[None, None].float(), displacement, mode="nearest")
            values.append(_dice(warped[0, 0].long(), fixed, moving.present & fixed.present))
            folds.append(folds_percent(displacement))
        return {
            "registration.dice": _mean(values),
            "registration.folds_percent": sum(folds) / len(folds),
        }


def _dice(labels: Tensor, scan: PreparedScan, present: Tensor) -> float:
    """Mean Dice over the foreground structures that are annotated; nan where there is none.

    Voxels that either side ignores are left out.
    """
    assert scan.labels is not None
    classes = len(scan.present) + 1
    pair = torch.stack([labels.long(), scan.labels.long()]).flatten(1)
    pair = pair[:, (pair < classes).all(dim=0)]
    flat = one_hot(pair, classes)[:, 1:]
    both, total = (flat[0] * flat[1]).sum(dim=-1), flat.sum(dim=(0, 2))
    counted = (total > 0) & present
    return float((2 * both[counted] / total[counted]).mean()) if bool(counted.any()) else math.nan


def _mean(values: Sequence[float]) -> float:
    """Mean of what is defined; nan, which no score is better than, where nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
