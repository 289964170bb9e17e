"""What `deepatlas register` does, with ANTs: `python ants_register.py MOVING FIXED OUT`.

Affine and SyN in one call, with ANTs' own defaults; writes moved.nii.gz, transform.h5,
affine.mat.
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
    found = ants.registration(
        fixed=fixed, moving=moving, type_of_transform="SyN", outprefix=str(out / "ants")
    )
    field, matrix = found["fwdtransforms"]
    ants.image_write(found["warpedmovout"], str(out / "moved.nii.gz"))
    warp = ants.transform_from_displacement_field(ants.image_read(field))
    whole = ants.compose_ants_transforms([warp, ants.read_transform(matrix)])
    ants.write_transform(whole, str(out / "transform.h5"))
    shutil.copy(matrix, out / "affine.mat")


if __name__ == "__main__":
    main()
