"""The page and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.results import per_voxel, rounds, share
from deepatlas.io.atomic import write_json, write_text

Row = Mapping[str, Any]


def write(out: Path, found: Mapping[str, Any]) -> None:
    """`speed.json`, `speed.md` and `speed.png` in a folder."""
    from benchmarks.speed.figure import draw

    out.mkdir(parents=True, exist_ok=True)
    found = {**found, "round": rounds(found["rows"])}
    write_json(out / "speed.json", found)
    text = page(found)
    write_text(out / "speed.md", text)
    draw(out / "speed.png", found["rows"], found["round"])
    print(text)


def page(found: Mapping[str, Any]) -> str:
    """Markdown."""
    facts = found["machine"]
    pairs = [row for row in found["rows"] if not _grows(row)]
    parts = [
        "# Speed",
        f"Made by `{facts['command']}` in {facts['minutes']} minutes. {METHOD}",
        machine(facts),
        ceilings(found["ceilings"]),
        _table(HEADER, [line for row in pairs for line in _rows_of(row, found["ceilings"])]),
        *(f"Row {name} failed: {fault}" for name, fault in found.get("failed", {}).items()),
        _round(found.get("round")),
        agreement(found.get("agreement")),
        *(_growth(row) for row in found["rows"] if _grows(row)),
        *(_profile(name, profile) for name, profile in found["profiles"].items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


METHOD = (
    "Ours and its peers were taken in turns in one process; times are medians, ratios those of "
    "medians, in brackets the quartiles of the rounds' own ratios. Memory is the peak of one call "
    "beyond what was there before it, each in a process of its own, by resident pages. The error "
    "is the largest difference to the same formula in float64, over value and gradients, in its "
    "share of the largest value; where a row says so, to float32. Apart from ours: by how much "
    "values differ, of rows whose candidates compute the same. Our share of a copy: the least "
    "traffic, every input and output once, at the speed of the copy below; of convolutions: "
    "their operations (without zeros that are put in to fill up units) at the best bfloat16 rate "
    "below."
)
HEADER = (
    "what", "who", "how", "time", "times ours", "goal", "peak memory", "error", "apart from ours",
    "our share of",
)  # fmt: skip


def _rows_of(row: Row, ceilings: Mapping[str, float]) -> list[list[str]]:
    lines = []
    for k, entry in enumerate(row["candidates"]):
        goal = row["goals"].get(entry["name"])
        lines.append(
            [
                "" if k else f"{row['title']} ({_what(row)})",
                entry["name"],
                entry["how"],
                seconds(entry["seconds"]["median"]),
                _ratio(entry.get("ratio")),
                f"{goal:g}" if goal else "",
                _memory(entry.get("peak_mib")),
                f"{entry['error']['relative']:.0e}" if "error" in entry else "",
                f"{entry['differs']:.0e}" if "differs" in entry else "",
                "" if k else _share(row, ceilings),
            ]
        )
    return lines


def _share(row: Row, ceilings: Mapping[str, float]) -> str:
    found = share(row, ceilings)
    return "" if found is None else f"{100 * found[0]:.0f} % of {found[1]}"


def _what(row: Row) -> str:
    size = row["parameters"].get("size")
    return "; ".join(filter(None, [f"{size} cubed" if size else "", row["note"]]))


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; empty without lines."""
    if not lines:
        return ""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def seconds(value: float) -> str:
    """With a unit, three figures."""
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _memory(mib: float | None) -> str:
    return "" if mib is None else f"{mib:.0f} MiB"


def _ratio(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "1"
    return f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f}, n {value['n']})"


def machine(found: Mapping[str, Any]) -> str:
    """One paragraph."""
    versions = ", ".join(
        f"{name} {found[name]}"
        for name in ("torch", "monai", "voxelmorph", "neurite", "antspyx", "SimpleITK")
        if found.get(name)
    )
    settings = (
        " The process is set up as our commands set theirs up." if found.get("as_command") else ""
    )
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, "
        f"{', '.join(found['features']) or 'none of the features looked for'}; PyTorch uses "
        f"{found['torch_uses']}. GPU: {found['gpu'] or 'none'}. Load before the start: "
        f"{found['load_before']}. deepatlas {found['deepatlas']} ({found['commit']}), Python "
        f"{found['python']}, {versions}.{settings}"
    )


def ceilings(found: Mapping[str, float]) -> str:
    """A table."""
    lines = [
        [name.removesuffix("_flops").replace("_", " "), f"{value / 1e9:.0f} GFLOP/s"]
        if name.endswith("_flops")
        else ["copy, read and written", f"{value / 1e9:.1f} GB/s"]
        for name, value in found.items()
    ]
    return _table(["ceiling", "measured"], lines)


def _round(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    ours, peer = found["candidates"]
    times = " against ".join(seconds(entry["seconds"]) for entry in (ours, peer))
    memory = ""
    if ours["peak_mib"] and peer["peak_mib"]:
        share = ours["peak_mib"] / peer["peak_mib"]
        memory = f" Peak memory is {share:.2f} of {peer['name']}'s."
    counted = " and ".join(f"{n} of {which}" for which, n in found["counted"].items())
    return (
        f"A DeepAtlas round at {found['parameters']['size']} cubed, batch 2 (40 registration and 5 "
        f"segmentation steps, extrapolated from the medians of {counted}): {times}, "
        f"**{found['ratio']:.2f} times** (goal 8).{memory}"
    )


def agreement(found: Mapping[str, Any] | None) -> str:
    """Losses after the same steps of both."""
    if found is None:
        return ""
    runs = {
        name if n == 0 else f"{name} with other dropout": scores
        for name, side in found["losses"].items()
        for n, scores in enumerate(side)
    }
    lines = [
        [which, *(f"{scores[which]:.4f}" for scores in (found["start"], *runs.values())),
         f"{100 * apart:.1f} %", f"{100 * found['between'][which]:.1f} %"]
        for which, apart in found["apart"].items()
    ]  # fmt: skip
    heads = ["loss of a step of", "start", *runs, "means apart", "MONAI's two apart"]
    return (
        f"After {found['steps']} steps of each at {found['size']} cubed, from the same weights on "
        "the same phantoms: MONAI's float32 losses on 8 pairs that none has seen (goal: within "
        "2 %)\n\n" + _table(heads, lines)
    )


def _grows(row: Row) -> bool:
    return row["candidates"][0]["size"] is not None


def _growth(row: Row) -> str:
    times = {entry["name"]: entry for entry in row["candidates"]}
    lines = [
        [
            name,
            seconds(times[name]["seconds"]["median"]),
            f"{time:.2f}",
            _memory(times[name].get("peak_mib")),
            "" if memory is None else f"{memory:.2f}",
        ]
        for name, time, memory in per_voxel(row)
    ]
    header = [
        "size",
        "time",
        "per voxel, of the first's",
        "peak memory",
        "per voxel, of the first's",
    ]
    return f"{row['title']} (goal: at most 1.15 per voxel)\n\n{_table(header, lines)}"


def _profile(name: str, profile: Mapping[str, Any]) -> str:
    total = profile["seconds"]
    kinds = [
        [kind, seconds(value), f"{100 * value / total:.0f} %"]
        for kind, value in profile["kinds"].items()
        if value > 0.005 * total
    ]
    dearest = ", ".join(f"`{key}` {seconds(value)}" for key, value in profile["dearest"][:8])
    return (
        f"{profile_line(name, profile)}\n\n{_table(['kind', 'time', 'share'], kinds)}\n\n{dearest}"
    )


def profile_line(name: str, profile: Mapping[str, Any]) -> str:
    """One sentence."""
    total, own, rest = (seconds(profile[key]) for key in ("seconds", "convolutions", "rest"))
    least = profile["convolutions_at_ceiling"]
    return (
        f"{name} step at {profile['size']} cubed: {total}, "
        f"{100 * profile['convolutions'] / profile['seconds']:.0f} % in convolutions ({own}; their "
        f"{profile['convolution_flops'] / 1e9:.0f} GFLOP at the ceiling {seconds(least)}), "
        f"the rest {rest}: {profile['rest'] / least:.1f} times the convolutions at the ceiling "
        "(goal 1)"
    )


def line(row: Row) -> str:
    """One line to look at while the rest is measured."""
    entries = []
    for entry in row["candidates"]:
        said = f"{entry['name']} {seconds(entry['seconds']['median'])}"
        if "ratio" in entry:
            said += f" x{_ratio(entry['ratio'])}"
        for key, unit in (("peak_mib", "MiB"), ("differs", "apart")):
            if entry.get(key) is not None:
                said += f" {entry[key]:.3g} {unit}"
        if "error" in entry:
            said += f" error {entry['error']['relative']:.1e}"
        entries.append(said)
    return f"{row['name']}: " + "; ".join(entries)
