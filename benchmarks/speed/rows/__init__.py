"""The rows of the table, one file per kind of work; `ROWS` is the list of all."""

from __future__ import annotations

from benchmarks.speed.measure import Row
from benchmarks.speed.rows import (
    command,
    files,
    growth,
    kernels,
    layers,
    losses,
    pair,
    recipe,
    tutorial,
)

ROWS: dict[str, Row] = {
    row.name: row
    for part in (tutorial, recipe, kernels, losses, layers, pair, files, command, growth)
    for row in part.ROWS
}
