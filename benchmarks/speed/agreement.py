"""Whether the fast steps learn the same: the tutorial's losses after as many steps of each.

All start from the same weights and see the same batches of phantoms, in the tutorial's order (40
of registration, 5 of segmentation); the two runs of each side differ in what dropout draws. Then
MONAI's parts, in float32, score all on the same pairs of subjects that none has seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch

from benchmarks.speed.rows.tutorial import CLASSES, ROUND, Monai, Ours, Pair, Trainer, Which
from deepatlas.data.phantom import Phantom

TRAINING, HELD_OUT, SEEDS, SEED = 8, 8, 2, 2026


def agreement(size: int, steps: int) -> dict[str, Any]:
    """Losses after that many steps, and how far apart they lie.

    Returns
    -------
    losses by run; of each step, `apart` is how far the mean of ours lies from that of MONAI's, and
    `between` how far MONAI's two lie from each other.
    """
    phantom = Phantom(seed=SEED, shape=(size,) * 3)
    with torch.device("cpu"):
        subjects = [_scan(phantom, k) for k in range(TRAINING + HELD_OUT)]
    device = torch.get_default_device()
    subjects = [(image.to(device), labels.to(device)) for image, labels in subjects]
    parts = Monai(size)
    trainers = {
        name: [Trainer(side) for _ in range(SEEDS)]
        for name, side in (("deepatlas", Ours(size)), ("MONAI", parts))
    }
    start = _scores(trainers["MONAI"][0], parts, subjects[TRAINING:])
    draw = random.Random(SEED)
    for index in range(steps):
        place = index % sum(ROUND.values())
        which: Which = "registration" if place < ROUND["registration"] else "segmentation"
        pair = _pair(subjects, [draw.sample(range(TRAINING), 2) for _ in range(2)])
        for side in trainers.values():
            for seed, trainer in enumerate(side):
                torch.manual_seed(SEED + index + steps * seed)  # dropout
                trainer.step(which, pair)
    losses = {
        name: [_scores(trainer, parts, subjects[TRAINING:]) for trainer in side]
        for name, side in trainers.items()
    }
    means = {
        name: {which: mean(scores[which] for scores in side) for which in ROUND}
        for name, side in losses.items()
    }
    one, other = losses["MONAI"]
    return {
        "size": size,
        "steps": steps,
        "start": start,
        "losses": losses,
        "apart": {w: abs(means["deepatlas"][w] / means["MONAI"][w] - 1) for w in ROUND},
        "between": {w: abs(one[w] / other[w] - 1) for w in ROUND},
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
