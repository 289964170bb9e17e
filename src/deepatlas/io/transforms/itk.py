"""Our transforms as ITK states them, and back: LPS mm, a list of records, each a type and numbers.

ITK's files (HDF5, MATLAB 4, text) differ in how they store such records and in nothing else. A
composite of ITK applies the record that was added last first; here, lists are in the order of
application, first to last, as in `Composite`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from deepatlas.errors import BadInput
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform

Array = NDArray[np.floating]
COMPOSITE = "CompositeTransform"
FIELD = "DisplacementFieldTransform"


@dataclass(frozen=True)
class Record:
    """One transform of a file.

    Attributes
    ----------
    kind : ITK's name of it without precision and dimensions: "AffineTransform".
    ndim : 2 or 3.
    fixed, numbers : ITK's fixed parameters and parameters.
    """

    kind: str
    ndim: int
    fixed: Array = field(default_factory=lambda: np.zeros(0))
    numbers: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def type_name(self) -> str:
        """ITK's full name; a field is stored in single precision, all else in double."""
        precision = "float" if self.numbers.dtype == np.float32 else "double"
        return f"{self.kind}_{precision}_{self.ndim}_{self.ndim}"


def parse_type(name: str, path: object) -> tuple[str, int]:
    """Kind and dimensions of a full type name; BadInput if it is none of two or three."""
    kind, _, rest = name.partition("_")
    sizes = rest.split("_")[1:]
    if sizes not in (["2", "2"], ["3", "3"]):
        raise BadInput(f"{path}: holds {name!r}; expected an ITK transform of 2 or 3 dimensions")
    return kind, int(sizes[0])


def to_records(transform: Transform) -> list[Record]:
    """The parts of a transform, in order of application."""
    return [
        _affine_record(part) if isinstance(part, Affine) else _field_record(part)
        for part in transform.parts()
    ]


def from_records(records: Sequence[Record], path: object) -> Transform:
    """The transform of a file's records, in order of application.

    Raises
    ------
    BadInput : a kind that is not known here, or numbers that do not make such a transform.
    """
    parts = [_from_record(record, path) for record in records if record.kind != COMPOSITE]
    if len({record.ndim for record in records}) > 1:
        raise BadInput(f"{path}: mixes transforms of two and three dimensions; write one kind")
    if not parts:
        raise BadInput(f"{path}: holds no transform; write it again")
    return parts[0] if len(parts) == 1 else Composite(parts)


def signs(ndim: int) -> Array:
    """RAS to LPS and back: the first two axes change sign."""
    return np.array([-1.0, -1.0, 1.0][:ndim])


def _affine_record(affine: Affine) -> Record:
    matrix = affine.matrix.numpy()
    d = len(matrix) - 1
    turn = signs(d)
    rotation = matrix[:d, :d] * turn * turn[:, None]
    return Record(
        "AffineTransform", d, np.zeros(d), np.concatenate([rotation.ravel(), matrix[:d, d] * turn])
    )


def _field_record(part: DisplacementField) -> Record:
    grid = part.geometry
    d, affine = grid.ndim, grid.affine.numpy()
    spacing = np.asarray(grid.spacing_mm)
    turn = signs(d)
    direction = affine[:d, :d] / spacing * turn[:, None]
    fixed = np.concatenate([grid.shape, affine[:d, d] * turn, spacing, direction.ravel()])
    to_mm = torch.from_numpy(affine[:d, :d] * turn[:, None]).float()
    step = torch.einsum("ij,j...->...i", to_mm, part.voxels)  # vectors, mm, LPS
    fastest_first = step.permute(*reversed(range(d)), d)
    return Record(FIELD, d, fixed, fastest_first.contiguous().numpy().ravel())


def _from_record(record: Record, path: object) -> Transform:
    """One of our transforms from one of ITK's."""
    if not (np.isfinite(record.fixed).all() and np.isfinite(record.numbers).all()):
        raise BadInput(f"{path}: its {record.kind} has numbers that are NaN or infinite")
    if record.kind == FIELD:
        return _field(record, path)
    reader = _LINEAR.get(record.kind)
    if reader is None:
        known = ", ".join(sorted([*_LINEAR, FIELD, COMPOSITE]))
        raise BadInput(
            f"{path}: holds a {record.kind}, which is not read here ({known} are); "
            "write it as a displacement field"
        )
    d = record.ndim
    try:
        matrix, centre, offset = reader(record)
    except (ValueError, IndexError):
        raise BadInput(
            f"{path}: {len(record.numbers)} parameters and {len(record.fixed)} fixed ones do not "
            f"make a {record.kind} of {d} dimensions; write it again"
        ) from None
    turn = signs(d)
    whole = np.eye(d + 1)
    whole[:d, :d] = matrix * turn * turn[:, None]
    whole[:d, d] = (offset + centre - matrix @ centre) * turn
    if np.linalg.matrix_rank(whole) < d + 1:
        raise BadInput(f"{path}: its {record.kind} has no inverse; it is no map of space")
    return Affine(torch.from_numpy(whole))


def _field(record: Record, path: object) -> DisplacementField:
    d = record.ndim
    if len(record.fixed) != 3 * d + d * d:
        raise BadInput(f"{path}: its field does not say where its grid lies; write it again")
    shape = tuple(int(n) for n in record.fixed[:d])
    origin, spacing = record.fixed[d : 2 * d], record.fixed[2 * d : 3 * d]
    turn = signs(d)
    affine = np.eye(d + 1)
    affine[:d, :d] = record.fixed[3 * d :].reshape(d, d) * spacing * turn[:, None]
    affine[:d, d] = origin * turn
    if min(shape) < 1 or math.prod(shape) * d != len(record.numbers):
        raise BadInput(
            f"{path}: {len(record.numbers)} numbers for a field of {shape} voxels; copy it again"
        )
    if np.linalg.matrix_rank(affine[:d, :d]) < d:
        raise BadInput(f"{path}: the grid of its field is flat; write it again")
    vectors = torch.from_numpy(record.numbers.reshape(*reversed(shape), d).astype(np.float64))
    to_voxels = torch.from_numpy(np.linalg.inv(affine[:d, :d]) * turn)
    voxels = torch.einsum("ij,...j->i...", to_voxels, vectors.permute(*reversed(range(d)), d))
    return DisplacementField(voxels, Geometry(shape, torch.from_numpy(affine)))


Linear = tuple[Array, Array, Array]  # matrix, centre, offset


def _general(record: Record) -> Linear:
    d = record.ndim
    matrix, offset = record.numbers[: d * d].reshape(d, d), record.numbers[d * d :].reshape(d)
    return matrix, _centre(record), offset


def _centre(record: Record) -> Array:
    d = record.ndim
    return np.zeros(d) if len(record.fixed) < d else record.fixed[:d]


def _translation(record: Record) -> Linear:
    d = record.ndim
    return np.eye(d), np.zeros(d), record.numbers.reshape(d)


def _identity(record: Record) -> Linear:
    d = record.ndim
    return np.eye(d), np.zeros(d), np.zeros(d)


def _scale(record: Record) -> Linear:
    return np.diag(record.numbers.reshape(record.ndim)), _centre(record), np.zeros(record.ndim)


def _turn(axis: int, angle: float) -> Array:
    """Rotation about an axis of space."""
    first, second = (n for n in range(3) if n != axis)
    sign = -1.0 if axis == 1 else 1.0
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = (
        -sign * math.sin(angle), sign * math.sin(angle),
    )  # fmt: skip
    return matrix


def _euler_3d(record: Record) -> Linear:
    """Angles about x, y, z and an offset; the fourth fixed parameter tells the order."""
    x, y, z = (_turn(axis, float(record.numbers[axis])) for axis in range(3))
    zyx = len(record.fixed) > 3 and record.fixed[3] != 0
    return z @ y @ x if zyx else z @ x @ y, _centre(record), record.numbers[3:6].reshape(3)


def _flat_turn(angle: float) -> Array:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _euler_2d(record: Record) -> Linear:
    return _flat_turn(float(record.numbers[0])), _centre(record), record.numbers[1:3].reshape(2)


def _similarity_2d(record: Record) -> Linear:
    scale, angle = (float(value) for value in record.numbers[:2])
    return scale * _flat_turn(angle), _centre(record), record.numbers[2:4].reshape(2)


def _versor(record: Record) -> Array:
    """The rotation of a unit quaternion's vector part."""
    v = record.numbers[:3].reshape(3)
    if v @ v > 1 + 1e-9:
        raise ValueError("longer than a unit quaternion's")
    w = math.sqrt(max(0.0, 1 - float(v @ v)))
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _versor_rigid(record: Record) -> Linear:
    return _versor(record), _centre(record), record.numbers[3:6].reshape(3)


def _similarity_3d(record: Record) -> Linear:
    scale = float(record.numbers[6])
    return scale * _versor(record), _centre(record), record.numbers[3:6].reshape(3)


_LINEAR: dict[str, Callable[[Record], Linear]] = {
    "AffineTransform": _general,
    "MatrixOffsetTransformBase": _general,
    "TranslationTransform": _translation,
    "IdentityTransform": _identity,
    "ScaleTransform": _scale,
    "Euler3DTransform": _euler_3d,
    "Euler2DTransform": _euler_2d,
    "Rigid2DTransform": _euler_2d,
    "Similarity2DTransform": _similarity_2d,
    "VersorRigid3DTransform": _versor_rigid,
    "Similarity3DTransform": _similarity_3d,
}
