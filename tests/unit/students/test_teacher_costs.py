"""What teacher signals cost: it adds up over requests, sessions and workers."""

import pytest
from doubles import FakeTeacher, request, writing_request

from kd_ray.core.costs import SourceCosts, costs_of
from kd_ray.students.collective import Alone
from kd_ray.students.loop import Progress
from kd_ray.students.signal_statistics import SignalStatistics
from kd_ray.students.teacher_costs import cost_summary, totals
from kd_ray.teachers.local_source import LocalSource


class Two(Alone):
    """Two workers that counted the same."""

    def sum(self, values):
        return [2 * value for value in values]


def test_a_local_source_says_what_it_took():
    source = LocalSource([FakeTeacher(seed, pass_s=0.001) for seed in (1, 2, 3)])
    source.ask(request(1, rows=4)).result(10)
    source.ask(writing_request(1, rows=5)).result(10)
    costs = costs_of(source)
    source.close()
    assert (costs.requests, costs.utterances, costs.rows) == (2, 9, 27)
    assert (costs.known_rows, costs.loads, costs.bytes_student) == (0, 0.0, 0)
    assert costs.teacher_s > 0.006


def test_a_source_that_does_not_say_costs_nothing():
    assert costs_of(object()) == SourceCosts()
    assert costs_of(None) == SourceCosts()


def test_sessions_and_workers_add_up():
    class Source:
        def costs(self):
            return SourceCosts(requests=1, utterances=8, rows=24, teacher_s=0.5, loads=1.5)

    progress = Progress(
        statistics=SignalStatistics(signals=3, positions=40),
        costs=SourceCosts(requests=2, utterances=16, rows=48, known_rows=8, bytes_student=100),
    )
    statistics, costs = totals(progress, Source(), Two())
    assert (statistics.signals, statistics.positions) == (6, 80)
    assert costs == SourceCosts(
        requests=6, utterances=48, rows=144, known_rows=16, teacher_s=1.0, loads=3.0,
        bytes_student=200,
    )  # fmt: skip
    assert isinstance(costs.rows, int)


def test_the_summary_divides_by_utterances_and_positions():
    costs = SourceCosts(
        requests=5, utterances=20, rows=60, known_rows=15, teacher_s=3.0, loads=2.0,
        bytes_sent=4000, bytes_hosts=6000, bytes_student=2000,
    )  # fmt: skip
    found = cost_summary(costs, positions=400, wait_s=2.0, seconds=10.0)
    assert (found["computed_rows"], found["remembered_rows"]) == (45, 15)
    assert found["per_utterance"]["teacher_s"] == pytest.approx(0.15)
    assert found["per_utterance"]["bytes_student"] == 100
    assert found["per_position"] == {"bytes_hosts": 15, "bytes_nodes": 0, "bytes_student": 5}
    assert found["wait_share"] == 0.2
    labels = cost_summary(SourceCosts(), positions=0, wait_s=0.0, seconds=0.0)
    assert "per_position" not in labels
    assert labels["per_utterance"]["teacher_s"] == 0.0
