"""Whether the fast steps learn the same: the tutorial's losses after as many steps of each.

Both start from the same weights and see the same batches of phantoms, in the tutorial's order (40
of registration, 5 of segmentation). Then MONAI's parts, in float32, score both on the same pairs
of subjects that neither has seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.speed.rows.tutorial import CLASSES, ROUND, Monai, Ours, Pair, Trainer, Which
from deepatlas.data.phantom import Phantom

TRAINING, HELD_OUT, SEED = 8, 8, 2026


def agreement(size: int, steps: int) -> dict[str, Any]:
    """Losses after that many steps, by candidate, and how far ours lie from MONAI's."""
    phantom = Phantom(seed=SEED, shape=(size,) * 3)
    with torch.device("cpu"):
        subjects = [_scan(phantom, k) for k in range(TRAINING + HELD_OUT)]
    device = torch.get_default_device()
    subjects = [(image.to(device), labels.to(device)) for image, labels in subjects]
    parts = Monai(size)
    trainers = {"deepatlas": Trainer(Ours(size)), "MONAI": Trainer(parts)}
    start = _scores(trainers["MONAI"], parts, subjects[TRAINING:])
    draw = random.Random(SEED)
    for index in range(steps):
        place = index % sum(ROUND.values())
        which: Which = "registration" if place < ROUND["registration"] else "segmentation"
        pair = _pair(subjects, [draw.sample(range(TRAINING), 2) for _ in range(2)])
        for trainer in trainers.values():
            torch.manual_seed(SEED + index)  # dropout
            trainer.step(which, pair)
    losses = {name: _scores(t, parts, subjects[TRAINING:]) for name, t in trainers.items()}
    return {
        "size": size,
        "steps": steps,
        "start": start,
        "losses": losses,
        "apart": {
            which: abs(losses["deepatlas"][which] / losses["MONAI"][which] - 1) for which in ROUND
        },
    }


Scan = tuple[torch.Tensor, torch.Tensor]


def _scan(phantom: Phantom, index: int) -> Scan:
    """Image and labels (1, 1, *S), the structures merged into the tutorial's four classes."""
    subject = phantom.subject(index)
    labels = torch.unique(subject.labels.data, return_inverse=True)[1].clamp(max=CLASSES - 1)
    return subject.image.data[None, None], labels[None, None]


def _pair(subjects: Sequence[Scan], chosen: Sequence[Sequence[int]]) -> Pair:
    """A batch of (moving, fixed)."""
    moving = torch.cat([subjects[m][0] for m, _ in chosen])
    fixed = torch.cat([subjects[f][0] for _, f in chosen])
    return Pair(moving, fixed, torch.cat([subjects[f][1] for _, f in chosen]))


@torch.no_grad()
def _scores(trainer: Trainer, parts: Monai, held_out: Sequence[Scan]) -> dict[str, float]:
    """Mean loss of both steps over a ring of pairs, by MONAI's parts and in eval mode."""
    judge = Trainer(parts)
    judge.networks.load_state_dict(trainer.networks.state_dict())
    judge.networks.eval()
    pairs = [_pair(held_out, [(k, (k + 1) % len(held_out))]) for k in range(len(held_out))]
    return {
        which: sum(float(judge.loss(which, pair)) for pair in pairs) / len(pairs) for which in ROUND
    }
