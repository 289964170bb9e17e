"""What a command sets before torch is loaded, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

NAMES = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")


def said(code: str, **more: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **more}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()


SHOW = f"import os; print(*[os.environ.get(name) for name in {NAMES}])"


def test_a_command_sets_it() -> None:
    run = "from deepatlas.cli import main; main(['convert', 'nowhere', '--out', 'x']);"
    assert said(run + SHOW) == "passive 1"


def test_what_the_user_set_stands() -> None:
    run = "from deepatlas.process import prepare_environment as p; p();"
    assert said(run + SHOW, OMP_WAIT_POLICY="active") == "active 1"


def test_nothing_is_set_for_a_torch_that_is_loaded() -> None:
    run = "import torch; from deepatlas.process import prepare_environment as p; p();"
    assert said(run + SHOW) == "None None"


def test_a_command_looks_for_garbage_seldom() -> None:
    run = "from deepatlas.cli import main; main(['convert', 'nowhere', '--out', 'x']);"
    assert said("import gc;" + run + "print(gc.get_threshold()[0] > 10_000)") == "True"


def test_a_process_that_leaves_says_all_and_does_what_was_left_for_its_end() -> None:
    code = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from deepatlas.process import leave

class Kept:
    def __del__(self):
        print("freed")

kept = Kept()
atexit.register(lambda: print("at the end", end=""))
print("no line's end", end="", file=sys.stderr)
print("one line")
pool = ThreadPoolExecutor(1)  # whose thread waits for more to do
pool.submit(print, "of a pool")
late = lambda: (time.sleep(0.2), print("of a thread"))
threading.Thread(target=late).start()
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == "one line\nof a pool\nof a thread\nat the end"
    assert done.stderr == "no line's end"


def test_a_stream_that_is_closed_keeps_no_other_from_being_written() -> None:
    code = "import sys; from deepatlas.process import leave; print('all', end='');"
    done = subprocess.run(
        [sys.executable, "-c", f"{code} sys.stderr = None; leave(0)"], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "all")


def test_garbage_is_looked_for_as_ever_where_torch_is_loaded() -> None:
    run = "import gc, torch; before = gc.get_threshold();"
    call = "from deepatlas.process import collect_seldom as c; c();"
    assert said(run + call + "print(gc.get_threshold() == before)") == "True"


def test_memory_that_is_freed_stays_with_the_process() -> None:
    """Not one page in four is taken anew; some are where the system takes idle ones back."""
    code = """
import sys, resource, torch
from deepatlas.process import keep_freed_memory
keep_freed_memory()
for _ in range(8):  # an aligned block may take another place at first
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 30_000 or not
      sys.platform.startswith("linux"))
"""
    assert said(code) == "True"
