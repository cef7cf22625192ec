"""Who is trusted where: groups, rates, intervals, weights, the table, the page."""

import csv
import io
import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kd_ray.config.strategies import Average, Best, Fixed, TrustTable, Weighted
from kd_ray.core.contracts import TeacherInfo
from kd_ray.core.trust import table_for
from kd_ray.report.systems import ReportError
from kd_ray.report.trust import Asked, TrustRecords, trust_report
from kd_ray.report.trust_groups import Group, groups_of
from kd_ray.report.trust_page import MANY_TEACHERS, trust_page
from kd_ray.report.trust_tables import print_trust, trust_csv, trust_json
from kd_ray.speech.manifest import Utterance

ASKED = Asked("pool p", "valid", "data/valid.parquet", "0123")
STRATEGIES = (Average(), Best(), Weighted())
DAY = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def info(index, name=None):
    return TeacherInfo(
        index, name or f"t{index}", f"teachers/t{index}", f"digest-{index}", "tokens", 7, 0, 1, 2,
        "front", 100.0, 10,
    )  # fmt: skip


def records(errors, lengths, names=None):
    errors = np.array(errors, dtype=np.int64)
    return TrustRecords(
        teachers=tuple(info(i, names[i] if names else None) for i in range(len(errors))),
        errors={"ctc_greedy": errors, "teacher_forced": errors // 2},
        confidence=-np.ones(errors.shape),
        reference_lengths=np.array(lengths, dtype=np.int64),
    )


def report(found, groups=None, **changes):
    settings = {"trust": "ctc_greedy", "strategies": STRATEGIES, "resamples": 200} | changes
    return trust_report(found, groups or {}, asked=ASKED, **settings)


def group(name, *rows, column="domain"):
    return Group(column, name, np.array(rows))


def rows(**columns):
    count = len(next(iter(columns.values())))
    known = {"duration_s", "domain", "speaker"} & set(columns)
    return [
        Utterance(
            id=f"u{i}",
            phones="a",
            **{name: columns[name][i] for name in known},
            extra={k: v[i] for k, v in columns.items() if k not in known and v[i] is not None},
        )
        for i in range(count)
    ]


class TestGroups:
    def test_columns_that_make_groups_are_found_by_themselves(self):
        found = groups_of(
            rows(
                duration_s=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
                domain=["read"] * 8,
                speaker=["s10", "s9", "s10", "s9", "s2", "s2", "s9", "s10"],
                snr_db=[0, 10, 20, 0, 10, 20, 0, None],
                text=[f"all different {i}" for i in range(8)],
                tags=[["a"]] * 8,
            ),
            buckets=2,
        )
        assert list(found) == ["duration", "speaker", "snr_db"]
        assert [each.name for each in found["speaker"]] == ["s2", "s9", "s10"]
        assert [each.name for each in found["snr_db"]] == ["0", "10", "20", "(none)"]
        assert [each.rows.tolist() for each in found["duration"]] == [[0, 1, 2, 3], [4, 5, 6, 7]]

    def test_many_numbers_become_buckets(self):
        levels = [float(i) for i in range(40)]
        found = groups_of(rows(snr_db=levels), ["snr_db"], buckets=4)["snr_db"]
        assert [len(each.rows) for each in found] == [10, 10, 10, 10]
        assert found[0].name.startswith("0")

    def test_equal_durations_are_one_bucket(self):
        found = groups_of(rows(duration_s=[2.0] * 6), ["duration"])
        assert [(each.name, len(each.rows)) for each in found["duration"]] == [("2 s", 6)]

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.none() | st.floats(-5, 5) | st.integers(-3, 3), min_size=1, max_size=40),
        st.integers(2, 5),
    )
    def test_every_utterance_is_in_one_group_of_a_column(self, values, buckets):
        if all(value is None for value in values):
            return
        found = groups_of(rows(level=values), ["level"], buckets=buckets)["level"]
        places = np.concatenate([each.rows for each in found])
        assert sorted(places.tolist()) == list(range(len(values)))
        assert all(len(each.rows) for each in found)

    def test_columns_that_are_not_there_are_named(self):
        with pytest.raises(ReportError, match=r"no values in a column 'nois'; it has duration, sn"):
            groups_of(rows(duration_s=[1.0], snr_db=[3]), ["nois"])
        with pytest.raises(ReportError, match="'tags' holds lists"):
            groups_of(rows(tags=[["a"], ["b"]]), ["tags"])


class TestReport:
    def test_a_hand_worked_report(self):
        found = report(
            records([[1, 0, 4, 4], [2, 2, 0, 1], [9, 9, 9, 9]], [10, 10, 10, 20]),
            {"domain": [group("clean", 0, 1), group("noisy", 2, 3)]},
        )
        np.testing.assert_allclose(found.whole.error_percent, [18.0, 10.0, 72.0])
        assert found.whole.best == (1,)
        assert found.whole.runner_up == 0
        assert found.whole.lead.difference == pytest.approx(8.0)
        clean, noisy = found.groups["domain"]
        assert (clean.best, noisy.best) == ((0,), (1,))
        np.testing.assert_allclose(clean.error_percent, [5.0, 20.0, 90.0])
        np.testing.assert_allclose(noisy.error_percent[:2], [100 * 8 / 30, 100 / 30])
        assert (clean.units, noisy.units) == (20, 30)
        assert clean.shares["average"] == pytest.approx([1 / 3] * 3)
        assert clean.shares["best"] == (1.0, 0.0, 0.0)
        weights = np.exp(-0.1 * np.array([[10, 0], [20, 20], [90, 90]]))
        np.testing.assert_allclose(
            clean.shares["weighted"], (weights / weights.sum(0)).mean(1), rtol=1e-9
        )
        assert found.choices.once == pytest.approx(10.0)
        assert found.choices.by_column == {"domain": pytest.approx(100 * 2 / 50)}
        assert found.choices.each_utterance == pytest.approx(100 * 2 / 50)
        assert found.teachers[0].also == {"teacher_forced": pytest.approx(100 * 4 / 50)}
        assert found.teachers[1].corpus_shares["best"] == 1.0

    def test_equal_errors_are_ties(self):
        found = report(records([[1, 2], [2, 1], [3, 3]], [5, 5]))
        assert found.whole.best == (0, 1)
        assert found.whole.runner_up == 2
        assert found.whole.tie_share == 0.0
        everybody = report(records([[0, 2], [0, 2]], [5, 5]))
        assert everybody.whole.runner_up is None
        assert everybody.whole.lead is None
        assert (everybody.whole.tie_share, everybody.whole.zero_share) == (1.0, 0.5)

    def test_intervals_hold_the_rate_and_shrink_with_more_utterances(self):
        rng = np.random.default_rng(0)

        def width(count):
            errors = rng.integers(0, 5, (2, count))
            whole = report(records(errors, [10] * count)).whole
            for rate, interval in zip(whole.error_percent, whole.intervals, strict=True):
                assert interval.low <= rate <= interval.high
            return whole.intervals[0].high - whole.intervals[0].low

        assert width(400) < width(25)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**32 - 1))
    def test_weights_are_shared_out_and_choosing_finer_never_costs(self, teachers, count, seed):
        rng = np.random.default_rng(seed)
        errors = rng.integers(0, 6, (teachers, count))
        cut = int(rng.integers(1, count))
        groups = {"domain": [group("a", *range(cut)), group("b", *range(cut, count))]}
        found = report(records(errors, rng.integers(1, 9, count)), groups, resamples=20)
        for each in (found.whole, *found.groups["domain"]):
            for shares in each.shares.values():
                assert sum(shares) == pytest.approx(1.0)
        choices = found.choices
        assert choices.each_utterance <= choices.by_column["domain"] + 1e-9
        assert choices.by_column["domain"] <= choices.once + 1e-9
        for name in found.strategies:
            assert sum(each.corpus_shares[name] for each in found.teachers) == pytest.approx(1.0)

    def test_a_teacher_that_did_not_always_answer_is_left_out_and_named(self):
        made = records([[1, 1], [0, 0]], [5, 5])
        made.confidence[1, 0] = np.nan
        found = report(made)
        assert [each.name for each in found.teachers] == ["t0"]
        assert found.table.teachers == ("digest-0",)
        assert found.notes == ("t1 answered for 1 of 2 utterances and is left out.",)
        made.confidence[0, 1] = np.nan
        with pytest.raises(ReportError, match="no teacher answered for every utterance"):
            report(made)

    def test_without_any_reference_there_is_nothing_to_report(self):
        with pytest.raises(ReportError, match="no utterance has a reference"):
            report(records(np.zeros((2, 0)), []))

    def test_by_confidence(self):
        made = records([[1, 1], [0, 0]], [5, 5])
        made.confidence[:] = np.log([[0.5, 0.5], [0.25, 0.75]])
        found = report(made, trust="confidence")
        assert found.whole.error_percent == pytest.approx([50.0, 50.0], abs=1e-3)
        assert found.table.measure == "1 - confidence"
        assert "ctc_greedy" in found.teachers[0].also

    def test_two_strategies_of_a_type_are_told_apart(self):
        found = report(records([[1], [2]], [5]), strategies=(Weighted(), Weighted(scale=1)))
        assert list(found.strategies) == ["weighted (scale 0.1)", "weighted (scale 1.0)"]


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(3)
    made = records(rng.integers(0, 5, (3, 12)), [8] * 12, ["<b>one</b>", "two", "three"])
    return report(
        made,
        {
            "domain": [group("read & spoken", *range(6)), group("free", *range(6, 12))],
            "speaker": [group(f"s{i}", 2 * i, 2 * i + 1, column="speaker") for i in range(6)],
        },
        notes=["1 of 13 utterances have no phones and are left out."],
    )


class TestFiles:
    def test_the_table_is_what_corpus_scope_reads(self, found):
        table = TrustTable.model_validate(json.loads(found.table.model_dump_json()))
        assert table_for(table, ["digest-2", "digest-0"]).error_percent == (
            found.whole.error_percent[2], found.whole.error_percent[0],
        )  # fmt: skip
        assert Weighted(scope="corpus", table=table).table == table

    def test_json_and_csv_hold_every_group(self, found):
        content = json.loads(trust_json(found))
        assert [each["name"] for each in content["groups"]["domain"]] == ["read & spoken", "free"]
        assert content["asked"]["split"] == "valid"
        assert content["strategies"]["weighted"]["scale"] == 0.1
        lines = list(csv.DictReader(io.StringIO(trust_csv(found))))
        assert len(lines) == (1 + 2 + 6) * 3
        line = next(each for each in lines if each["group"] == "free" and each["teacher"] == "two")
        free = found.groups["domain"][1]
        assert float(line["error_percent"]) == free.error_percent[1]
        assert float(line["share_best"]) == free.shares["best"][1]
        assert int(line["best"]) == (1 in free.best)

    def test_the_page_is_whole_by_itself_and_escapes_names(self, found):
        page = trust_page(found, "Who & where", now=DAY)
        assert page == trust_page(found, "Who & where", now=DAY)
        assert not re.search(r"(?:src|href)=\"(?!#)", page.replace("xlink:href", "href"))
        assert "<b>one</b>" not in page
        assert "&lt;b&gt;one&lt;/b&gt;" in page
        assert "read &amp; spoken" in page
        assert "1 of 13 utterances have no phones" in page
        assert page.count('class="data heat"') == 2 * 3
        assert 'aria-label="ctc error rate of every teacher' in page

    def test_hundreds_of_teachers_stand_behind_a_click(self):
        rng = np.random.default_rng(4)
        many = report(
            records(rng.integers(0, 9, (60, 10)), [8] * 10),
            {"domain": [group("a", *range(5)), group("b", *range(5, 10))]},
            resamples=20,
        )
        page = trust_page(many, "Many", now=DAY)
        assert page.count("All 60 teachers") == 3
        assert MANY_TEACHERS < 60
        console = Console(file=io.StringIO(), width=200)
        print_trust(many, console)
        assert "48 of 60 teachers are not shown here" in console.file.getvalue()

    def test_the_terminal_names_the_best(self, found):
        console = Console(file=io.StringIO(), width=200)
        print_trust(found, console)
        text = console.file.getvalue()
        assert "by speaker" in text
        assert "read & spoken" in text
        assert "chosen in hindsight" in text


def test_fixed_weights_are_those_of_the_teachers_that_stay():
    found = records([[1, 2], [2, 1], [0, 0]], [10, 10])
    found.confidence[2, 0] = np.nan
    made = report(found, strategies=[Average(), Fixed(weights=(1.0, 2.0, 5.0))])
    assert [teacher.name for teacher in made.teachers] == ["t0", "t1"]
    shares = [teacher.corpus_shares["fixed"] for teacher in made.teachers]
    assert shares == pytest.approx([1 / 3, 2 / 3])
