"""Warps and scaling and squaring, forward and backward, against MONAI, voxelmorph and SimpleITK."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK
import torch
from monai.networks.blocks import DVF2DDF, Warp
from torch import Tensor

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Outputs, Row, with_gradients
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.jacobian import jacobian_determinant
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, resample
from deepatlas.spatial.velocity import integrate
from deepatlas.spatial.warp import warp

warnings.filterwarnings("ignore", "monai.networks.blocks.Warp")
SQUARINGS, ZERO_OUTSIDE = 7, "float32, zero outside"
Function = Callable[..., Tensor]


def in_both(
    name: str, function: Function, given: Sequence[Tensor], wanted: Sequence[bool], **more: str
) -> Candidate:
    """A candidate of a function of tensors, and the same in float64.

    Parameters
    ----------
    wanted : of which of the given tensors the gradient is.
    """

    def prepared(tensors: Sequence[Tensor]) -> Callable[[], Outputs]:
        leaves = [
            x.detach().clone().requires_grad_(w) for x, w in zip(tensors, wanted, strict=True)
        ]
        upstream = None
        if any(wanted):
            with torch.no_grad():
                out = function(*leaves)
            if out.ndim:
                # Laid out as the output is: what follows keeps the layout.
                values = inputs.smooth(*out.shape[:2], out.shape[2:], seed=9)
                upstream = torch.empty_like(out).copy_(values)

        def run() -> Outputs:
            leaves_wanted = [x for x in leaves if x.requires_grad]
            if not leaves_wanted:
                with torch.no_grad():
                    return (function(*leaves),)
            return with_gradients(function(*leaves), leaves_wanted, upstream)

        return run

    def exact() -> Outputs:
        return prepared([x.double() if x.is_floating_point() else x for x in given])()

    return Candidate(name, prepared(given), exact=exact, **more)


def _warping(
    shape: Sequence[int], batch: int, channels: int, by_image: bool, by_field: bool
) -> Case:
    image = inputs.image(batch, shape) if channels == 1 else inputs.probabilities(
        batch, channels, shape
    )  # fmt: skip
    field = inputs.within_cells(inputs.field(batch, shape))
    given, wanted = (image, field), (by_image, by_field)
    peer = Warp(mode="bilinear", padding_mode="border")
    d, voxels = len(shape), batch * math.prod(shape)
    forward = 2 * channels + d
    backward = (channels if by_image else 0) + (channels + d if by_field else 0) + channels + d
    return Case(
        [
            in_both("deepatlas", lambda x, u: warp(x, u, outside="border"), given, wanted),
            in_both("MONAI", peer, given, wanted),
        ],
        least_bytes=4 * voxels * (forward + backward),
        note=f"batch {batch}, {channels} channels, outside as at the border",
    )


def warp_image(size: int) -> Case:
    """As in a registration step: the image is a constant."""
    return _warping([size] * 3, 2, 1, False, True)


def warp_both(size: int) -> Case:
    """Gradient by the image too."""
    return _warping([size] * 3, 2, 1, True, True)


def warp_maps(size: int) -> Case:
    """The anatomy loss of one pair with 15 structures."""
    return _warping([size] * 3, 1, 16, False, True)


def warp_maps_back(size: int) -> Case:
    """The anatomy loss of a segmentation step: gradient by the maps."""
    return _warping([size] * 3, 1, 16, True, False)


def integrate_velocity(size: int) -> Case:
    """Scaling and squaring."""
    shape = [size] * 3
    given = (inputs.field(2, shape),)
    peer = DVF2DDF(SQUARINGS, mode="bilinear", padding_mode="border")
    return Case(
        [
            in_both("deepatlas", lambda v: integrate(v, squarings=SQUARINGS), given, [True]),
            in_both("MONAI", peer, given, [True]),
            in_both(
                "voxelmorph", _voxelmorph_integral(), given, [True], how="float32, zero outside"
            ),
        ],
        least_bytes=4 * 2 * size**3 * 3 * (2 + 3) * SQUARINGS,
        comparable=False,
        note="batch 2, 7 squarings; the least counts each of them by itself",
    )


def _voxelmorph_integral() -> Function:
    from voxelmorph.nn.modules import IntegrateVelocityField

    module: Function = IntegrateVelocityField(steps=SQUARINGS)
    return module


def warp_forward(size: int) -> Case:
    """Forward only, what inference does; SimpleITK's field is in mm and its own layout."""
    shape = [size] * 3
    image, field = inputs.image(1, shape), inputs.field(1, shape)
    itk_image = SimpleITK.GetImageFromArray(image[0, 0].cpu().numpy().transpose(2, 1, 0).copy())
    itk_field = SimpleITK.GetImageFromArray(
        field[0].cpu().numpy().transpose(3, 2, 1, 0).astype(np.float64), isVector=True
    )

    def by_itk() -> Outputs:
        out = SimpleITK.Warp(itk_image, itk_field, SimpleITK.sitkLinear)
        return (torch.from_numpy(SimpleITK.GetArrayFromImage(out).transpose(2, 1, 0))[None, None],)

    return Case(
        [
            in_both("deepatlas", warp, (image, field), [False, False]),
            Candidate("SimpleITK", by_itk, "float32, field float64"),
        ],
        least_bytes=4 * size**3 * 5,
        comparable=False,
        note="batch 1, forward only, zero outside (SimpleITK: also within half a voxel of it)",
    )


def jacobian(size: int) -> Case:
    """Determinants, forward only; SimpleITK's is float64 inside."""
    shape = [size] * 3
    field = inputs.field(1, shape, voxels=1.0)
    itk_field = SimpleITK.GetImageFromArray(
        field[0].cpu().numpy().transpose(3, 2, 1, 0).astype(np.float64), isVector=True
    )

    def by_itk() -> Outputs:
        out = SimpleITK.DisplacementFieldJacobianDeterminant(itk_field)
        return (torch.from_numpy(SimpleITK.GetArrayFromImage(out).transpose(2, 1, 0))[None],)

    return Case(
        [
            in_both("deepatlas", jacobian_determinant, (field,), [False]),
            Candidate("SimpleITK", by_itk, "float64"),
        ],
        least_bytes=4 * size**3 * 4,
        comparable=False,
        note="batch 1, forward only",
    )


def resampling(size: int, labels: bool) -> Case:
    """A scan of 1 mm moved onto one of 1.1 mm, by affine map, field of 2 mm and affine map."""
    d = 3
    start, onto = (Geometry.axis_aligned([size] * d, [step] * d) for step in (1.0, 1.1))
    coarse = Geometry.axis_aligned([size // 2 + 16] * d, [2.0] * d)
    field = inputs.field(1, coarse.shape)[0].cpu()
    turn = torch.eye(d + 1, dtype=torch.float64)
    turn[0, 1], turn[1, 0], turn[2, 3] = 0.1, -0.1, 3.0
    whole = Composite([Affine(turn), DisplacementField(field, coarse), Affine(turn)])
    image = inputs.image(1, start.shape)[0, 0].cpu()
    if labels:
        image = (image * 30).long()
    volume = Volume(image, start)

    def ours() -> Outputs:
        return (resample(volume, onto, whole, labels=labels).data[None, None],)

    axes = (2, 1, 0)  # all grids lie along the axes, so RAS may stand for LPS
    array = image.numpy().transpose(axes).copy()
    moving, still = (SimpleITK.GetImageFromArray(array) for _ in range(2))
    for picture, grid in ((moving, start), (still, onto)):
        picture.SetSpacing(grid.spacing_mm)
        picture.SetOrigin(grid.affine[:d, d].tolist())
    millimetres = (2.0 * field).numpy().transpose(3, 2, 1, 0).astype(np.float64)
    vectors = SimpleITK.GetImageFromArray(millimetres, isVector=True)
    vectors.SetSpacing(coarse.spacing_mm)
    vectors.SetOrigin(coarse.affine[:d, d].tolist())
    linear = SimpleITK.AffineTransform(d)
    linear.SetMatrix(turn[:d, :d].flatten().tolist())
    linear.SetTranslation(turn[:d, d].tolist())
    chain = SimpleITK.CompositeTransform(
        [linear, SimpleITK.DisplacementFieldTransform(vectors), linear]
    )
    how = SimpleITK.sitkNearestNeighbor if labels else SimpleITK.sitkLinear

    def by_itk() -> Outputs:
        out = SimpleITK.Resample(moving, still, chain, how, 0.0)
        return (torch.from_numpy(SimpleITK.GetArrayFromImage(out).transpose(axes))[None, None],)

    return Case(
        [
            Candidate("deepatlas", ours, "places float64", exact=by_itk),
            Candidate("SimpleITK", by_itk, "places float64", exact=by_itk),
        ],
        note="one scan, forward only; errors against SimpleITK's own",
    )


FULL, SMALL, TINY = {"size": 96}, {"size": 80}, {"size": 16}
WARP = {"MONAI": 1.5}
ROWS = (
    Row("warp", "warp of an image", warp_image, FULL, SMALL, TINY, WARP),
    Row(
        "warp-both", "warp, gradient by the image too", warp_both, FULL, SMALL, TINY, {"MONAI": 1.5}
    ),
    Row("warp-maps", "warp of 16 maps of a pair", warp_maps, FULL, SMALL, TINY, WARP),
    Row("warp-maps-back", "the same, gradient by the maps", warp_maps_back, FULL, SMALL, TINY),
    Row("integrate", "scaling and squaring", integrate_velocity, FULL, SMALL, TINY, {"MONAI": 4.0}),
    Row("warp-forward", "warp, forward only", warp_forward, FULL, SMALL, TINY),
    Row("jacobian", "Jacobian determinant, forward only", jacobian, FULL, SMALL, TINY),
    *(
        Row(name, title, resampling, *({"size": n, "labels": labels} for n in (160, 96, 16)))
        for name, title, labels in (
            ("resample", "a scan onto another's grid through a whole map", False),
            ("resample-labels", "a label map by the same", True),
        )
    ),
)
