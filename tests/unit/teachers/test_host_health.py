import random
from collections import Counter

import pytest

from kd_ray.teachers.policies.health import (
    Death,
    GiveUpHost,
    HealthLimits,
    Healthy,
    HostRecord,
    NoReplica,
    ReplicaLoad,
    Respawn,
    Suspect,
    judge_host_health,
    pick_replica,
)

NOW_S = 1000.0


def deaths(*ages_s, oom=0):
    """The `oom` last ones of memory."""
    count = len(ages_s)
    return tuple(Death(NOW_S - age, place >= count - oom) for place, age in enumerate(ages_s))


@pytest.mark.parametrize(
    ("age_s", "failures", "dead", "past", "expected", "reason"),
    [
        (0.1, 0, None, (), Healthy, "h: heard 0.1 s ago"),
        (2.0, 0, None, (), Suspect, "silent for 2.0 s, suspect_after_s is 2"),
        (0.1, 1, None, (), Suspect, "1 failures in a row"),
        (0.1, 3, None, (), Respawn(1, 1.0, ""), "3 failures in a row, allowed are 2"),
        (10.0, 0, None, (), Respawn(1, 1.0, ""), "silent for 10.0 s, hung_after_s is 10"),
        (10.0, 0, None, deaths(50), Respawn(2, 1.0, ""), "death 2 within 600 s"),
        (0.0, 0, "killed", deaths(0), Respawn(1, 1.0, ""), "h: killed; death 1"),
        (0.0, 0, "killed", deaths(90, 0), Respawn(2, 1.0, ""), "started again in 2 s"),
        (0.0, 0, "killed", deaths(90, 50, 40, 0), Respawn(8, 1.0, ""), "death 4"),
        (0.0, 0, "killed", deaths(90, 50, 40, 9, 0), GiveUpHost, "death 5 .* given up at 5"),
        (0.0, 0, "killed", deaths(900, 800, 700, 650, 0), Respawn(1, 1.0, ""), "death 1"),
        (0.0, 0, "out of memory", deaths(0, oom=1), Respawn(1, 0.7, ""), "0.70 of its bytes"),
        (0.0, 0, "out of memory", deaths(9, 0, oom=2), Respawn(2, 0.49, ""), "0.49 of its bytes"),
    ],
)
def test_a_host_is_suspected_respawned_and_given_up(age_s, failures, dead, past, expected, reason):
    decision = judge_host_health(
        HostRecord("h", age_s, failures, dead, past), HealthLimits(), NOW_S
    )
    if isinstance(expected, Respawn):
        assert isinstance(decision, Respawn)
        assert decision.wait_s == expected.wait_s
        assert decision.memory_share == pytest.approx(expected.memory_share)
    else:
        assert type(decision) is expected
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(decision.reason)


def test_the_wait_before_a_respawn_is_bounded():
    limits = HealthLimits(max_deaths=100)
    record = HostRecord("h", 0.0, dead="killed", deaths=deaths(*range(60, 0, -1)))
    assert judge_host_health(record, limits, NOW_S).wait_s == 60.0


def test_patience_that_contradicts_is_refused():
    with pytest.raises(ValueError, match=r"suspect_after_s \(5\) must be .* hung_after_s \(2\)"):
        HealthLimits(suspect_after_s=5, hung_after_s=2)


def test_every_replica_is_tried_once_and_then_there_is_none():
    candidates = {name: ReplicaLoad(0) for name in "abc"}
    generator, tried = random.Random(0), []
    for _ in candidates:
        tried.append(pick_replica(candidates, tried, generator).host)
    assert sorted(tried) == ["a", "b", "c"]
    last = pick_replica(candidates, tried, generator)
    assert last == NoReplica("all 3 replicas were tried")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ReplicaLoad(1), ReplicaLoad(2)),
        (ReplicaLoad(1, same_node=True), ReplicaLoad(1)),
        (ReplicaLoad(9), ReplicaLoad(0, failures=1)),
    ],
    ids=["fewer requests", "same node", "no failures"],
)
def test_the_better_of_two_is_asked(one, other):
    for candidates in ({"x": one, "y": other}, {"y": one, "x": other}):
        best = next(name for name, load in candidates.items() if load is one)
        assert pick_replica(candidates, (), random.Random(1)).host == best


def test_two_draws_spread_requests_and_repeat_with_the_seed():
    def shares(seed):
        generator, loads = random.Random(seed), Counter(dict.fromkeys("abcd", 0))
        for _ in range(400):
            candidates = {name: ReplicaLoad(count) for name, count in loads.items()}
            loads[pick_replica(candidates, (), generator).host] += 1
        return loads

    assert shares(3) == shares(3)
    assert max(shares(3).values()) - min(shares(3).values()) <= 4
