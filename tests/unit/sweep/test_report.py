"""Facts on the page and files in the folder, for sweeps of every kind."""

from __future__ import annotations

import html
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raylora.spec.reading.load import load_spec
from raylora.store.sweeps import CurvePoint, SweepRecord
from raylora.sweep.reporting.report import Report, write_report
from raylora.sweep.reporting.words import verdict
from tests.unit.sweep.made_sweeps import large_sweep, sweep, trial

HOSTILE = '<script>alert("x")</script> & $\\alpha$ #1f2937 {{ 7 * 7 }}'
LONG = [[f"layers.{layer}.self_attn.{part}_proj" for layer in range(30)] for part in "qkv"]
SWEEPS = {
    "one": sweep(large_sweep(4).trials[:1]),
    "many": large_sweep(64),
    "repeated": large_sweep(6, repeats=3),
    "without validation": large_sweep(8, validated=False),
    "all failed": sweep([trial(n, status="failed", config={"lora_r": n}, error="no memory") for n in range(3)]),
    "none": sweep([]),
    "long words": sweep([trial(n, 1.0 + n, config={"lora_target_modules": LONG[n % 3]}) for n in range(7)]),
    "hostile words": sweep(
        [trial(n, 1.0 + n, config={"lora_target_modules": f"{HOSTILE}{n}"}, error=HOSTILE) for n in range(3)]
    ),
}
PICTURES = {
    "many": {"curves", "parallel", "effects", "sizes"},
    "one": {"curves"},
    "none": set(),
    "long words": {"parallel", "effects"},
}
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Rows of tables as texts, and what is wrong with the nesting of tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.urls: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """The report of a sweep by its name: pictures take seconds, so each is written once."""
    return cache(lambda name: write_report(SWEEPS[name], tmp_path_factory.mktemp("report") / "new"))


@pytest.fixture(params=SWEEPS, scope="module")
def written(request: pytest.FixtureRequest, report_of: Callable[[str], Report]) -> tuple[SweepRecord, Report]:
    return SWEEPS[request.param], report_of(request.param)


def text_of(report: Report) -> str:
    return report.page.read_text(encoding="utf-8")


def test_the_page_has_every_trial_once_in_its_table(written: tuple[SweepRecord, Report]):
    record, report = written
    table = text_of(report).partition("<h2>All trials</h2>")[2]
    assert sorted(re.findall(r'<tr id="(t\d+)"', table)) == sorted(each.trial_id for each in record.trials)
    rows = {row[0]: row for row in Page(text_of(report)).rows if row}
    for each in record.trials:
        assert rows[each.trial_id][1] == each.status
        assert each.adapter_uri is None or each.adapter_uri in rows[each.trial_id]
        assert each.mlflow_run_id is None or each.mlflow_run_id in rows[each.trial_id]


def test_the_page_says_what_was_found_and_what_failed(written: tuple[SweepRecord, Report]):
    record, report = written
    text = html.unescape(text_of(report))
    assert all(sentence in text for sentence in verdict(report.summary))
    failures = [each for each in record.trials if each.status == "failed"]
    assert all(each.error in text for each in failures if each.error)
    assert ("failed</h2>" in text) == bool(failures)


def test_the_page_needs_nothing_beside_it(written: tuple[SweepRecord, Report]):
    page = Page(text_of(written[1]))
    assert "script" not in page.tags
    assert all(url.startswith("#") for url in page.urls), page.urls
    assert "url(http" not in text_of(written[1])
    assert "@import" not in text_of(written[1])


def test_the_pictures_are_png_and_the_pages_own_svg(written: tuple[SweepRecord, Report]):
    _, report = written
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.pictures.values())
    drawings = re.findall(r"<svg .*?</svg>", text_of(report), flags=re.DOTALL)
    assert len(drawings) == len(report.pictures)
    for drawing in drawings:
        ElementTree.fromstring(drawing.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    # Every colour follows the page into the dark.
    assert {"fill: #", "stroke: #"} & set(re.findall(r"(?:fill|stroke): #", "".join(drawings))) == set()


def test_the_winner_is_ready_to_run(written: tuple[SweepRecord, Report]):
    _, report = written
    winner = report.summary.winner
    if winner is None:
        assert report.winner is None
        return
    assert report.winner is not None
    spec = load_spec(report.winner).spec.model_dump(mode="json")
    assert {name: spec[name] for name in winner.config} == dict(winner.config)
    assert report.winner.read_text() in html.unescape(text_of(report))


def test_ids_in_the_page_are_its_own(written: tuple[SweepRecord, Report]):
    ids = re.findall(r'\bid="([^"]*)"', text_of(written[1]))
    assert len(ids) == len(set(ids))


def test_which_pictures_there_are(written: tuple[SweepRecord, Report]):
    record, report = written
    (name,) = (name for name, each in SWEEPS.items() if each is record)
    if name in PICTURES:
        assert report.pictures.keys() == PICTURES[name]


def test_a_curve_says_what_it_is_and_a_stopped_trial_that_it_stopped(report_of: Callable[[str], Report]):
    text = html.unescape(text_of(report_of("many")))
    stopped = next(each for each in SWEEPS["many"].trials if each.status == "stopped")
    assert f"<title>{stopped.trial_id} (stopped): eval_loss" in text
    assert "stopped early" in text
    curve = tuple(CurvePoint(step, step, 2.0) for step in range(1, 4))
    assert (
        "stopped early" not in _page_of(sweep([trial(0, 1.0, curve=curve)])).partition("<svg")[2].partition("</svg")[0]
    )


def test_the_same_record_makes_the_same_page(report_of: Callable[[str], Report]):
    assert _page_of(SWEEPS["repeated"]) == text_of(report_of("repeated"))


def test_a_report_replaces_an_older_one(tmp_path: Path):
    first = write_report(SWEEPS["one"], tmp_path)
    again = write_report(SWEEPS["all failed"], tmp_path)
    assert again.page == first.page
    assert "no memory" in text_of(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html"]


def _page_of(record: SweepRecord) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return text_of(write_report(record, Path(folder)))
