"""The training log: one JSON object a line, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepatlas.io.atomic import write_text


class Log:
    """Appends events to a file; each line is on its way to disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, **event: Any) -> None:
        """Append one event."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line torn by a killed process is left out."""
        if not self.path.exists():
            return []
        events = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    def cut(self, step: int) -> None:
        """Forget what came after a step: it will be done again."""
        kept = [event for event in self.read() if event.get("step", 0) <= step]
        write_text(self.path, "".join(json.dumps(event) + "\n" for event in kept))
