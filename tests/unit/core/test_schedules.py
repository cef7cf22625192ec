import json

import pytest

from kd_ray.config.training import Constant, Linear, NewBob
from kd_ray.core.schedules import Schedule


def test_constant_warms_up_and_stays():
    schedule = Schedule(Constant(warmup_updates=4), total_updates=10)
    found = [schedule.multiplier(update) for update in (0, 1, 3, 4, 9, 10, 1000)]
    assert found == [0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert Schedule(Constant(), 10).multiplier(0) == 1.0


def test_linear_warms_up_decays_and_stays_at_its_end():
    schedule = Schedule(Linear(warmup_updates=2, final=0.2), total_updates=10)
    found = [schedule.multiplier(update) for update in (0, 1, 5, 9, 10, 99)]
    assert found == pytest.approx([0.5, 1.0, 0.6, 0.2, 0.2, 0.2])


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (3, 5), (5, 5)])
def test_short_runs_have_a_schedule_too(total, warmup):
    schedule = Schedule(Linear(warmup_updates=warmup, final=0.0), total)
    for update in range(total + warmup + 2):
        assert 0 <= schedule.multiplier(update) <= 1
    assert schedule.multiplier(total + warmup) == 0


def test_linear_falls_monotonically_after_the_warm_up():
    schedule = Schedule(Linear(warmup_updates=5, final=0.05), 50)
    values = [schedule.multiplier(update) for update in range(60)]
    assert values[:5] == sorted(values[:5])
    assert values[4:] == sorted(values[4:], reverse=True)
    assert max(values) == 1


def test_new_bob_slows_down_only_where_the_error_stops_falling():
    schedule = Schedule(NewBob(threshold=0.01, factor=0.5), 100)
    seen = []
    # improvements: none yet, 10 %, 0.5 % (too little), worse, exactly 1 %
    for error in (20.0, 18.0, 17.91, 19.0, 18.81):
        schedule.validated(error)
        seen.append(schedule.multiplier(50))
    assert seen == [1.0, 1.0, 0.5, 0.25, 0.25]


def test_new_bob_warms_up_too():
    schedule = Schedule(NewBob(warmup_updates=4, factor=0.5), 100)
    schedule.validated(10.0)
    schedule.validated(10.0)
    assert schedule.multiplier(1) == 0.25
    assert schedule.multiplier(4) == 0.5


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_an_error_that_is_no_number_is_no_improvement_and_is_forgotten(error):
    schedule = Schedule(NewBob(threshold=0.01, factor=0.5), 100)
    for value in (20.0, error, 10.0):
        schedule.validated(value)
    assert schedule.multiplier(0) == 0.5
    assert schedule.to_dict()["errors"] == [20.0, 10.0]


def test_an_error_of_zero_cannot_be_improved():
    schedule = Schedule(NewBob(factor=0.5), 100)
    schedule.validated(0.0)
    schedule.validated(0.0)
    assert schedule.multiplier(0) == 0.5


def test_a_resumed_schedule_goes_on_as_if_nothing_happened():
    config = NewBob(threshold=0.01, factor=0.7)
    whole, before = Schedule(config, 100), Schedule(config, 100)
    errors = [20.0, 19.95, 15.0, 15.0, 14.9]
    for error in errors:
        whole.validated(error)
    for error in errors[:2]:
        before.validated(error)
    after = Schedule(config, 100)
    after.load_dict(json.loads(json.dumps(before.to_dict())))
    for error in errors[2:]:
        after.validated(error)
    assert after.multiplier(60) == whole.multiplier(60)
    assert after.to_dict() == whole.to_dict()


def test_other_schedules_ignore_validation():
    schedule = Schedule(Linear(), 100)
    schedule.validated(1.0)
    schedule.validated(2.0)
    assert schedule.to_dict() == Schedule(Linear(), 100).to_dict()


def test_a_run_without_updates_is_refused():
    with pytest.raises(ValueError, match="total_updates must be at least 1, got 0"):
        Schedule(Constant(), 0)
