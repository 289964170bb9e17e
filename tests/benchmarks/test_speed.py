"""The harness' own logic: turns, ratios, tables. Nothing here says how fast anything is."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

# The peers are an extra of their own; the package's tests do without.
pytest.importorskip("monai")

from benchmarks.speed import memory, report, results
from benchmarks.speed.__main__ import ROOT, arguments, command, main
from benchmarks.speed.agreement import agreement
from benchmarks.speed.figure import draw
from benchmarks.speed.machine import convolution_flops
from benchmarks.speed.measure import Candidate, Case, Row, error, ratio, spread, take_turns
from benchmarks.speed.peers.vxm_dense import Fast, VxmDense, lively
from benchmarks.speed.profile import kind_of
from benchmarks.speed.rows import ROWS
from deepatlas.networks.convolving import Convolution3d, folds
from deepatlas.networks.joined import convolve_joined

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:monai")
DIFFER = ("ours, of recipes", "voxelmorph")  # formulas, and what lies outside the grid
CEILINGS = {"copy_bytes": 1e10, "convolution_32_bfloat16_flops": 1e12}


def test_runs_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    runs = [lambda: order.append("a"), lambda: order.append("b")]
    clock = take_turns(runs, least=3, seconds=0.0)
    assert "".join(order) == "ab" * 4
    assert [len(times) for times in clock] == [3] * 2


def test_spread_is_numpys_quartiles() -> None:
    values = [5.0, 1.0, 4.0, 10.0, 2.0, 7.0]
    found = spread(values)
    assert [found.low, found.median, found.high] == pytest.approx(
        np.percentile(values, [25, 50, 75])
    )
    assert spread([3.0]).low == spread([3.0]).high == 3.0


def test_ratio_says_how_many_times_longer_theirs_takes_whatever_slows_both() -> None:
    noise = [1.0, 9.0, 2.0, 4.0]
    found = ratio([0.5 * x for x in noise], [1.5 * x for x in noise])
    assert [found.median, found.low, found.high, found.n] == pytest.approx([3, 3, 3, 4])


def test_error_is_the_largest_over_value_and_gradients() -> None:
    found = error(
        [torch.tensor([1.0, 2.5]), torch.tensor([0.0])],
        [torch.tensor([1.0, 2.0]), torch.tensor([-1e-3])],
    )
    assert found.mean == 0.25
    assert found.relative == pytest.approx(1.0)


def test_the_round_is_40_and_5_steps() -> None:
    rows = [_tutorial("registration", (1.0, 8.0)), _tutorial("segmentation", (2.0, 4.0))]
    found = results.rounds(rows)
    assert found is not None
    assert [entry["seconds"] for entry in found["candidates"]] == [50.0, 340.0]
    assert found["ratio"] == pytest.approx(6.8)
    assert results.rounds(rows[:1]) is None
    assert "**6.80 times**" in report.page(_found(rows) | {"round": found})


def test_growth_is_per_voxel() -> None:
    row = _tutorial("x", (1.0, 9.0)) | {"name": "growth"}
    for entry, size in zip(row["candidates"], (64**3, 128**3), strict=True):
        entry |= {"size": size, "peak_mib": entry["seconds"]["median"]}
    (_, one, _), (_, time, peak) = results.per_voxel(row)
    assert (one, time, peak) == pytest.approx((1, 9 / 8, 9 / 8))


def test_a_row_gives_a_line_a_page_and_a_figure(tmp_path: Path) -> None:
    exact = torch.tensor([2.0], dtype=torch.float64)
    candidates = [
        Candidate("deepatlas", lambda: (torch.tensor([2.0]),), exact=lambda: (exact,)),
        Candidate("peer", lambda: (torch.tensor([2.5]),)),
    ]
    case = Case(candidates, least_bytes=8.0, note="said")
    row = Row("x", "the work", lambda size: case, {"size": 1}, {"size": 1}, goals={"peer": 2.0})
    found = results.measured(row, row.full, small=True, seconds=0.0)
    assert found["candidates"][0]["error"]["relative"] == 0
    assert found["candidates"][1]["differs"] == 0.25
    assert found["candidates"][1]["seconds"]["n"] == 3
    assert report.line(found).startswith("x: deepatlas ")
    lines = report.page(_found([found])).splitlines()
    cells = next(line for line in lines if line.startswith("|  | peer")).split(" | ")
    assert cells[5] == "2"
    assert (
        len(
            {line.count("|") for line in lines if "deepatlas | float32" in line or "| peer" in line}
        )
        == 1
    )
    median = found["candidates"][0]["seconds"]["median"]
    assert results.share(found, CEILINGS) == (pytest.approx(8 / median / 1e10), "a copy")
    draw(tmp_path / "x.png", [found], None)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_peak_memory_of_a_command(tmp_path: Path) -> None:
    """Of its own process, however much this one holds, and whatever came before."""
    script = tmp_path / "script.py"
    script.write_text("import sys\nheld = b'1' * (int(sys.argv[1]) << 20)\nprint(sys.argv[1])\n")
    here = b"1" * (300 << 20)
    peaks = {}
    for size in ("200", "50"):
        done, peaks[size] = memory.call([str(script), size])
        assert done.stdout == f"{size}\n"
    assert peaks["200"] - peaks["50"] == pytest.approx(150, abs=5)
    assert peaks["50"] < 100
    assert memory.peak_mib(lambda: memory.call([str(script), "80"])) == pytest.approx(
        peaks["50"] + 30, abs=5
    )
    del here


def test_peak_memory_counts_what_was_freed_again() -> None:
    peak = memory.peak_mib(lambda: float(torch.ones(64, 2**18).sum()))
    assert peak == pytest.approx(64, abs=8)


@pytest.mark.parametrize(
    "name", [name for name, row in ROWS.items() if row.tiny and name != "growth"]
)
def test_every_row_runs_and_its_candidates_agree(name: str) -> None:
    for module in ("voxelmorph", "neurite", "ants"):
        pytest.importorskip(module)
    row = ROWS[name]
    case = row.build(**{**row.full, **row.tiny})
    outputs = [candidate.run() for candidate in case.candidates]
    assert all(bool(x.isfinite().all()) for out in outputs for x in out)
    assert set(row.goals) <= {candidate.name for candidate in case.candidates}
    assert convolution_flops(case.candidates[0].run) >= 0  # it can be counted
    for candidate, out in zip(case.candidates, outputs, strict=True):
        if candidate.exact is not None:
            assert error(out, candidate.exact()).mean < 0.05
    half = "bfloat16" in case.candidates[0].how
    compared, allowed = (1, 0.1) if half else (None, 1e-3)  # PyTorch's own gradients are coarse
    for candidate, out in zip(case.candidates[1:], outputs[1:], strict=True):
        if case.comparable and candidate.name not in DIFFER:
            assert error(out[:compared], outputs[0][:compared]).relative < allowed
    if name.startswith("recipe"):
        assert torch.equal(outputs[0][0], outputs[1][0])


def test_operations_are_those_of_the_layer_not_of_its_fast_form() -> None:
    layer = Convolution3d(8, 8, 3, padding=1).bfloat16()
    x = torch.rand(1, 8, 8, 8, 8).bfloat16()
    assert folds(layer.weight, 8) > 1
    with torch.no_grad():
        assert convolution_flops(lambda: layer(x)) == 2 * 27 * 8 * 8 * 8**3
        coarse = torch.rand(1, 4, 4, 4, 4).bfloat16()
        joined = convolution_flops(lambda: convolve_joined(layer, coarse, x[:, :4]))
        assert joined == 2 * 27 * 8 * 8 * 8**3


def test_vxm_dense_has_the_weights_of_the_package() -> None:
    assert sum(p.numel() for p in VxmDense().parameters()) == 327_331


def test_the_fast_form_of_a_network_finds_the_same_displacement() -> None:
    plain = lively(VxmDense())
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 32)
    with torch.inference_mode():
        one, other = plain(moving, fixed), Fast(plain)(moving, fixed)
    assert float(one.std()) > 0.3
    assert float((one - other).abs().mean()) < 0.05


def test_operations_have_a_kind() -> None:
    assert kind_of("aten::mkldnn_convolution") == "convolution"
    assert kind_of("aten::grid_sampler_3d_backward") == "sampling"
    assert kind_of("_NormaliseBackward") == "normalisation"
    assert kind_of("_IntegrateBackward") == "sampling"
    assert kind_of("_SummedBiasBackward") == "reductions"
    assert kind_of("_ConcatenatedBackward") == "copies"
    assert kind_of("aten::nonsense") == "other"


def test_agreement_trains_both_and_scores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.agreement.TRAINING", 2)
    monkeypatch.setattr("benchmarks.speed.agreement.HELD_OUT", 2)
    found = agreement(16, 1)
    assert set(found["losses"]) == {"deepatlas", "MONAI"}
    assert all(math.isfinite(value) for value in found["apart"].values())
    one, other = (scores["registration"] for scores in found["losses"]["MONAI"])
    assert one != other != found["start"]["registration"]
    assert found["between"]["registration"] == pytest.approx(abs(one / other - 1))
    assert "with other dropout" in report.agreement(found)


def test_an_unknown_row_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "nonsense", "--threads", threads])
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", threads)
    with pytest.raises(SystemExit, match="no row nonsense; choose of tutorial-registration"):
        main()


@pytest.mark.parametrize("more", [[], ["--small"], ["--only", "warp"], ["--as-command"]])
def test_only_the_whole_bench_replaces_what_is_published(
    more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", *more])
    assert arguments().out == ROOT / ("build/speed" if more else "docs/results")
    assert command() == " ".join(["python -m benchmarks.speed", *more])
    monkeypatch.setattr(sys, "argv", ["speed", *more, "--out", "x y"])
    assert arguments().out == Path("x y")
    assert command().endswith("--out 'x y'")


def test_the_page_says_how_the_process_was_set_up_and_which_code_ran() -> None:
    found = _found([])
    found["machine"] |= {"commit": "abc+", "command": "python -m x"}
    assert "our commands set theirs up" not in report.page(found)
    found["machine"]["as_command"] = True
    page = report.page(found)
    assert "our commands set theirs up" in page
    assert "(abc+)" in page
    assert "`python -m x`" in page


def _tutorial(which: str, medians: tuple[float, float]) -> dict:
    names = ("deepatlas", "MONAI")
    candidates = [
        {"name": name, "how": "", "size": None, "seconds": {"median": median, "n": 3}}
        for name, median in zip(names, medians, strict=True)
    ]
    return {
        "name": f"tutorial-{which}", "title": which, "parameters": {"size": 64}, "note": "",
        "goals": {}, "candidates": candidates, "least_bytes": None, "convolution_flops": 0.0,
    }  # fmt: skip


def _found(rows: list[dict]) -> dict:
    machine = dict.fromkeys(
        (
            "processor",
            "cores",
            "threads",
            "torch_uses",
            "gpu",
            "load_before",
            "python",
            "deepatlas",
            "commit",
            "command",
            "as_command",
        )
    )
    machine |= {"features": [], "minutes": 1}
    return {"machine": machine, "ceilings": CEILINGS, "rows": rows, "profiles": {}}
