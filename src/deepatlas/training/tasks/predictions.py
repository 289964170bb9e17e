"""What the segmentation network says of whole scans; of a frozen one it is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

KEPT_BYTES = 2 << 30  # of logits in a stage; of scans beyond that they are computed every time


class Predictions:
    """Logits of scans, as constants.

    Parameters
    ----------
    network : image (N, 1, *S) to logits (N, classes, *S).
    frozen : the network does not change while this object lives: what it said of a scan is kept,
        without loss, in main memory and up to `KEPT_BYTES`. It is asked one scan at a time, so
        that its answer does not depend on those that were drawn together, and a resumed run gets
        the same.
    """

    def __init__(self, network: nn.Module, *, frozen: bool) -> None:
        self.network = network
        self.frozen = frozen
        self._kept: dict[str, Tensor] = {}
        self._room = KEPT_BYTES

    @torch.no_grad()
    def __call__(self, images: Tensor, ids: Sequence[str]) -> Tensor:
        """Logits (N, classes, *S), float32, of scans as they are (N, 1, *S), by their ids."""
        if not self.frozen:
            logits: Tensor = self.network(images)
            return logits
        found = [self._of(image, name) for image, name in zip(images, ids, strict=True)]
        return torch.stack(found).float()

    def _of(self, image: Tensor, name: str) -> Tensor:
        if name in self._kept:
            return self._kept[name].to(image.device)
        logits: Tensor = self.network(image[None])[0]
        half = logits.bfloat16()
        if torch.equal(half.float(), logits):  # as autocast gives them
            logits = half
        size = logits.numel() * logits.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[name] = logits.cpu()
        return logits
