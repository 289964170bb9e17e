"""gzip and zlib: by ISA-L, which packs several times as fast, where it is installed.

Both write the same formats; the bytes differ, as they may from one version to another.
"""

from __future__ import annotations

try:
    from isal import igzip as gzip
    from isal import isal_zlib as zlib

    LEVEL = 2  # 3 packs label maps less, for longer
except ImportError:  # on processors that it is not made for
    import gzip  # type: ignore[no-redef]
    import zlib  # type: ignore[no-redef]

    LEVEL = 3  # a good part of what can be gained on scans and label maps, at little cost

# isal's stubs declare its error as an instance
DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)  # type: ignore[assignment]
