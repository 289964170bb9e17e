"""The training log: one JSON object a line, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from deepatlas.errors import DeepAtlasError
from deepatlas.io.atomic import write_text


class Log:
    """Appends events to a file; each line is on its way to disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, **event: Any) -> None:
        """Append one event; NaN and infinities become null, for JSON has no word for them."""
        line = json.dumps(_finite(event), allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise DeepAtlasError(
                f"{self.path}: cannot be written ({error.strerror}); make room for it or mend the "
                "rights of its folder, then the same command resumes"
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line torn by a killed process is left out."""
        if not self.path.exists():
            return []
        events = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    def cut(self, step: int) -> None:
        """Forget what came after a step, and a stage that began there: it will be done again."""
        kept = [event for event in self.read() if _before(event, step)]
        write_text(self.path, "".join(json.dumps(event) + "\n" for event in kept))

    def clear(self) -> None:
        """Forget everything: the run begins anew."""
        self.path.unlink(missing_ok=True)


def _before(event: dict[str, Any], step: int) -> bool:
    at = event.get("step", 0)
    return at < step if event.get("event") == "stage" else at <= step


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
