"""What is said of a map that has no inverse that could be held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deepatlas.errors import BadInput


@contextmanager
def inverting(path: object, remedy: str) -> Iterator[None]:
    """A context in which a map is inverted; its ValueError becomes BadInput.

    Parameters
    ----------
    path : the file that the sentence names.
    remedy : what the user can do.
    """
    try:
        yield
    except ValueError as error:
        raise BadInput(f"{path}: {error}; {remedy}") from None
