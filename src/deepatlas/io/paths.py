"""Which files a command would write over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deepatlas.errors import BadInput


def refuse_overwriting(read: Iterable[Path | None], written: Iterable[Path]) -> None:
    """BadInput where a file that is read would be replaced, or a folder that is read added to."""
    targets = {_identity(path): path for path in written}
    folders = {_identity(path.parent) for path in targets.values()}
    faults = []
    for path in dict.fromkeys(path for path in read if path is not None and path.exists()):
        identity = _identity(path)
        if identity in targets:
            target = targets[identity]
            faults.append(f"{path}: would be overwritten by {target}; give another --out")
        if path.is_dir() and identity in folders:
            faults.append(f"{path}: the results would lie among its files; give another --out")
    if faults:
        raise BadInput(faults)


def _identity(path: Path) -> tuple[int, int] | Path:
    """The same for all names of what is there; a path by itself where nothing is."""
    if not path.exists():
        return path
    found = path.stat()
    return found.st_dev, found.st_ino
