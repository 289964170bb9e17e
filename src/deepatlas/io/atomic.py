"""Files that are whole or absent: written aside, flushed to the disk, renamed over the old one."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deepatlas.errors import DeepAtlasError

PARTIAL = ".partial-"
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replacing(path: Path, *, size: int | None = None, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `path` on success and vanishes on failure.

    A reader, and a process killed at any moment, sees the old file or the new one. The folder
    is made if it is missing; the temporary name is hidden and keeps the extension.

    Parameters
    ----------
    path : the file to write or replace.
    size : bytes that will be written, if known; a message about a full disk says so.
    durable : flush to the disk before renaming; False for files that can be made again.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    """
    path = Path(path)
    aside = path.with_name(f"{PARTIAL}{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if durable:
            _flush(aside)
        os.replace(aside, path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        _remove(aside)  # before the free room is measured
        message = _explain(error, path, size)
        if message is None:
            raise
        raise DeepAtlasError(message) from error
    finally:
        _remove(aside)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path, size=len(content), durable=durable) as aside:
        aside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with the line ends as given, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all.

    NumPy and torch scalars and arrays, paths and tuples are taken; NaN and infinities become
    null, for JSON has no word for them.
    """
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path, *, older_than_s: float) -> None:
    """Remove temporary files that killed processes left in `folder`; faults are no matter."""
    with suppress(OSError):
        for leftover in Path(folder).glob(f"{PARTIAL}*"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > older_than_s:
                    leftover.unlink()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _plain(value: Any) -> Any:
    """`value` in the types that JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _flush(path: Path) -> None:
    """Push a file, or the names in a folder, through to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems cannot flush a folder; the rename is still atomic there
        if not is_folder or error.errno in _NO_ROOM:
            raise
    finally:
        os.close(handle)


def _explain(error: OSError, path: Path, size: int | None) -> str | None:
    """What a user can do about `error`, or None if it is not about the place written to."""
    if error.errno in _NO_ROOM:
        need = "" if size is None else f" about {_megabytes(size)} are needed there and"
        return (
            f"{path}: the disk is full or a quota is reached ({error.strerror});{need} "
            f"{_free(path.parent)} are free in {path.parent}; "
            "make room or choose another folder"
        )
    if error.errno in _NO_RIGHT:
        return (
            f"{path}: cannot be written ({error.strerror}); "
            f"choose a folder that you may write to, or change the rights of {path.parent}"
        )
    if error.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}:
        return f"{path}: cannot be written ({error.strerror}); choose another path"
    return None


def _free(folder: Path) -> str:
    """Room left where `folder` is or would be."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return _megabytes(shutil.disk_usage(place).free)
    return "unknown megabytes"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
