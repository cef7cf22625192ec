"""What a search says at its end: ranks, the verdict, axes, teachers' work, the page."""

import html.parser
import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from search_help import grid_of, opened, put, search_config, write_base

from kd_ray.evaluation.run_folder import write_json, write_json_lines
from kd_ray.report.search import (
    TeacherWork,
    read_search,
    setting_text,
    short_axes,
    value_text,
)
from kd_ray.report.search_axes import axis_effects, work_sentences
from kd_ray.report.search_page import search_page
from kd_ray.report.search_tables import search_json, setting_row, show_search
from kd_ray.report.search_verdict import verdict_of


@pytest.fixture
def root(tmp_path):
    write_base(tmp_path)
    return tmp_path


def searched(root, errors, **changes):
    """Four settings: errors by epoch of each, or (errors, state); for each seed."""
    config = search_config(**changes)
    book, base = opened(config, root)
    for proposed, said in zip(grid_of(config), errors, strict=True):
        curve, state = said if isinstance(said, tuple) else (said, "finished")
        size = 1000 if proposed.setting["teachers.strategy"]["type"] == "best" else 4000
        put(book, base, proposed, curve, state=state, parameters=size)
    return read_search(root, config.name)


def evaluated(root, results, rates, *, utterances=60):
    """An evaluation folder in which each trial errs at its rate."""
    draw = np.random.default_rng(3)
    references = [["a"] * 12 for _ in range(utterances)]
    # The same difficult utterances for everybody, as it is.
    hardness = draw.random((utterances, 12))
    folder = root / "runs" / results.name / "evaluation"
    systems = []
    for trial in results.trials:
        if trial.state != "finished":
            continue
        rate = rates[trial.number] / 100
        wrong = hardness + draw.normal(0, 0.02, hardness.shape) < rate
        rows = [
            {
                "id": f"u{index}",
                "reference": " ".join(reference),
                "attention": " ".join("b" if bad else "a" for bad in wrong[index]),
                "attention_errors": int(wrong[index].sum()),
            }
            for index, reference in enumerate(references)
        ]
        write_json_lines(folder / "hypotheses" / "test" / f"{trial.label}.jsonl", rows)
        counts = {
            "substitutions": int(wrong.sum()),
            "insertions": 0,
            "deletions": 0,
            "reference_length": 12 * utterances,
            "sentences": utterances,
        }
        systems.append(
            {
                "label": trial.label,
                "kind": "student",
                "folder": f"runs/{trial.name}/model",
                "parameters": 1000,
                "bytes": 4000,
                "scores": {"test": {"attention": counts}},
            }
        )
    write_json(
        folder / "results.json",
        {
            "family": "error_rate",
            "unit": "phones",
            "decoding": "attention",
            "splits": {"test": {"manifest": "test.parquet", "utterances": utterances}},
            "systems": systems,
        },
    )
    return folder


CURVES = [[60, 41], [60, 30], [60, 35], [60, 50]]


def test_settings_are_ranked_by_the_mean_of_their_seeds(root):
    errors = [[50, 40], [30], [35], ([60], "stopped"), [44], [32], ([70], "failed"), [20]]
    results = searched(root, errors, seeds=[1, 2])
    assert [setting.number for setting in results.ranked] == [2, 1]
    assert [setting.number for setting in results.settings] == [2, 1, 4, 3]
    best = results.ranked[0]
    assert best.mean == 31
    assert best.deviation == pytest.approx(2**0.5)
    statuses = {setting.number: setting.status for setting in results.settings}
    assert statuses == {
        1: "2 finished",
        2: "2 finished",
        3: "1 finished, 1 failed",
        4: "1 finished, 1 stopped after epoch 1",
    }


def test_an_exported_average_is_what_is_scored(root):
    config = search_config()
    book, base = opened(config, root)
    trial = put(book, base, grid_of(config)[0], [50, 40])
    summary = json.loads((trial.folder / "summary.json").read_text())
    write_json(trial.folder / "summary.json", summary | {"average": {"error_rate": 38.5}})
    assert book.trial(trial.key).error == 38.5


def test_one_seed_without_an_evaluation_tells_nothing_apart(root):
    verdict = verdict_of(searched(root, CURVES), None)
    assert verdict.winner == 2
    assert [each.number for each in verdict.against.values()] == [3, 1, 4]
    assert all(each.better is None for each in verdict.against.values())
    assert "30.00" in verdict.text
    assert "cannot be told apart" in verdict.text


def test_seeds_give_an_interval_by_student_s_t(root):
    first, second = [[30], [40], [50], [60]], [[31], [42], [50], [61]]
    verdict = verdict_of(searched(root, first + second, seeds=[1, 2]), None)
    found = verdict.against[2]
    # Differences -10 and -11: the mean -10.5, the standard error 0.5, t = 12.706.
    assert found.difference == pytest.approx(-10.5)
    assert found.interval.low == pytest.approx(-10.5 - 12.706 * 0.5)
    assert found.better
    close = verdict_of(
        searched(root, [[30], [31], [50], [60], [33], [31], [50], [60]], name="b", seeds=[1, 2]),
        None,
    )
    assert close.against[1].better is None


def test_an_evaluation_tells_the_winner_from_the_others_where_it_can(root):
    results = searched(root, CURVES)
    folder = evaluated(root, results, {1: 41, 2: 30, 3: 30.3, 4: 50})
    verdict = verdict_of(results, folder)
    assert verdict.winner == 2
    assert verdict.against[3].better is None
    assert verdict.against[1].better is True
    assert verdict.against[4].better is True
    low, high = verdict.against[1].interval.low, verdict.against[1].interval.high
    assert low < verdict.against[1].difference < high < 0
    assert verdict.scored[4].mean == pytest.approx(50, abs=4)
    assert "On test they differ by" in verdict.text
    assert "the two cannot be told apart" in verdict.text


def test_an_evaluation_may_say_that_the_second_is_better(root):
    results = searched(root, CURVES)
    verdict = verdict_of(results, evaluated(root, results, {1: 41, 2: 45, 3: 30, 4: 50}))
    assert verdict.winner == 2
    assert verdict.against[3].better is False
    assert "there the second is the better one" in verdict.text


def test_seeds_that_disagree_tell_nothing_apart(root):
    errors = [[60, 41], [30], [35], [50], [60, 41], [30], [35], [50]]
    results = searched(root, errors, seeds=[1, 2])
    folder = evaluated(root, results, {1: 41, 2: 30, 3: 45, 4: 50})
    # Seed 2 of the third setting as good as it gets: added up, the winner is still better.
    rows = [json.loads(line) for line in (folder / "hypotheses/test/setting-3-s2.jsonl").open()]
    for row in rows:
        row["attention"], row["attention_errors"] = row["reference"], 0
    write_json_lines(folder / "hypotheses/test/setting-3-s2.jsonl", rows)
    content = json.loads((folder / "results.json").read_text())
    for system in content["systems"]:
        if system["label"] == "setting-3-s2":
            system["scores"]["test"]["attention"]["substitutions"] = 0
    write_json(folder / "results.json", content)
    found = verdict_of(results, folder).against[3]
    assert found.by_seed[1] < 0 < found.by_seed[2]
    assert found.better is None


def with_seeds(root, seeds):
    """The same search, which asks for other seeds now."""
    config = search_config(seeds=seeds)
    opened(config, root)
    return read_search(root, config.name)


def test_a_seed_that_is_not_asked_for_any_more_counts_nowhere(root):
    second = [[50], [20], ([60], "failed"), [44]]
    searched(root, [[30], [34], [32], [36], *second], seeds=[1, 2])
    results = with_seeds(root, [1])
    # By both seeds it would have been the second setting; the third would not be complete.
    assert [(each.number, each.mean) for each in results.ranked] == [
        (1, 30), (3, 32), (2, 34), (4, 36),
    ]  # fmt: skip
    assert all(each.deviation is None for each in results.settings)
    assert [each.status for each in results.ranked] == ["finished"] * 4
    folder = evaluated(root, results, {1: 30, 2: 34, 3: 60, 4: 36})
    verdict = verdict_of(results, folder)
    assert set(verdict.scored) == {1, 2, 3, 4}
    assert list(verdict.scored[3].by_seed) == [1]
    assert "over 2 seeds" not in verdict.text
    assert "seed 2 (" not in search_page(results, verdict)
    show_search(results, verdict)


def test_a_setting_without_a_trial_of_the_seeds_is_not_begun(root):
    searched(root, CURVES, seeds=[1])
    results = with_seeds(root, [2])
    assert [(each.number, each.status) for each in results.settings] == [
        (number, "not begun") for number in (1, 2, 3, 4)
    ]
    show_search(results, verdict_of(results, None))


def test_a_setting_that_was_not_decoded_is_compared_by_what_the_text_says(root):
    results = searched(root, [*CURVES, *CURVES], seeds=[1, 2])
    folder = evaluated(root, results, {1: 41, 2: 30, 3: 35, 4: 50})
    content = json.loads((folder / "results.json").read_text())
    content["systems"] = [
        each for each in content["systems"] if not each["label"].startswith("setting-3")
    ]
    write_json(folder / "results.json", content)
    assert "differ by \N{MINUS SIGN}5.00 (token error rate, %, attention;" in (
        verdict_of(results, folder).text
    )


@pytest.mark.parametrize(
    ("unit", "named"),
    [("phones", "phone"), ("words", "word"), ("characters", "character"),
     ("sentencepiece", "token")],
)  # fmt: skip
def test_the_score_is_named_by_what_validation_counts(root, unit, named):
    data = {"train": "t", "valid": "v", "tokens": "k", "column": "transcript"}
    write_base(root, data=data)
    config = search_config()
    book, base = opened(config, root)
    book.open(config, base, unit)
    title = read_search(root, config.name).measure.title
    assert title == f"{named} error rate, %, attention"


def test_incomplete_settings_are_in_the_order_of_what_the_table_shows(root):
    first = [[30], ([70], "stopped"), ([50], "stopped"), ([60], "stopped")]
    second = [[31], ([40], "stopped"), ([51], "stopped"), ([59], "stopped")]
    results = searched(root, [*first, *second], seeds=[1, 2])
    verdict = verdict_of(results, None)
    shown = [setting_row(results, each, verdict)[3] for each in results.settings]
    assert shown == ["30.50 ± 0.71", "(40.00)", "(50.00)", "(59.00)"]


def test_no_complete_setting_means_no_winner(root):
    results = searched(root, [([60], "stopped")] * 3 + [([], "failed")])
    verdict = verdict_of(results, None)
    assert verdict.winner is None
    assert "no winner" in verdict.text
    show_search(results, verdict)
    assert "failed: ValueError: no luck" in search_page(results, verdict)


def test_axes_have_mean_scores_and_their_spread(root):
    effects = {each.key: each for each in axis_effects(searched(root, CURVES))}
    strategy = effects["teachers.strategy"]
    assert strategy.values == {"average": (2, 35.5), "best": (2, 42.5)}
    assert strategy.spread == 7
    assert strategy.computed_share is None
    assert effects["distillation.alpha"].correlation is None


def test_a_number_s_ranks_are_correlated_with_the_error(root):
    values = [0.1, 0.3, 0.5, 0.7]
    space = {"distillation.alpha": {"type": "choice", "values": values}}
    config = search_config(space=space)
    book, base = opened(config, root)
    for proposed, error in zip(grid_of(config), (50, 40, 30, 35), strict=True):
        put(book, base, proposed, [error])
    [effect] = axis_effects(read_search(root, config.name))
    # Ranks 4, 3, 1, 2 against 1, 2, 3, 4.
    assert effect.correlation == pytest.approx(-0.8)


def test_teacher_work_is_laid_to_the_axis_that_cost_it(root):
    """alpha changes nothing that teachers are asked; another strategy does, in this tale."""
    config = search_config()
    book, base = opened(config, root)
    costs = {1: 1000, 2: 0, 3: 800, 4: 0}
    for moment, proposed in enumerate(grid_of(config)):
        work = TeacherWork(1000, 1000 - costs[proposed.number], 1.5)
        put(book, base, proposed, [50.0], work=work)
        path = book.path / "trials" / proposed.key / "trial.json"
        note = json.loads(path.read_text())
        write_json(path, note | {"started": 10.0 * moment, "ended": 10.0 * moment + 9})
    results = read_search(root, config.name)
    effects = axis_effects(results)
    shares = {each.key: each.computed_share for each in effects}
    assert shares == {"teachers.strategy": pytest.approx(0.4), "distillation.alpha": 0.0}
    text = " ".join(work_sentences(results, effects))
    assert "4,000 rows" in text
    assert "1,800 were computed (45.0 %, 6 s" in text
    assert "cost teacher work again: teachers.strategy (40 %)" in text
    assert "cost no teacher work: distillation.alpha" in text


def test_another_seed_is_another_difference(root):
    config = search_config(space={"distillation.alpha": {"type": "choice", "values": [0.3, 0.9]}},
                           seeds=[1, 2])  # fmt: skip
    book, base = opened(config, root)
    first, _, _, last = grid_of(config)
    for moment, (proposed, known) in enumerate([(first, 0), (last, 0)]):
        put(book, base, proposed, [50.0], work=TeacherWork(100, known, 1.0))
        path = book.path / "trials" / proposed.key / "trial.json"
        note = json.loads(path.read_text())
        write_json(path, note | {"started": 10.0 * moment, "ended": 10.0 * moment + 9})
    [effect] = axis_effects(read_search(root, config.name))
    assert (first.seed, last.seed) == (1, 2)
    assert effect.computed_share is None


@pytest.mark.parametrize(
    ("source", "said"),
    [({"type": "store", "path": "s"}, "no axis cost"), ({"type": "local"}, "every trial cost")],
)
def test_without_a_pool_the_report_says_where_teachers_were(root, source, said):
    write_base(root, teachers={"list": "teachers.txt", "source": source})
    results = searched(root, CURVES)
    assert said in " ".join(work_sentences(results, axis_effects(results)))


class Page(html.parser.HTMLParser):
    """Counts elements, and notices what is fetched or left open."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.fetched = [], [], []

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        if "id" in names:
            self.ids.append(names["id"])
        for key in ("src", "href", "xlink:href"):
            if not str(names.get(key, "#")).startswith("#"):
                self.fetched.append(names[key])
        if tag not in ("meta", "path", "use", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_page_is_whole_escaped_and_fetches_nothing(root):
    errors = [[60, 41], ([60], "stopped"), [60, 30], ([], "failed")]
    results = searched(root, errors, overrides={"data.batches.on_bad_row": "skip"})
    verdict = verdict_of(results, evaluated(root, results, {1: 41, 3: 30}))
    now = datetime(2026, 1, 2, tzinfo=UTC)
    page = search_page(results, verdict, now=now)
    assert page == search_page(results, verdict, now=now)
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    assert parsed.fetched == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert len(re.findall("<svg ", page)) == 4
    for text in ("Best of 2 complete settings", "stopped early at epoch 1", "no luck",
                 "name=search/trials/", "kd-ray search"):  # fmt: skip
        assert text in page
    assert "{&#x27;" not in page


def test_the_table_marks_what_is_not_complete(root):
    errors = [[60, 41], [60, 30], ([60, 52], "stopped"), ([], "failed")]
    results = searched(root, errors)
    verdict = verdict_of(results, None)
    rows = {setting.number: setting_row(results, setting, verdict) for setting in results.settings}
    assert rows[2][:4] == ["2", "average", "0.9", "30.00"]
    assert rows[3][3] == "(52.00)"
    assert rows[3][-1] == "stopped after epoch 2"
    assert rows[4][3] == "\N{EN DASH}"


def test_the_json_holds_every_trial_with_its_reason(root, capsys):
    errors = [[60, 41], [60, 30], ([60, 52], "stopped"), ([], "failed")]
    results = searched(root, errors)
    verdict = verdict_of(results, None)
    content = json.loads(json.dumps(search_json(results, verdict)))
    assert content["verdict"]["winner"] == 2
    states = {each["number"]: each["trials"][0]["state"] for each in content["settings"]}
    assert states == {1: "finished", 2: "finished", 3: "stopped", 4: "failed"}
    assert [each["complete"] for each in content["settings"]] == [True, True, False, False]
    show_search(results, verdict)
    shown = capsys.readouterr().out
    assert "#4, seed 1 failed: ValueError: no luck" in shown


def test_scores_of_translations_are_shown_as_such(root):
    model = {
        "type": "speech_to_text",
        "encoder": {"type": "transformer", "layers": 1, "size": 8, "heads": 1},
        "decoder": {"type": "transformer", "layers": 1, "size": 8, "heads": 1},
    }
    data = {"train": "t", "valid": "v", "tokens": "k", "column": "translation"}
    write_base(
        root,
        model=model,
        data=data,
        training={"epochs": 2, "select_by": "bleu"},
        distillation={"ctc_weight": 0.0},
    )
    results = searched(root, [[90.0, 80.0], [85.0], [70.0], [95.0]])
    verdict = verdict_of(results, None)
    assert results.measure.title == "BLEU"
    assert verdict.winner == 3
    assert verdict.against[1].difference == pytest.approx(10.0)
    assert "30.00" in verdict.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"type": "best", "ties": "first"}, "best (ties first)"),
        ({"type": "average"}, "average"),
        ({"preset": "word_kd"}, "preset word_kd"),
        (0.30000000001, "0.3"),
        (None, "null"),
        (True, "true"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_values_are_told_in_few_words(value, text):
    assert value_text(value) == text


def test_keys_are_cut_to_what_tells_them_apart():
    keys = ["model.encoder.dropout", "model.decoder.dropout", "distillation.alpha"]
    assert list(short_axes(keys).values()) == ["encoder.dropout", "decoder.dropout", "alpha"]
    assert setting_text({"a.b": 1, "c": {"type": "x"}}) == "b 1, c x"
