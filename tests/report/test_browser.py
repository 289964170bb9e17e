"""The page in a real browser: no error on the console, nothing fetched, something to see."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from drawn_run import Drawn
from PIL import Image

from deepatlas.report.page import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--hide-scrollbars",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="needs chromium or google-chrome on the PATH"),
]


@dataclass(frozen=True)
class Visit:
    """What a browser said and fetched while it showed a page."""

    console: list[str]
    fetched: list[str]
    picture: np.ndarray


def visit(page: Path, folder: Path, *flags: str) -> Visit:
    folder.mkdir()
    shot, netlog = folder / "shot.png", folder / "net.json"
    command = [
        BROWSER, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--screenshot={shot}",
        "--window-size=1280,2000", f"--log-net-log={netlog}", page.resolve().as_uri(),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    events = json.loads(netlog.read_text())["events"]
    asked = [event.get("params", {}) for event in events]
    return Visit(
        console=[line for line in said.splitlines() if "CONSOLE" in line],
        fetched=[
            p["url"]
            for p in asked
            if str(p.get("network_isolation_key")).startswith("file://")  # the page's, not its own
            and str(p.get("url")).startswith(("http", "ws", "ftp"))
        ],
        picture=np.asarray(Image.open(shot).convert("RGB")).astype(float),
    )


def test_page_is_silent_in_a_browser(evaluated, tmp_path):
    seen = visit(write_report(evaluated, source=Drawn()), tmp_path / "light")
    assert seen.console == []
    assert seen.fetched == []
    assert seen.picture.shape == (2000, 1280, 3)
    assert seen.picture.std() > 20
    assert seen.picture[5, 5].mean() > 230
    assert not (seen.picture[600:1000] == seen.picture[0, 0]).all()


def test_page_is_dark_where_the_reader_wants_it(evaluated, tmp_path):
    page = write_report(evaluated, source=Drawn())
    seen = visit(page, tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert seen.picture[5, 5].mean() < 40


def test_a_page_that_errs_and_fetches_would_be_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><title>bad</title><img src='http://example.org/a.png'>"
        "<script>console.error('boom')</script>"
    )
    seen = visit(page, tmp_path / "bad")
    assert any("boom" in line for line in seen.console)
    assert "http://example.org/a.png" in seen.fetched
