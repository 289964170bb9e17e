"""`python -m deepatlas` is the command `deepatlas`."""

from __future__ import annotations

import sys

from deepatlas.cli import main

if __name__ == "__main__":
    sys.exit(main())
