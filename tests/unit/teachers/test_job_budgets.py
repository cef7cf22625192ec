import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.budgets import JobBudgets
from kd_ray.teachers.policies import Admit, Refuse

MIB = 1 << 20


def test_a_job_is_refused_what_does_not_fit_beside_its_open_requests():
    budgets = JobBudgets(10 * MIB)
    budgets.acquire("asr", 7 * MIB)
    assert budgets.judge("asr", 3 * MIB) == Admit()
    assert budgets.judge("asr", 4 * MIB) == Refuse(
        "job 'asr': 7.0 MiB in flight and 4.0 MiB asked, allowed are 10.0 MiB"
    )
    assert budgets.judge("st", 4 * MIB) == Admit()
    budgets.release("asr", 7 * MIB)
    assert budgets.judge("asr", 4 * MIB) == Admit()


def test_a_request_larger_than_the_cap_goes_out_alone():
    budgets = JobBudgets(10)
    assert budgets.judge("asr", 25) == Admit()
    budgets.acquire("asr", 25)
    assert isinstance(budgets.judge("asr", 1), Refuse)
    budgets.release("asr", 25)
    budgets.acquire("asr", 1)
    assert isinstance(budgets.judge("asr", 25), Refuse)


def test_a_job_can_have_a_cap_of_its_own():
    budgets = JobBudgets(10, {"search": 4})
    budgets.acquire("search", 3)
    assert isinstance(budgets.judge("search", 2), Refuse)
    budgets.set_cap("search", None)
    assert budgets.judge("search", 2) == Admit()
    budgets.set_cap("search", 4)
    assert budgets.cap("search") == 4


@pytest.mark.parametrize("cap", [0, -1])
def test_a_cap_below_one_byte_is_refused(cap):
    with pytest.raises(ValueError, match=f"the default has {cap}"):
        JobBudgets(cap)
    with pytest.raises(ValueError, match=f"job 'asr' has {cap}"):
        JobBudgets(1, {"asr": cap})


def test_what_was_not_acquired_cannot_be_released():
    budgets = JobBudgets(10)
    budgets.acquire("asr", 3)
    with pytest.raises(ValueError, match="gives back 4 bytes, 3 are in flight"):
        budgets.release("asr", 4)
    with pytest.raises(ValueError, match="-1 bytes"):
        budgets.acquire("asr", -1)
    assert budgets.in_flight("asr") == 3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=60), st.data())
def test_no_job_exceeds_its_cap_but_with_one_request_alone(requests, data):
    budgets = JobBudgets(20, {"b": 7})
    open_requests: dict[str, list[int]] = {job: [] for job in "abc"}
    for job, request_bytes in requests:
        mine = open_requests[job]
        if mine and data.draw(st.booleans()):
            budgets.release(job, mine.pop())
        elif isinstance(budgets.judge(job, request_bytes), Admit):
            budgets.acquire(job, request_bytes)
            mine.append(request_bytes)
        for name, sizes in open_requests.items():
            assert budgets.in_flight(name) == sum(sizes)
            holding = [size for size in sizes if size]
            assert sum(sizes) <= budgets.cap(name) or len(holding) == 1
    for name, sizes in open_requests.items():
        for size in sizes:
            budgets.release(name, size)
        assert budgets.in_flight(name) == 0
