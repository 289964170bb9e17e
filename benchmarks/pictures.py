"""The README's pictures, taken from the report of `deepatlas demo`.

deepatlas demo --out demo && python benchmarks/pictures.py demo/joint/report.html docs/images
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

IMAGE = re.compile(r'<img[^>]*src="data:image/png;base64,([^"]+)"[^>]*alt="([^"]*)"|'
                   r'<img[^>]*alt="([^"]*)"[^>]*src="data:image/png;base64,([^"]+)"')  # fmt: skip
WANTED = {
    "segmentation": r"Median: scan",
    "registration": r"Median: .* Columns",
    "jacobian": r"Map of the Jacobian",
}


def main() -> None:
    """Write one picture of each kind, of the median example where there is one."""
    report, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for found in IMAGE.finditer(report.read_text(encoding="utf-8")):
        data, alt = found[1] or found[4], found[2] or found[3]
        for name, start in WANTED.items():
            if re.match(start, alt):
                (out / f"{name}.png").write_bytes(base64.b64decode(data))
    print(*sorted(out.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
