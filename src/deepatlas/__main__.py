"""`python -m deepatlas` is the command `deepatlas`."""

from __future__ import annotations

from deepatlas.cli import script

if __name__ == "__main__":
    script()
