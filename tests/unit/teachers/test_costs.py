import asyncio

import pytest
from doubles import FakeTeacher, request

from kd_ray.teachers.answers import Call
from kd_ray.teachers.costs import Costs, JobCost
from kd_ray.teachers.host import NotHere, TeacherHost
from kd_ray.teachers.residents import paged_from_folders


def test_accounts_add_up_and_old_jobs_are_kept_together():
    costs = Costs()
    for number in range(400):
        costs.add(f"job-{number}", JobCost(requests=1, rows=number, teacher_s=0.5))
        costs.add(f"job-{number}", JobCost(bytes_out=2))
    accounts = costs.by_job
    assert len(accounts) <= 256
    assert sum(cost.requests for cost in accounts.values()) == 400
    assert sum(cost.rows for cost in accounts.values()) == sum(range(400))
    assert sum(cost.bytes_out for cost in accounts.values()) == 800
    assert accounts["job-399"] == JobCost(requests=1, rows=399, teacher_s=0.5, bytes_out=2)
    assert accounts[Costs.GONE].requests == 400 - (len(accounts) - 1)


def test_what_is_shown_is_a_copy():
    costs = Costs()
    costs.add("a", JobCost(rows=1))
    shown = costs.by_job["a"]
    costs.add("a", JobCost(rows=1))
    assert shown.rows == 1


def test_a_request_is_booked_with_its_time_or_with_its_error():
    costs, times = Costs(), iter([1.0, 1.5, 2.0, 3.0])
    with costs.answering("a", lambda: next(times)) as cost:
        assert costs.open_requests == 1
        cost.rows = 12
    with pytest.raises(ArithmeticError), costs.answering("a", lambda: next(times)):
        raise ArithmeticError("overflow")
    with pytest.raises(asyncio.CancelledError), costs.answering("b", lambda: next(times)):
        raise asyncio.CancelledError
    assert costs.open_requests == 0
    assert costs.errors == {"ArithmeticError": 1, "cancelled": 1}
    booked = costs.by_job["a"]
    assert (booked.requests, booked.rows) == (1, 12)
    assert booked.answers.count == 1
    assert booked.answers.max_s == 0.5


def test_a_host_counts_answers_errors_and_sizes_of_passes():
    host = TeacherHost([FakeTeacher(1), FakeTeacher(2)])
    broken = TeacherHost([FakeTeacher(1, broken_after=0), FakeTeacher(2)])

    async def ask():
        for rows in (3, 5):
            await host.answer(request(rows, rows), Call(job="a"))
        with pytest.raises(NotHere):
            await host.answer(request(1), Call(teachers=(7,)))
        await broken.answer(request(1))
        await asyncio.gather(host.close(), broken.close())

    asyncio.run(ask())
    status = host.status
    assert status.costs["a"].answers.count == 2
    assert status.costs["a"].rows == 2 * (3 + 5)
    assert status.batches.sizes == {3: 2, 5: 2}
    assert [status.batches.size_quantile(q) for q in (0, 0.5, 0.51, 1)] == [3, 3, 5, 5]
    assert status.open_requests == 0
    assert status.errors == {}
    assert broken.status.errors == {"quarantined": 1}


def test_loads_are_shared_by_those_who_needed_them(tiny_root):
    folders = [tiny_root / "teachers" / f"t{number}" for number in range(3)]
    paged = paged_from_folders(folders, range(3), device="cpu", max_bytes=1)
    host = TeacherHost(paged)
    tiny = request(1, rows=4, wanted=frozenset({"trust"}))

    async def ask():
        done = [await host.answer(tiny, Call(job=job)) for job in "ab"]
        await host.close()
        return done

    first, second = asyncio.run(ask())
    # Each teacher had to make room for the next; the second sweep goes on where the first ended.
    assert first.loads == 3
    assert second.loads >= 2
    assert host.status.residency.loads == first.loads + second.loads
    assert host.status.costs["a"].loads == first.loads
