"""How much a map stretches space: its Jacobian determinant as images and per structure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.inference.chain import fit, read_chain, whole_map
from deepatlas.io.atomic import write_text
from deepatlas.io.header import say_if_forms_differ
from deepatlas.io.images import read_geometry, read_header, read_labels, write_image
from deepatlas.io.paths import refuse_overwriting
from deepatlas.spatial.geometry import Volume
from deepatlas.spatial.jacobian import determinant_on, folded_percent

DETERMINANT, LOG, TABLE = "jacobian.nii.gz", "log_jacobian.nii.gz", "volume_change.csv"
_COLUMNS = ("label", "voxels", "volume_mm3", "mapped_volume_mm3", "change_percent", "folded_voxels")


@dataclass(frozen=True)
class VolumeChange:
    """What was written, and how much of the grid folds.

    Attributes
    ----------
    folds_percent : of the voxels inside the grid, those whose determinant is not positive.
    """

    determinant: Path
    log_determinant: Path
    table: Path | None
    folds_percent: float

    @property
    def files(self) -> tuple[Path, ...]:
        """All files written."""
        return (self.determinant, self.log_determinant, *([self.table] if self.table else []))


def jacobian(
    transforms: Sequence[Path],
    *,
    onto: Path,
    out: Path,
    labels: Path | None = None,
    inverse: bool = False,
) -> VolumeChange:
    """Write jacobian.nii.gz, log_jacobian.nii.gz and, with labels, volume_change.csv into `out`.

    The determinant is that of the map from fixed to moving in mm, affine parts included: 2 where a
    mm^3 of the fixed scan shows what takes 2 mm^3 in the moving scan. Its logarithm is NaN where
    the map folds.

    Parameters
    ----------
    transforms : files, in the order in which a point of the fixed scan passes them.
    onto : the fixed scan, on whose grid the determinant is taken.
    labels : label map on that grid, for the volume of each structure in both scans.
    inverse : the map from moving to fixed; then `onto` and `labels` are the moving scan's.

    Raises
    ------
    BadInput : files that cannot be read or do not fit.
    """
    out = Path(out)
    refuse_overwriting(
        [*transforms, onto, labels], [out / name for name in (DETERMINANT, LOG, TABLE)]
    )
    links = read_chain(transforms)
    whole = whole_map(links, inverse=inverse)
    say_if_forms_differ(read_header(onto), onto)
    grid = read_geometry(onto)
    fit(links, grid.ndim, onto)
    found = None if labels is None else read_labels(labels)[0]
    if found is not None and not found.geometry.coincides_with(grid):
        raise BadInput(
            f"{labels}: does not lie on the grid of {onto}; give the labels of that scan"
        )
    determinant = determinant_on(whole, grid)
    write_image(out / DETERMINANT, Volume(determinant, grid), like=onto)
    logarithm = torch.where(determinant > 0, determinant, torch.nan).log()
    write_image(out / LOG, Volume(logarithm, grid), like=onto)
    if found is None:
        (out / TABLE).unlink(missing_ok=True)  # of another map
    else:
        cell_mm3 = float(torch.linalg.det(grid.affine[:-1, :-1]).abs())
        write_text(out / TABLE, _table(found.data, determinant, cell_mm3))
    return VolumeChange(
        out / DETERMINANT,
        out / LOG,
        None if found is None else out / TABLE,
        folded_percent(determinant[None]),
    )


def _table(labels: Tensor, determinant: Tensor, cell_mm3: float) -> str:
    """One line per structure, background left out."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for value in labels.unique().tolist():
        if value == 0:
            continue
        inside = determinant[labels == value].double()
        volume, mapped = len(inside) * cell_mm3, float(inside.sum()) * cell_mm3
        writer.writerow(
            {
                "label": value,
                "voxels": len(inside),
                "volume_mm3": f"{volume:.3f}",
                "mapped_volume_mm3": f"{mapped:.3f}",
                "change_percent": f"{100 * (mapped / volume - 1):.3f}",
                "folded_voxels": int((~(inside > 0)).sum()),
            }
        )
    return out.getvalue()
