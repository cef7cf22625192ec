import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.teachers.policies import (
    Admit,
    GiveUp,
    KeepWaiting,
    LeaveOut,
    Proceed,
    Refuse,
    deal,
    judge_admission,
    judge_host,
    judge_quorum,
    required_teachers,
)


@pytest.mark.parametrize(
    ("num_teachers", "quorum", "needed"),
    [
        (1, 0.5, 1),
        (2, 0.5, 1),
        (3, 0.5, 2),
        (10, 0.7, 7),
        (10, 1.0, 10),
        (10, 0.01, 1),
        (4, 0.5, 2),
    ],
)
def test_quorum_is_a_share_of_all_teachers_rounded_up(num_teachers, quorum, needed):
    assert required_teachers(num_teachers, quorum) == needed


@pytest.mark.parametrize(
    ("answered", "quorum", "decision", "missing"),
    [
        ([0, 1, 2, 3], 1.0, Proceed, ()),
        ([3, 0], 0.5, Proceed, (1, 2)),
        ([2], 0.5, GiveUp, (0, 1, 3)),
        ([0, 1, 2], 1.0, GiveUp, (3,)),
        ([], 0.1, GiveUp, (0, 1, 2, 3)),
    ],
)
def test_quorum_of_four(answered, quorum, decision, missing):
    judged = judge_quorum(answered, 4, quorum)
    assert type(judged) is decision
    assert judged.missing == missing
    assert judged.answered == tuple(sorted(answered))
    assert f"{len(answered)} of 4" in judged.reason


@pytest.mark.parametrize(
    ("failure", "waited_s", "expected"),
    [
        (None, 1.0, KeepWaiting(9.0)),
        (None, 10.0, LeaveOut("no answer after 10.0 s, deadline 10 s")),
        ("process died", 0.1, LeaveOut("process died")),
    ],
)
def test_a_host_is_left_out_when_it_fails_or_misses_its_deadline(failure, waited_s, expected):
    assert judge_host(failure, waited_s, 10.0) == expected


@pytest.mark.parametrize(
    ("in_flight", "size", "admitted"),
    [(0, 10, True), (90, 10, True), (91, 10, False), (0, 1000, True), (1, 1000, False)],
)
def test_bytes_in_flight_are_bounded_but_one_request_always_passes(in_flight, size, admitted):
    decision = judge_admission(in_flight, size, 100)
    assert isinstance(decision, Admit if admitted else Refuse)


@given(st.integers(1, 300), st.integers(1, 40))
def test_teachers_are_dealt_once_each_and_evenly(num_teachers, hosts):
    dealt = deal(num_teachers, hosts)
    assert sorted(index for hand in dealt for index in hand) == list(range(num_teachers))
    sizes = [len(hand) for hand in dealt]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert len(dealt) == min(hosts, num_teachers)


def test_dealing_no_teachers_is_refused():
    with pytest.raises(ValueError, match="got 0 teachers"):
        deal(0, 2)
