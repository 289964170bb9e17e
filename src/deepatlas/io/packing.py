"""gzip and zlib: by ISA-L, which packs several times as fast, where it is installed.

Both write the same formats; the bytes differ, as they may from one version to another.
"""

from __future__ import annotations

import gzip as _gzip
import zlib as _zlib
from typing import Any

gzip: Any = _gzip
zlib: Any = _zlib
LEVEL = 3  # a good part of what can be gained on scans and label maps, at little cost
try:
    from isal import igzip, isal_zlib
except ImportError:  # on processors that it is not made for
    pass
else:
    gzip, zlib, LEVEL = igzip, isal_zlib, 2

DAMAGED = (EOFError, _gzip.BadGzipFile, _zlib.error, zlib.error)
