"""Which files a command would write over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deepatlas.errors import BadInput


def refuse_overwriting(read: Iterable[Path | None], written: Iterable[Path]) -> None:
    """BadInput where a file that is read would be replaced by one that is written."""
    targets = [path for path in written if path.exists()]
    faults = [
        f"{path}: would be overwritten by {target}; give another --out"
        for path in dict.fromkeys(path for path in read if path is not None)
        for target in targets
        if path.exists() and target.samefile(path)
    ]
    if faults:
        raise BadInput(faults)
