import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_folders import FAULTS, write_evaluation, write_everything, write_run

from kd_ray.report import plots
from kd_ray.report.bootstrap import Statistics, statistics_of
from kd_ray.report.drawing import short, short_names, spread
from kd_ray.report.html import Html, h
from kd_ray.report.page import write_report
from kd_ray.report.results import read_hypotheses, read_results
from kd_ray.report.run_sections import duration
from kd_ray.report.runs import read_runs
from kd_ray.report.summary import summary_sentence, warnings_of
from kd_ray.report.tables import TIMES
from kd_ray.report.utterances import align, pick

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(HTMLParser):
    """Collects ids, addresses and text; fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href", "srcset", "data", "action"):
                self.addresses.append(str(value))
            assert not name.startswith("on")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    evaluation, runs = write_everything(root, teachers=3, utterances=24)
    out = write_report(evaluation, runs, root / "deep" / "report.html", "A <test> & more", now=NOW)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    return out.read_text()


def test_the_page_is_whole_and_its_ids_are_unique(page: str):
    checker = parsed(page)
    assert len(checker.ids) == len(set(checker.ids))
    assert {"results", "plots", "what", "runs", "utterances"} <= set(checker.ids)
    assert page.count("<svg") == 4


def test_the_page_fetches_nothing(page: str):
    checker = parsed(page)
    assert not checker.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert all(address.startswith("#") for address in checker.addresses)
    assert {address[1:] for address in checker.addresses} <= set(checker.ids)
    assert "@import" not in page
    assert all(link.startswith("url(#") for link in re.findall(r"url\([^)]*", page))


def test_both_colour_schemes_are_there_and_drawings_follow_them(page: str):
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"#0a0[bcd]0", page)  # no stand-in colour is left
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert "var(--ink, " in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    used = set(re.findall(r"var\((--[a-z0-9-]+)", page))
    assert all(f"{name}:" in page for name in used)


def test_the_page_tells_what_was_run_and_how_to_repeat_it(page: str):
    text = parsed(page).text
    assert "A <test> & more" in text
    assert "kd-ray distill runs/demo/weighted/config.json name=demo/weighted-repeat" in text
    assert "kd-ray evaluate runs/demo/evaluation/config.json" in text
    assert "3f1c2ab9" in text
    assert "torch 2.14.1" in text
    assert "2026-01-02 03:04 UTC" in text
    assert "The 10 with most errors per unit" in text
    assert "10 drawn at random from the others" in text


def test_warnings_name_ties_faults_and_missing_answers(page: str):
    text = parsed(page).text
    assert "“best” teachers tied on 62 % of the utterances" in text
    assert "“weighted” 3 teacher answers were missing" in text
    assert f"1 {TIMES} teacher_host_lost" in text


def test_text_from_files_is_escaped_everywhere(tmp_path: Path):
    evil = '--></svg></style><script>alert("1")</script>'
    label = "<b>$x^2$_&"
    folder = write_evaluation(
        tmp_path / "evaluation",
        teachers=1,
        utterances=6,
        students=((label, None, 0.3), ("_hidden", evil, 0.25)),
    )
    path = folder / "hypotheses" / "test" / f"{label}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["attention"] = row["attention"].replace(row["attention"].split()[0], evil)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = write_run(
        tmp_path / "run",
        evil,
        events=[{"kind": evil, evil: evil, "time": evil}],
        overrides={evil: evil},
    )
    out = write_report(folder, {label: run}, tmp_path / "r.html", evil, now=NOW)
    checker = parsed(out.read_text())
    assert "script" not in checker.tags
    assert "b" in checker.tags  # our own
    assert label in checker.text
    assert "_hidden" in checker.text


def test_many_teachers_become_a_distribution_and_drawings_repeat_exactly(tmp_path: Path):
    evaluation, runs = write_everything(tmp_path, teachers=40, utterances=4)
    results = read_results(evaluation)
    read = read_runs(runs, results)
    bars = plots.scores(results, Statistics("test"))
    assert bars == plots.scores(results, Statistics("test"))
    for svg in (bars, plots.learning_curves(results, read), plots.time_split(results, read)):
        text = "".join(ElementTree.fromstring(svg).itertext())
        assert "40 teachers" in text
        assert "teacher-07" not in text
        assert "weighted" in text


@pytest.mark.parametrize("teachers", [0, 1])
def test_evaluations_with_few_systems_are_drawn_and_described(tmp_path: Path, teachers: int):
    folder = write_evaluation(
        tmp_path / "e",
        teachers=teachers,
        utterances=4,
        students=(("only", None, 0.3),),
        hypotheses=False,
    )
    text = parsed(write_report(folder, {}, tmp_path / "r.html", "t", now=NOW).read_text()).text
    assert "“only” makes" in text
    assert "learned from references alone" in text
    assert "no intervals" in text


def test_an_evaluation_of_teachers_only_says_so(tmp_path: Path):
    folder = write_evaluation(tmp_path / "e", teachers=3, utterances=4, students=())
    text = parsed(write_report(folder, {}, tmp_path / "r.html", "t", now=NOW).read_text()).text
    assert "No student was evaluated" in text


def test_figures_that_are_not_finite_do_not_reach_the_plots(tmp_path: Path):
    evaluation, runs = write_everything(tmp_path, teachers=1, utterances=4)
    with (runs["weighted"] / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "update": 500, "epoch": 13, "loss": NaN}\n')
        stream.write(
            '{"kind": "valid", "update": 500, "epoch": 13, "error_rate_attention": null}\n'
        )
    results = read_results(evaluation)
    svg = plots.learning_curves(results, read_runs(runs, results))
    assert "nan" not in svg.lower().replace("-nan-", "")


def test_the_summary_admits_when_the_interval_includes_zero(tmp_path: Path):
    folder = write_evaluation(
        tmp_path,
        teachers=2,
        utterances=12,
        students=(("plain", None, 0.30), ("distilled", "average", 0.29)),
        seed=2,
    )
    results = read_results(folder)
    statistics = statistics_of(results, read_hypotheses(folder, results))
    sentence = summary_sentence(results, statistics)
    best = results.best_student
    if best.label == "plain":
        assert "no distilled student beats" in sentence
    else:
        assert statistics.comparisons["distilled"].includes_zero
        assert "cannot tell the two apart" in sentence


def test_unfinished_runs_and_mixed_commits_are_warned_of(tmp_path: Path):
    folder = write_evaluation(tmp_path / "e", teachers=1, utterances=4)
    one = write_run(tmp_path / "a", "a", finished=False)
    two = write_run(tmp_path / "b", "b", events=FAULTS)
    (two / "environment.json").write_text(json.dumps({"commit": "other"}))
    results = read_results(folder)
    warnings = "\n".join(warnings_of(results, read_runs({"a": one, "b": two}, results)))
    assert "Not every run finished: “a”" in warnings
    assert "2 different commits" in warnings


def test_hypotheses_align_under_the_reference_with_room_for_insertions():
    columns, (first, second) = align(list("abc"), [list("axbc"), list("ac")])
    assert columns == ["a", "", "b", "c"]
    assert first == [("a", ""), ("x", "i"), ("b", ""), ("c", "")]
    assert second == [("a", ""), ("", ""), ("", "d"), ("c", "")]


@settings(max_examples=100, deadline=None)
@given(st.text("abc", max_size=8), st.lists(st.text("abcd", max_size=8), min_size=1, max_size=3))
def test_alignments_lose_no_unit_and_mark_as_many_errors_as_the_distance(
    reference: str, hypotheses: list[str]
):
    columns, rows = align(list(reference), [list(text) for text in hypotheses])
    assert "".join(columns) == reference
    for text, row in zip(hypotheses, rows, strict=True):
        assert "".join(unit for unit, _ in row) == text
        assert len(row) == len(columns)
        assert sum(mark != "" for _, mark in row) == _distance(reference, text)


def _distance(a: str, b: str) -> int:
    """Levenshtein distance by the textbook recursion over a table."""
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
    return table[-1][-1]


def test_worst_and_random_utterances_do_not_overlap(tmp_path: Path):
    folder = write_evaluation(tmp_path, teachers=9, utterances=30)
    results = read_results(folder)
    worst, random = pick(results, read_hypotheses(folder, results))
    assert len({sample.id for sample in worst + random}) == 20
    rates = [sample.mean_percent for sample in worst]
    assert rates == sorted(rates, reverse=True)
    assert max(sample.mean_percent for sample in random) <= rates[-1]
    # Four students, and of nine teachers the best, the middle and the worst.
    assert len(worst[0].systems) == 7


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.3))
def test_spread_labels_keep_order_distance_and_bounds(wanted: list[float], gap: float):
    placed = spread(wanted, gap, 0, 1)
    fits = min(gap, 1 / max(1, len(wanted) - 1))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in placed)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for before, after in pairwise(order):
        assert placed[after] - placed[before] >= fits - 1e-9


def test_spread_leaves_labels_alone_that_have_room():
    assert spread([0.9, 0.1, 0.5], 0.1, 0, 1) == [0.9, 0.1, 0.5]


def test_long_labels_are_cut_in_the_middle():
    assert short("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
    assert short("fits", 11) == "fits"


def test_labels_that_cutting_makes_alike_keep_what_differs():
    labels = [f"weighted, scale {s} & a rather long label" for s in (0.01, 0.1, 1)]
    names = short_names([*labels, "plain"], 30)
    assert len(set(names.values())) == 4
    assert all(len(name) <= 30 for name in names.values())
    assert all(str(s) in names[label] for s, label in zip((0.01, 0.1, 1), labels, strict=True))
    assert names["plain"] == "plain"


@settings(max_examples=100, deadline=None)
@given(st.sets(st.text("ab", min_size=1, max_size=20), max_size=8))
def test_short_names_of_labels_cut_alike_are_distinct(labels: set[str]):
    by_cut: dict[str, list[str]] = {}
    for label, name in short_names(sorted(labels), 9).items():
        by_cut.setdefault(short(label, 9), []).append(name)
    assert all(len(set(names)) == len(names) for names in by_cut.values())


def test_templates_escape_all_but_markup():
    assert h("{a}{b}", a="<", b=Html("<i>")) == "&lt;<i>"
    assert h('x="{a}"', a='"{a}') == 'x="&quot;{a}"'


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4.4, "4 s"), (95.4, "1 min 35 s"), (7260, "2 h 1 min"), (None, "")],
)
def test_durations_are_written_for_people(seconds: float | None, shown: str):
    assert duration(seconds) == shown
