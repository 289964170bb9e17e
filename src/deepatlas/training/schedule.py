"""Learning rates as a pure function of how far a group has come in its stage."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Optimiser:
    """Adam with a rate that warms up and falls to zero.

    Parameters
    ----------
    rate : the largest learning rate.
    schedule : "cosine" or "linear" to zero, "constant", or "steps" (a fifth after 1/2 and 3/4).
    warmup : share of the steps over which the rate grows from zero.
    weight_decay : decoupled (AdamW).
    clip : largest norm of the gradient.
    average : keep a running average of the weights, of which a step keeps this share (0.99: about
        the last 100 steps). The average is what is validated, written and taught with; 0 for none.
    """

    rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.02
    weight_decay: float = 0.0
    clip: float = 10.0
    average: float = 0.0

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.clip > 0 and self.weight_decay >= 0):
            raise ValueError("rate and clip must be positive, weight_decay at least 0")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is at least 0 and below 1, not {self.average}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the steps, 0 to 1, not {self.warmup}")
        if self.schedule not in ("cosine", "linear", "constant", "steps"):
            raise ValueError(
                f"schedule must be cosine, linear, constant or steps, not {self.schedule!r}"
            )

    def rate_at(self, step: int, steps: int) -> float:
        """The rate of step `step` (from 0) of `steps`."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        factor = {
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
            "linear": 1 - done,
            "constant": 1.0,
            "steps": 0.2 ** ((done >= 0.5) + (done >= 0.75)),
        }[self.schedule]
        return self.rate * factor
