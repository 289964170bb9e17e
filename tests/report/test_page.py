"""The page: whole, self-contained, and there whatever is missing."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import pytest
from drawn_run import Drawn, link_evaluation, some_log, some_summary, write_run

from deepatlas.errors import BadInput
from deepatlas.report.examples import PairExample, ScanExample
from deepatlas.report.page import SECTIONS, write_report
from deepatlas.run.folder import RunFolder

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADS = {"src", "href", "srcset", "data", "poster", "xlink:href", "action"}


class Page(HTMLParser):
    """Tags, ids, links and texts of a page; checks that every tag is closed in its turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.raw = path.read_text(encoding="utf-8")
        self.feed(self.raw)
        self.close()
        assert not self.opened

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


class Missing:
    """Examples that cannot be had."""

    def scans(self, run: RunFolder, evaluation: object) -> list[ScanExample]:
        raise BadInput("cohort/imagesTr/a.nii.gz: there is no such file; check the path")

    def pairs(self, run: RunFolder, evaluation: object) -> list[PairExample]:
        raise BadInput("run: has no registration network")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An evaluated run whose page has been written with all its pictures."""
    run = write_run(tmp_path_factory.mktemp("shown") / "run & a", log=some_log())
    link_evaluation(run)
    write_report(run, source=Drawn())
    return run


@pytest.fixture(scope="module")
def full(shown: RunFolder) -> Page:
    return Page(shown.path / "report.html")


def test_page_lies_in_the_run_folder_unless_told_otherwise(run: RunFolder, tmp_path: Path):
    assert write_report(run) == run.path / "report.html"
    elsewhere = tmp_path / "deep" / "page.html"
    assert write_report(run, elsewhere) == elsewhere
    assert elsewhere.is_file()


def test_all_sections_have_headings_and_are_linked(full: Page):
    sections = [s["id"] for s in full.all("section")]
    assert sections == list(SECTIONS)
    assert {a["href"] for a in full.all("a")} >= {f"#{name}" for name in sections}
    ids = [attributes["id"] for _, attributes in full.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {s["aria-labelledby"] for s in full.all("section")} <= set(ids)


def test_nothing_is_loaded_from_anywhere(full: Page):
    for tag, attributes in full.tags:
        for name in LOADS & set(attributes):
            target = attributes[name]
            if tag == "a":
                is_citation = target.startswith("https://doi.org/")
                assert is_citation or "://" not in target
            else:
                assert target.startswith(("data:", "#"))
    assert not full.all("script")
    assert "@import" not in full.raw
    assert "url(http" not in full.raw


def test_page_is_small_enough_to_send(full: Page):
    assert len(full.raw.encode()) < 5_000_000


def test_pictures_have_words_and_tables_have_scopes(full: Page):
    assert len(full.all("img")) == 12
    assert all(len(image["alt"]) > 20 for image in full.all("img"))
    assert all(s["aria-label"] for s in full.all("svg"))
    assert all(cell["scope"] in ("col", "row") for cell in full.all("th"))
    assert full.all("html")[0]["lang"] == "en"


def test_light_dark_and_paper_are_styled(full: Page):
    assert "prefers-color-scheme: dark" in full.raw
    assert "@media print" in full.raw


def test_headline_numbers_have_interval_n_and_misses(full: Page):
    assert "0.853" in full.text
    assert "0.833 to 0.873" in full.text
    assert "n = 20, misses 1" in full.text
    assert "0.782 from 0.561 before" in full.text
    assert "5 + 10 labels seen" in full.text
    assert "25 minutes" in full.text
    assert "135 steps, 8 minutes" in full.text


def test_names_from_files_are_escaped(full: Page):
    assert "run & a" in full.text
    assert "shell <outer>" in full.text
    assert "<outer>" not in full.raw


def test_tables_hold_structures_groups_and_comparisons(full: Page):
    for words in ("left nucleus", "nuclei", "baseline", "+0.012", "−0.010", "< 0.0001"):
        assert words in full.text


def test_links_to_the_evaluation_are_relative_and_lead_there(full: Page, shown: RunFolder):
    links = [a["href"] for a in full.all("a") if a["href"].endswith((".csv", ".json"))]
    assert links == [f"../evaluation%201/{n}" for n in ("scans.csv", "pairs.csv", "summary.json")]
    assert (shown.path / "../evaluation 1/scans.csv").is_file()


def test_what_to_cite_and_how_it_was_made_are_told(full: Page):
    for words in ("Xu Z, Niethammer M", "Balakrishnan G", "Scans are cropped", "training:", "2.9"):
        assert words in full.text


def test_a_run_without_evaluation_says_how_to_make_one(run: RunFolder):
    page = Page(write_report(run))
    assert [s["id"] for s in page.all("section")] == list(SECTIONS)
    assert "deepatlas evaluate" in page.text
    assert f"'{run.path}'" in page.text  # quoted for the shell


def test_a_moved_cohort_is_told_not_raised(evaluated: RunFolder):
    page = Page(write_report(evaluated))
    assert "cohort <1>: the cohort that was evaluated is no longer there" in page.text
    assert "12 of 20 pairs have no folds" in page.text  # the tables are still there
    assert "0.853" in page.text


def test_a_moved_evaluation_folder_leaves_the_summary(evaluated: RunFolder):
    shutil.rmtree(evaluated.path.parent / "evaluation 1")
    page = Page(write_report(evaluated))
    assert "is no longer there: its tables cannot be read" in page.text
    assert "0.853" in page.text


def test_examples_that_cannot_be_had_are_told(evaluated: RunFolder):
    page = Page(write_report(evaluated, source=Missing()))
    assert "No examples: cohort/imagesTr/a.nii.gz: there is no such file" in page.text
    assert "has no registration network" in page.text


def test_two_dimensions(tmp_path: Path):
    run = write_run(tmp_path / "flat", ndim=2)
    run.add_evaluation({"out": str(tmp_path), "summary": some_summary()})
    page = Page(write_report(run, source=Drawn((40, 48), (0.8, 1.2), ["only"])))
    assert len(page.all("img")) == 4
    assert "2-D" in page.text


def test_an_unfinished_run_without_state_or_log(run: RunFolder):
    for name in ("state.json", "environment.json", "log.jsonl"):
        (run.path / name).unlink()
    assert "0 steps, not finished (of 300)" in Page(write_report(run)).text


def test_the_latest_of_several_evaluations_comes_first(evaluated: RunFolder, tmp_path: Path):
    summary = some_summary()
    summary["segmentation"]["dice"]["mean"] = 0.901
    evaluated.add_evaluation({"out": str(tmp_path), "cohort": "other", "summary": summary})
    page = Page(write_report(evaluated, source=Missing()))
    assert page.text.index("0.901") < page.text.index("0.853")
    assert "of 2 linked evaluations, the latest" in page.text


def test_a_summary_without_numbers_still_gives_a_page(evaluated: RunFolder, tmp_path: Path):
    empty = {"mean": None, "std": None, "interval": None, "n": 0, "misses": 3}
    summary = {"segmentation": {"dice": empty}, "registration": {}, "comparisons": []}
    evaluated.add_evaluation({"out": str(tmp_path), "summary": json.loads(json.dumps(summary))})
    assert "n = 0, misses 3" in Page(write_report(evaluated, source=Missing())).text


def test_no_run_there(tmp_path: Path):
    with pytest.raises(BadInput, match="not a run folder"):
        write_report(RunFolder(tmp_path))


def test_a_package_that_is_not_installed(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    """Used from its source folder, where no metadata says a version."""

    def lacking(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", lacking)
    assert 'content="deepatlas unknown"' in write_report(run).read_text(encoding="utf-8")


def test_labels_that_only_the_start_has_seen_are_counted(run: RunFolder):
    """Of the start five other labels, and one that chose there and trains here."""
    start = {
        "labelled": [f"case_{n}" for n in range(20, 25)],
        "validation": ["case_0", "case_40"],
        "cohort": run.split["cohort"],
    }
    run.write("started_from.json", [{"path": "baseline", "split": start, "weights": {}}])
    assert "10 + 10 labels seen" in Page(write_report(run)).text


def test_the_same_run_gives_the_same_page(evaluated: RunFolder):
    first = write_report(evaluated, source=Missing()).read_bytes()
    assert write_report(evaluated, source=Missing()).read_bytes() == first
