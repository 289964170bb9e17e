"""What every overlap asks of its arguments."""

from __future__ import annotations

from torch import Tensor

from deepatlas.losses.precision import same_shape


def check_maps(
    prediction: Tensor, target: Tensor, present: Tensor | None, weight: Tensor | None
) -> None:
    """Raise ValueError where shapes do not fit; see `protocols.Overlap`."""
    same_shape(prediction, target, "prediction and target")
    batch, channels = prediction.shape[:2]
    if channels < 2:
        raise ValueError(f"maps need the background and a class, got shape {prediction.shape}")
    if present is not None and present.shape != (batch, channels - 1):
        raise ValueError(
            f"present must have shape {(batch, channels - 1)}, one entry for each scan and "
            f"foreground class; got {tuple(present.shape)}"
        )
    if weight is not None and weight.shape != (batch, 1, *prediction.shape[2:]):
        raise ValueError(
            f"weight must have shape {(batch, 1, *prediction.shape[2:])}; got {tuple(weight.shape)}"
        )
