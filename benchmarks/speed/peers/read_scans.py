"""A script that reads a cohort, and needs PyTorch: `python read_scans.py COHORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch


def main() -> None:
    """Read every image and label map, and look at their values."""
    for path in sorted(Path(sys.argv[1]).glob("*Tr/*.nii.gz")):
        values = torch.from_numpy(nib.load(path).get_fdata(dtype=np.float32))
        assert torch.isfinite(values).all()


if __name__ == "__main__":
    main()
