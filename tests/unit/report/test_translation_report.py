import dataclasses
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from report_folders import write_evaluation, write_json, write_lines, write_run
from test_report_page import parsed
from translation_folders import write_translations

from kd_ray.core.diagnostics import ImitationSums
from kd_ray.core.translation_scores import paired_bootstrap
from kd_ray.report.comparison import compare_systems
from kd_ray.report.comparison_page import (
    comparison_json,
    comparison_markdown,
    comparison_page,
)
from kd_ray.report.diagnostics import DIAGNOSTICS
from kd_ray.report.evaluations import TranslationQuality, read_evaluated
from kd_ray.report.page import write_report
from kd_ray.report.systems import ReportError
from kd_ray.report.tables import plain_table
from kd_ray.report.texts import pick_texts
from kd_ray.report.translations import read_translations

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def evaluated(folder) -> TranslationQuality:
    found = read_evaluated(folder)
    assert isinstance(found, TranslationQuality)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_translations(tmp_path_factory.mktemp("st") / "evaluation")


def test_the_table_has_higher_bleu_first_and_groups_apart(folder):
    view = evaluated(folder).view
    assert [line.label for line in view.lines] == [
        "expert <b>",
        "cascade",
        "imitation",
        "word-kd",
        "nll",
    ]
    assert view.starts_group() == [False, True, True, False, False]
    assert [line.label for line in view.lines if line.best_student] == ["imitation"]
    text = plain_table(view)
    for word in ("BLEU", "chrF++", "TER", "length", "transcript", "66.7"):
        assert word in text
    narrow = plain_table(view.without_statistics())
    assert "interval" not in narrow
    assert "chrF++" in narrow


def test_rows_as_json_hold_the_scores_of_the_counts(folder):
    written = json.loads((folder / "results.json").read_text())
    scores = {system["label"]: system["scores"] for system in written["systems"]}
    for row in json.loads(evaluated(folder).view.json):
        for split, values in row["scores"].items():
            for metric, value in values.items():
                assert value == pytest.approx(scores[row["label"]][split][metric], abs=1e-9)


def test_differences_are_a_paired_bootstrap_against_the_undistilled_student(folder):
    found = evaluated(folder)
    assert set(found.statistics.comparisons) == {"word-kd", "imitation", "expert <b>", "cascade"}
    counts = found.hypotheses.counts
    expected = paired_bootstrap(counts["imitation"]["bleu"], counts["nll"]["bleu"], "bleu")
    assert found.statistics.comparisons["imitation"] == expected
    assert expected.difference > 0


def test_files_in_any_order_give_the_same_numbers(tmp_path, folder):
    ordered = read_translations(folder, evaluated(folder).results)
    for path in (folder / "hypotheses" / "test").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        target = tmp_path / "hypotheses" / "test" / path.name
        write_lines(target, rows[::-1] if path.name.startswith("nll") else rows[7:] + rows[:7])
    (tmp_path / "results.json").write_text((folder / "results.json").read_text())
    shuffled = read_translations(tmp_path, evaluated(tmp_path).results)
    place = {name: i for i, name in enumerate(shuffled.ids)}
    order = [place[name] for name in ordered.ids]
    assert [shuffled.references[i] for i in order] == ordered.references
    for label, counts in ordered.counts.items():
        assert [shuffled.outputs[label][i] for i in order] == ordered.outputs[label]
        for metric, values in counts.items():
            np.testing.assert_array_equal(shuffled.counts[label][metric][order], values)


def broken(folder, tmp_path, change):
    for path in (folder / "hypotheses" / "test").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if path.name == "nll.jsonl":
            change(rows)
        write_lines(tmp_path / "hypotheses" / "test" / path.name, rows)
    (tmp_path / "results.json").write_text((folder / "results.json").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda rows: rows[0]["counts"].update(bleu=[0] * 10), r"counts of BLEU .* do not add up"),
        (lambda rows: rows[0].update(id="other"), "different utterances"),
        (lambda rows: rows[0].update(reference="x"), r"other references .*test-000"),
        (lambda rows: rows[0].pop("counts"), "lacks counts"),
    ],
)
def test_files_that_contradict_each_other_are_refused(folder, tmp_path, change, match):
    with pytest.raises(ReportError, match=match):
        read_evaluated(broken(folder, tmp_path, change))


def test_results_that_lack_scores_are_refused(folder, tmp_path):
    content = json.loads((folder / "results.json").read_text())
    del content["systems"][0]["scores"]["valid"]
    write_json(tmp_path / "results.json", content)
    with pytest.raises(ReportError, match=r"'nll' has no score on valid"):
        read_evaluated(tmp_path)


def test_samples_are_the_worst_and_others(folder):
    found = evaluated(folder)
    worst, random = pick_texts(found.results, found.hypotheses)
    assert len(worst) == len(random) == 10
    assert not {each.id for each in worst} & {each.id for each in random}
    assert max(each.mean_score for each in worst) <= min(each.mean_score for each in random)
    labels = [label for label, *_ in worst[0].systems]
    assert labels == ["imitation", "word-kd", "nll", "cascade", "expert <b>"]
    heard = {label: text for label, _, _, text in worst[0].systems}
    assert heard["cascade"].startswith("anguish")
    assert heard["nll"] is None


def training(folder, name, *, imitation):
    write_run(folder, name, strategy="average" if imitation else None, epochs=4, updates=3)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "valid":
            row["bleu"] = 10.0 + row["epoch"]
        elif imitation:
            row |= {
                "beta": 200 ** (-row["epoch"] / 4),
                "replaced_share": 1 - 200 ** (-row["epoch"] / 4),
                "rollout_length_ratio": 1.1,
                "teacher_entropy_data": 0.4,
                "teacher_agrees_data": 0.9,
                "teacher_agrees_rollout": None,
                "rollout_s": 0.2,
            }
    write_lines(folder / "metrics.jsonl", rows)
    if imitation:
        summary = json.loads((folder / "summary.json").read_text())
        summary["average"] = {"updates": [9, 12], "bleu": 14.5, "error_rate": 85.5}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_every_diagnostic_is_one_that_runs_write():
    sums = ImitationSums(*[1.0] * len(dataclasses.fields(ImitationSums)))
    assert set(DIAGNOSTICS) <= {"beta", *sums.figures()}


def test_the_page_shows_translations_and_diagnostics(folder, tmp_path):
    runs = {
        "nll": training(tmp_path / "nll", "st/nll", imitation=False),
        "imitation": training(tmp_path / "imitation", "st/imitation", imitation=True),
    }
    page = write_report(folder, runs, tmp_path / "report.html", "Speech", now=NOW).read_text()
    checker = parsed(page)
    assert len(checker.ids) == len(set(checker.ids))
    assert page.count("<svg") == 5
    assert "expert &lt;b&gt;" in page
    assert "expert <b>" in checker.text
    for text in (
        "“imitation”, has",
        "more than without teachers",
        "higher is better; TER: lower is better",
        "nrefs:1|case:mixed|eff:no|tok:13a",
        "Validation BLEU",
        "beta, chance of a data prefix",
        "rollouts",
        "best validation BLEU 14.0 in epoch 4",
        "average of the last 2: BLEU 14.5",
        "The 10 with the lowest chrF++",
        "english 3 & more",
        "Upper left is better",
        "words of reference translations",
    ):
        assert text in checker.text, text
    assert "teacher agrees with rollout" not in checker.text  # nobody has it
    again = write_report(folder, runs, tmp_path / "again.html", "Speech", now=NOW).read_text()
    assert page == again


def test_a_page_without_any_student_is_written(tmp_path):
    folder = write_translations(tmp_path / "e", systems=(("e", "expert", None, 0.1),), utterances=3)
    page = write_report(folder, {}, tmp_path / "report.html", "T", now=NOW).read_text()
    assert "No student was evaluated." in page


def test_a_comparison_lists_gains_and_losses_with_what_was_said(folder):
    found = compare_systems(folder, "imitation", "nll", examples=4, resamples=100)
    assert found.measure == "chrf++"
    assert found.better + found.equal + found.worse == found.utterances == 30
    assert [row.gain for row in found.gains] == sorted(
        (row.gain for row in found.gains), reverse=True
    )
    assert len(found.gains) == 4
    assert all(row.gain > 0 for row in found.gains)
    assert all(row.gain < 0 for row in found.losses)
    lines = (folder / "hypotheses" / "test" / "imitation.jsonl").read_text().splitlines()
    texts = {row["id"]: row for row in map(json.loads, lines)}
    for row in found.gains:
        assert row.system_hypothesis == texts[row.id]["hypothesis"]
        assert row.transcript == texts[row.id]["transcript"]
        assert row.gain == pytest.approx(row.system_score - row.baseline_score)
    assert set(found.corpus) == {"bleu", "chrf++", "ter"}
    assert found.corpus["bleu"].comparison.difference > 0
    assert found.corpus["ter"].comparison.difference < 0


def test_a_comparison_backwards_swaps_gains_and_losses(folder):
    there = compare_systems(folder, "imitation", "nll", examples=30, measure="ter", resamples=20)
    back = compare_systems(folder, "nll", "imitation", examples=30, measure="ter", resamples=20)
    assert {row.id for row in there.gains} == {row.id for row in back.losses}
    assert there.worse == back.better
    assert there.equal == back.equal
    first = there.gains[0]
    assert first.gain == pytest.approx(first.baseline_score - first.system_score)


def test_identical_systems_gain_nothing(tmp_path):
    folder = write_translations(tmp_path, systems=(("a", "student", None, 0.3),), utterances=8)
    content = json.loads((folder / "results.json").read_text())
    content["systems"].append({**content["systems"][0], "label": "b"})
    write_json(folder / "results.json", content)
    for split in ("valid", "test"):
        path = folder / "hypotheses" / split
        lines = (path / "a.jsonl").read_text().splitlines(keepends=True)
        (path / "b.jsonl").write_text("".join(reversed(lines)))
    found = compare_systems(folder, "a", "b", resamples=50)
    assert (found.better, found.equal, found.worse) == (0, 8, 0)
    assert found.gains == found.losses == ()
    for each in found.corpus.values():
        assert each.comparison.difference == 0
        assert each.comparison.p_value == 1


def test_a_comparison_of_cascades_shows_what_was_heard(folder):
    found = compare_systems(folder, "cascade", "nll", split="valid", resamples=20)
    assert found.split == "valid"
    row = found.gains[0]
    assert row.system_heard is not None
    assert row.baseline_heard is None
    assert "cascade: heard: anguish" in comparison_markdown(found)


def test_a_comparison_is_written_in_three_ways(folder):
    found = compare_systems(folder, "expert <b>", "nll", resamples=20, examples=3)
    content = json.loads(comparison_json(found))
    assert content["gains"][0]["id"] == found.gains[0].id
    assert content["corpus"]["bleu"]["comparison"]["p_value"] <= 1
    text = comparison_markdown(found)
    assert "expert \\<b\\>" in text
    assert f"### {found.gains[0].id}" in text
    page = comparison_page(found)
    checker = parsed(page)
    assert not checker.tags & {"script", "link", "img", "b>"}
    assert found.gains[0].reference in checker.text
    assert "expert <b>" in checker.text


def test_error_rates_are_compared_too(tmp_path):
    folder = write_evaluation(tmp_path, teachers=1, utterances=30)
    found = compare_systems(folder, "weighted", "undistilled", resamples=50)
    assert found.measure == "error_rate"
    assert set(found.corpus) == {"error_rate"}
    each = found.corpus["error_rate"]
    assert each.comparison.difference == pytest.approx(each.system - each.baseline)
    assert each.lower_is_better
    assert all(row.system_score < row.baseline_score for row in found.gains)
    valid = compare_systems(folder, "weighted", "undistilled", split="valid", resamples=50)
    assert valid.corpus != found.corpus


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (("nobody", "nll"), {}, r"no system 'nobody'; it has 'nll', 'word-kd'"),
        (("imitation", "nll"), {"split": "train"}, r"no split 'train'; it has 'valid', 'test'"),
        (("imitation", "nll"), {"measure": "error_rate"}, "allowed are bleu, chrf\\+\\+, ter"),
    ],
)
def test_what_cannot_be_compared_is_said(folder, arguments, options, match):
    with pytest.raises(ReportError, match=match):
        compare_systems(folder, *arguments, **options)


def test_a_system_without_hypotheses_cannot_be_compared(tmp_path):
    folder = write_translations(tmp_path, utterances=4)
    (folder / "hypotheses" / "test" / "nll.jsonl").unlink()
    with pytest.raises(ReportError, match="does not hold hypotheses of both"):
        compare_systems(folder, "imitation", "nll")
    assert "nll: no hypotheses on test" in evaluated(folder).statistics.notes[0]
