"""The command `deepatlas`: arguments in, `deepatlas.api` called, errors in one sentence."""

from deepatlas.cli.entry import main, script

__all__ = ["main", "script"]
