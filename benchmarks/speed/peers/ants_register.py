"""What `deepatlas register` does, with ANTs: `python ants_register.py MOVING FIXED OUT`.

Affine and SyN with ANTs' own defaults; writes moved.nii.gz, transform.h5 and affine.mat.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ants


def main() -> None:
    """Register, and write the three files."""
    moving, fixed = (ants.image_read(path) for path in sys.argv[1:3])
    out = Path(sys.argv[3])
    out.mkdir(parents=True)
    affine = ants.registration(fixed=fixed, moving=moving, type_of_transform="Affine")
    matrix = affine["fwdtransforms"][0]
    found = ants.registration(
        fixed=fixed, moving=moving, type_of_transform="SyNOnly", initial_transform=matrix,
        outprefix=str(out / "ants"), write_composite_transform=True,
    )  # fmt: skip
    ants.image_write(found["warpedmovout"], str(out / "moved.nii.gz"))
    shutil.copy(found["fwdtransforms"], out / "transform.h5")
    shutil.copy(matrix, out / "affine.mat")


if __name__ == "__main__":
    main()
