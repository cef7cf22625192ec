import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_folders import write_evaluation, write_json, write_lines

from kd_ray.report.bootstrap import Comparison, compare, resample_rates, statistics_of
from kd_ray.report.results import ReportError, parse_results, read_hypotheses, read_results
from kd_ray.report.tables import (
    MINUS,
    NONE,
    cells,
    p_value,
    parameters,
    result_rows,
    results_table,
    rows_as_json,
    signed,
    size,
    speed,
    table_as_text,
)


def counts(errors: int, length: int = 200) -> dict[str, object]:
    return {
        "error_rate": None,
        "substitutions": errors,
        "insertions": 0,
        "deletions": 0,
        "reference_length": length,
        "sentences": 10,
        "sentence_error_rate": None,
    }


def system(label: str, kind: str, errors: int, strategy: str | None = None) -> dict[str, object]:
    scores = {"attention": counts(errors), "ctc": counts(errors + 10)}
    return {
        "label": label,
        "kind": kind,
        "folder": f"runs/{label}",
        "parameters": 1_234_567,
        "bytes": 5_000_000,
        "real_time_factor": None,
        "strategy": strategy,
        "scores": {"test": scores},
    }


def results(*systems: dict[str, object]) -> dict[str, object]:
    split = {"manifest": "test.parquet", "utterances": 10}
    return {"splits": {"test": split}, "decoding": "attention", "systems": list(systems)}


FOUR = results(
    system("t1", "teacher", 30),
    system("t2", "teacher", 50),
    system("plain", "student", 80),
    system("weighted", "student", 60, "weighted"),
)


def test_rows_are_teachers_their_mean_and_students_best_first():
    rows = result_rows(FOUR)
    assert [row.label for row in rows] == ["t1", "t2", "mean of 2 teachers", "weighted", "plain"]
    # 30, 50 and their mean 40 of 200 units; students 60 and 80.
    assert [row.error_percent["test"] for row in rows] == [15.0, 25.0, 20.0, 30.0, 40.0]
    assert [row.best_student for row in rows] == [False, False, False, True, False]


def test_relative_change_is_against_the_student_without_distillation():
    rows = {row.label: row for row in result_rows(FOUR)}
    assert rows["weighted"].relative_change_percent == pytest.approx(-25.0)  # (30 - 40) / 40
    assert rows["plain"].relative_change_percent is None
    assert rows["plain"].baseline
    assert rows["t1"].relative_change_percent is None


def test_without_an_undistilled_student_there_is_no_relative_change():
    checked = results(system("a", "student", 5, "best"), system("b", "student", 9, "average"))
    assert all(row.relative_change_percent is None for row in result_rows(checked))
    assert "relative change" not in table_as_text(checked)


def test_ranking_by_ctc_swaps_the_two_decodings():
    rows = result_rows({**FOUR, "decoding": "ctc"})
    assert rows[0].error_percent["test"] == 20.0
    assert rows[0].other_error_percent == 15.0


def test_text_and_json_show_the_same_numbers(tmp_path: Path):
    folder = write_evaluation(tmp_path, teachers=3, utterances=20)
    checked = read_results(folder)
    statistics = statistics_of(checked, read_hypotheses(folder, checked), resamples=50)
    text = table_as_text(checked, statistics)
    for row in json.loads(rows_as_json(checked, statistics)):
        line = next(line for line in text.splitlines() if line.strip().startswith(row["label"]))
        for value in (*row["error_percent"].values(), row["other_error_percent"]):
            assert f"{value:.1f}" in line
        assert f"{row['interval']['low']:.1f}" in line


def test_best_student_is_bold_and_marked():
    table = results_table(FOUR)
    styles = [row.style for row in table.rows]
    assert styles.count("bold") == 1
    assert str(list(table.columns[0].cells)[styles.index("bold")]) == "weighted *"


def test_labels_are_not_read_as_rich_markup():
    text = table_as_text(results(system("[red]x[/red]", "student", 5)))
    assert "[red]x[/red]" in text


def test_table_without_students_has_no_best():
    assert not any(row.best_student for row in result_rows(results(system("t", "teacher", 3))))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (parameters(412_345), "412 k"),
        (parameters(1_234_567), "1.23 M"),
        (parameters(999_999), "1.00 M"),
        (parameters(12), "12"),
        (size(9_700_000), "9.70 MB"),
        (size(12_340), "12.3 kB"),
        (speed(0.0123), "0.012"),
        (speed(12.0), "12"),
        (speed(None), NONE),
        (signed(-0.04), "0.0"),
        (signed(-3.25, " %"), f"{MINUS}3.2 %"),
        (signed(1.0), "+1.0"),
        (p_value(2 / 1001, 1000), "≤ 0.002"),
        (p_value(0.5, 1000), "0.500"),
    ],
)
def test_numbers_are_written_for_people(shown: str, expected: str):
    assert shown == expected


def test_broken_results_name_every_problem(tmp_path: Path):
    broken = json.loads(json.dumps(FOUR))
    del broken["systems"][0]["scores"]["test"]["ctc"]
    broken["decoding"] = "ctc"
    with pytest.raises(ReportError, match=r"'t1' has no ctc score on split 'test'"):
        parse_results(broken)
    with pytest.raises(ReportError, match=r"used twice: t1"):
        parse_results(results(system("t1", "teacher", 1), system("t1", "student", 1)))
    with pytest.raises(ReportError, match=r"kd-ray evaluate"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(ReportError, match="JSON object"):
        read_results(tmp_path)


def test_bootstrap_agrees_with_a_loop_over_drawn_utterances():
    draw = np.random.default_rng(3)
    lengths = draw.integers(5, 20, 12)
    errors = draw.integers(0, 6, (3, 12))
    rates = resample_rates(errors, lengths, resamples=150, seed=9)
    generator = np.random.default_rng(9)
    expected = []
    for chunk in (100, 50):
        for drawn in generator.multinomial(12, np.full(12, 1 / 12), chunk):
            units = sum(int(times) * int(n) for times, n in zip(drawn, lengths, strict=True))
            expected.append(
                [
                    100
                    * sum(int(times) * int(e) for times, e in zip(drawn, row, strict=True))
                    / units
                    for row in errors
                ]
            )
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-9)


def test_bootstrap_interval_has_the_width_that_theory_gives():
    # Lengths all 1: a rate is a binomial share; its standard error is sqrt(p (1 - p) / U).
    draw = np.random.default_rng(5)
    errors = (draw.random((1, 400)) < 0.3).astype(np.int64)
    rates = resample_rates(errors, np.ones(400, dtype=np.int64), resamples=2000, seed=1)
    share = errors.mean()
    assert rates.std() == pytest.approx(100 * np.sqrt(share * (1 - share) / 400), rel=0.06)


def test_pairing_makes_identical_systems_differ_by_exactly_nothing():
    errors = np.random.default_rng(1).integers(0, 5, (1, 30))
    rates = resample_rates(np.concatenate([errors, errors]), np.full(30, 10), resamples=100)
    comparison = compare(rates[:, 0], rates[:, 1], 0.0)
    assert (comparison.interval.low, comparison.interval.high) == (0.0, 0.0)
    assert comparison.p_value == 1.0
    assert comparison.includes_zero


def test_p_value_counts_the_rarer_side_twice():
    rates = np.array([1.0] * 3 + [-1.0] * 96)
    comparison = compare(rates, np.zeros(99), -0.9)
    assert comparison.p_value == pytest.approx(2 * (1 + 3) / 100)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60))
def test_swapping_the_systems_mirrors_the_comparison(values: list[int]):
    rates = np.array(values, dtype=np.float64)
    one = compare(rates, np.zeros_like(rates), 0.0)
    other = compare(np.zeros_like(rates), rates, 0.0)
    assert one.p_value == other.p_value
    assert 0 < one.p_value <= 1
    assert one.interval.low == pytest.approx(-other.interval.high)


def test_statistics_are_seeded_and_cover_students_and_the_teachers_mean(tmp_path: Path):
    folder = write_evaluation(tmp_path, teachers=3, utterances=30)
    checked = read_results(folder)
    hypotheses = read_hypotheses(folder, checked)
    one = statistics_of(checked, hypotheses)
    assert one == statistics_of(checked, hypotheses)
    assert set(one.comparisons) == {"average", "best", "weighted"}
    assert one.teacher_mean is not None
    for system_result in checked.systems:
        interval = one.intervals[system_result.label]
        assert interval.low <= checked.percent(system_result) <= interval.high
    assert isinstance(one.comparisons["best"], Comparison)


def test_hypotheses_that_contradict_the_results_are_refused(tmp_path: Path):
    folder = write_evaluation(tmp_path, teachers=1, utterances=5)
    path = folder / "hypotheses" / "test" / "weighted.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["attention_errors"] += 1
    write_lines(path, rows)
    with pytest.raises(ReportError, match=r"weighted.jsonl holds \d+ errors, results.json says"):
        read_hypotheses(folder, read_results(folder))
    rows[0]["attention_errors"] -= 1
    rows[0]["id"] = "stranger"
    write_lines(path, rows)
    with pytest.raises(ReportError, match="different utterances"):
        read_hypotheses(folder, read_results(folder))


def test_a_system_without_hypotheses_gets_no_interval_and_a_note(tmp_path: Path):
    folder = write_evaluation(tmp_path, teachers=2, utterances=8)
    (folder / "hypotheses" / "test" / "teacher-01.jsonl").unlink()
    checked = read_results(folder)
    statistics = statistics_of(checked, read_hypotheses(folder, checked), resamples=20)
    assert "teacher-01" not in statistics.intervals
    assert statistics.teacher_mean is None
    assert "teacher-01" in statistics.notes[0]
    rows = {row.label: row for row in result_rows(checked, statistics)}
    assert NONE in cells(rows["teacher-01"], 20)


@pytest.mark.parametrize("separator", ["", " "], ids=["joined", "separated"])
@pytest.mark.parametrize("unit", ["characters", "units"])
def test_characters_are_recognised_as_the_unit_of_scoring(
    tmp_path: Path, separator: str, unit: str
):
    raw = results(system("plain", "student", 1))
    raw["systems"][0]["scores"]["test"] = {d: counts(1, 5) for d in ("attention", "ctc")}
    write_json(tmp_path / "results.json", {**raw, "unit": unit})
    heard = separator.join("ab c")
    row = {"id": "u", "reference": separator.join("ab cd"), "attention": heard, "ctc": heard}
    row |= {"attention_errors": 1, "ctc_errors": 1}
    write_lines(tmp_path / "hypotheses" / "test" / "plain.jsonl", [row])
    hypotheses = read_hypotheses(tmp_path, read_results(tmp_path))
    assert hypotheses.references == [("a", "b", " ", "c", "d")]
    assert hypotheses.outputs["plain"] == [("a", "b", " ", "c")]
    assert hypotheses.lengths.tolist() == [5]


def test_references_that_do_not_add_up_give_no_intervals_but_a_note(tmp_path: Path):
    raw = results(system("plain", "student", 1))
    write_json(tmp_path / "results.json", raw)
    row = {"id": "u", "reference": "a b", "attention": "a", "ctc": "a"}
    row |= {"attention_errors": 1, "ctc_errors": 1}
    write_lines(tmp_path / "hypotheses" / "test" / "plain.jsonl", [row])
    checked = read_results(tmp_path)
    statistics = statistics_of(checked, read_hypotheses(tmp_path, checked))
    assert not statistics.intervals
    assert "do not add up to 200 units" in statistics.notes[0]
