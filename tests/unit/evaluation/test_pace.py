"""How fast work goes, by a clock of the test's own."""

import pytest

from kd_ray.evaluation.pace import Pace


class Clock:
    def __init__(self):
        self.s = 100.0

    def __call__(self):
        return self.s


@pytest.fixture
def clock():
    return Clock()


def test_nothing_is_known_before_the_second_look(clock):
    pace = Pace(now=clock)
    assert pace.rate is None
    assert pace.left_s(10) is None
    pace.at(3)
    assert pace.rate is None


def test_what_was_done_before_the_first_look_does_not_count(clock):
    pace = Pace(now=clock)
    pace.at(1000)
    clock.s += 10
    pace.at(1020)
    assert pace.rate == pytest.approx(2.0)
    assert pace.left_s(1100) == pytest.approx(40.0)
    assert pace.left_s(None) is None


def test_only_the_last_minute_counts(clock):
    pace = Pace(window_s=60, now=clock)
    done = 0
    for _ in range(100):
        clock.s += 1
        done += 1
        pace.at(done)
    for _ in range(70):
        clock.s += 1
        done += 5
        pace.at(done)
    assert pace.rate == pytest.approx(5.0)
    assert len(pace._marks) <= 62


def test_slow_work_has_a_rate_over_its_latest_step(clock):
    pace = Pace(window_s=60, now=clock)
    for done in range(5):
        pace.at(done)
        clock.s += 300
    assert pace.rate == pytest.approx(1 / 300)


def test_a_standstill_lowers_the_rate_if_somebody_looks(clock):
    pace = Pace(window_s=60, now=clock)
    pace.at(0)
    clock.s += 10
    pace.at(100)
    assert pace.rate == pytest.approx(10.0)
    clock.s += 10
    pace.at(100)
    assert pace.rate == pytest.approx(5.0)


def test_work_that_begins_anew_is_measured_anew(clock):
    pace = Pace(now=clock)
    pace.at(500)
    clock.s += 1
    pace.at(400)
    assert pace.rate is None
    clock.s += 2
    pace.at(404)
    assert pace.rate == pytest.approx(2.0)


def test_what_is_done_has_nothing_left(clock):
    pace = Pace(now=clock)
    pace.at(0)
    clock.s += 1
    pace.at(10)
    assert pace.left_s(10) == 0.0
    assert pace.left_s(8) == 0.0
