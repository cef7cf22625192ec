import asyncio
from collections.abc import Sequence

import pytest
from batching_doubles import Batcher, FakeClock, Passes, later, run, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.batching import Expired, MicroBatcher, Ready, WrongCountError


def test_what_is_handed_in_together_is_one_pass():
    async def test() -> None:
        passes = Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=FakeClock())
        work = [later(batcher.submit("a", item)) for item in range(4)]
        assert await asyncio.gather(*work) == [0, 2, 4, 6]
        assert passes.seen == [("a", [0, 1, 2, 3])]
        assert batcher.idle

    run(test)


def test_an_item_that_need_not_wait_starts_at_once():
    async def test() -> None:
        clock = FakeClock()
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=clock)
        assert await batcher.submit("a", 5, wait_s=0.0) == 10
        assert clock.now() == 0.0

    run(test)


def test_a_full_batch_does_not_wait_for_its_time():
    async def test() -> None:
        passes = Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=3, clock=FakeClock())
        work = [later(batcher.submit("a", item, wait_s=100.0)) for item in range(3)]
        assert await asyncio.gather(*work) == [0, 2, 4]

    run(test)


def test_a_batch_that_is_not_full_starts_when_its_oldest_item_is_due():
    async def test() -> None:
        clock, passes = FakeClock(), Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=clock)
        first = later(batcher.submit("a", 1, wait_s=0.002))
        await settle()
        await clock.advance(0.001)
        second = later(batcher.submit("a", 2, wait_s=0.002))
        await clock.advance(0.0009)
        assert passes.seen == []
        await clock.advance(0.0002)
        assert passes.seen == [("a", [1, 2])]
        assert (await first, await second) == (2, 4)

    run(test)


def test_batches_fill_while_a_pass_runs():
    async def test() -> None:
        passes = Passes(gated=True)
        batcher: Batcher = MicroBatcher(passes, max_size=3, clock=FakeClock())
        work = [later(batcher.submit("a", 0))]
        await settle()
        work += [later(batcher.submit("a", item)) for item in (1, 2, 3, 4)]
        await settle()
        assert passes.seen == [("a", [0])]
        assert batcher.depth == 4
        for _ in range(3):
            passes.gate.set()
            await settle()
        assert [items for _, items in passes.seen] == [[0], [1, 2, 3], [4]]
        assert await asyncio.gather(*work) == [0, 2, 4, 6, 8]

    run(test)


def test_queues_are_never_mixed():
    async def test() -> None:
        passes = Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=FakeClock())
        work = [later(batcher.submit("ab"[item % 2], item)) for item in range(4)]
        await asyncio.gather(*work)
        assert passes.seen == [("a", [0, 2]), ("b", [1, 3])]

    run(test)


def test_higher_priority_goes_first():
    async def test() -> None:
        passes = Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=1, clock=FakeClock())
        work = [later(batcher.submit("a", item, priority=item)) for item in (0, 2, 1)]
        await asyncio.gather(*work)
        assert [items for _, items in passes.seen] == [[2], [1], [0]]

    run(test)


def test_an_item_larger_than_a_batch_runs_alone():
    async def test() -> None:
        passes = Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=4, clock=FakeClock())
        sizes = [3, 9, 2]
        work = [later(batcher.submit("a", item, size=size)) for item, size in enumerate(sizes)]
        await asyncio.gather(*work)
        assert [items for _, items in passes.seen] == [[0], [1], [2]]

    run(test)


def test_cancelled_work_is_dropped_before_its_pass():
    async def test() -> None:
        passes = Passes(gated=True)
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=FakeClock())
        running = later(batcher.submit("a", 0))
        await settle()
        given_up, kept = later(batcher.submit("a", 1)), later(batcher.submit("a", 2))
        await settle()
        given_up.cancel()
        for _ in range(2):
            passes.gate.set()
            await settle()
        assert (await running, await kept) == (0, 4)
        assert passes.seen[1:] == [("a", [2])]
        assert batcher.statistics.cancelled == 1

    run(test)


def test_cancelling_work_that_runs_leaves_its_companions_alone():
    async def test() -> None:
        passes = Passes(gated=True)
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=FakeClock())
        given_up, kept = later(batcher.submit("a", 1)), later(batcher.submit("a", 2))
        await settle()
        given_up.cancel()
        passes.gate.set()
        assert await kept == 4

    run(test)


def test_expired_work_is_refused_before_its_pass():
    async def test() -> None:
        clock, passes = FakeClock(), Passes(gated=True)
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=clock)
        running = later(batcher.submit("a", 0))
        await settle()
        late = later(batcher.submit("a", 1, expires_s=1.0))
        in_time = later(batcher.submit("a", 2, expires_s=3.0))
        await clock.advance(2.0)
        for _ in range(2):
            passes.gate.set()
            await settle()
        with pytest.raises(Expired, match="deadline"):
            await late
        assert (await running, await in_time) == (0, 4)
        assert passes.seen[1:] == [("a", [2])]

    run(test)


def test_a_wrong_number_of_results_is_an_error_for_all():
    async def test() -> None:
        passes = Passes()
        passes.short = True
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=FakeClock())
        work = [later(batcher.submit("a", item)) for item in range(3)]
        errors = await asyncio.gather(*work, return_exceptions=True)
        assert [type(error) for error in errors] == [WrongCountError] * 3
        assert "2 results for 3 items" in str(errors[0])

    run(test)


def test_one_error_goes_to_all_waiters_of_the_pass_and_to_no_other():
    async def test() -> None:
        passes = Passes()
        passes.error = ArithmeticError("overflow")
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=FakeClock())
        work = [later(batcher.submit("a", item)) for item in range(3)]
        errors = await asyncio.gather(*work, return_exceptions=True)
        assert errors == [passes.error] * 3
        passes.error = None
        assert await batcher.submit("a", 7) == 14

    run(test)


def test_closing_cancels_what_is_not_done():
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(gated=True), max_size=1, clock=FakeClock())
        work = [later(batcher.submit("a", item)) for item in range(2)]
        await settle()
        await batcher.close()
        results = await asyncio.gather(*work, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert batcher.idle

    run(test)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="max_size"):
        MicroBatcher(Passes(), max_size=0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 2)), max_size=30),
    st.integers(1, 8),
)
def test_nothing_is_lost_repeated_or_over_the_limit(work, max_size):
    async def test() -> None:
        sizes = dict(enumerate(size for _, size, _ in work))
        passes = Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=max_size, clock=FakeClock())
        answers = await asyncio.gather(
            *[
                batcher.submit(queue, item, size=size, priority=priority)
                for item, (queue, size, priority) in enumerate(work)
            ]
        )
        assert answers == [2 * item for item in range(len(work))]
        done = [item for _, items in passes.seen for item in items]
        assert sorted(done) == list(range(len(work)))
        for _, items in passes.seen:
            assert len(items) == 1 or sum(sizes[item] for item in items) <= max_size

    run(test)


def test_work_that_waits_for_companions_expires_on_time():
    async def test() -> None:
        clock = FakeClock()
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=clock)
        late = later(batcher.submit("a", 1, wait_s=100.0, expires_s=1.0))
        await settle()
        await clock.advance(0.9)
        assert not late.done()
        await clock.advance(0.1)
        with pytest.raises(Expired, match=r"deadline \(1 units queued\)"):
            await late
        assert batcher.idle
        assert batcher.statistics.expired == 1

    run(test)


def test_a_batcher_is_idle_once_all_that_waited_is_cancelled():
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=FakeClock())
        given_up = later(batcher.submit("a", 1, size=3, wait_s=100.0))
        await settle()
        assert (batcher.idle, batcher.depth) == (False, 3)
        given_up.cancel()
        await settle()
        assert (batcher.idle, batcher.depth) == (True, 0)
        assert await batcher.submit("a", 7) == 14

    run(test)


def test_a_caller_that_gets_its_result_finds_an_idle_batcher():
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=FakeClock())
        for item in range(3):
            await batcher.submit("a", item)
            assert batcher.idle

    run(test)


@pytest.mark.parametrize(("size", "length"), [(0, 0), (-1, 5), (1, -1)])
def test_an_item_without_utterances_or_of_negative_length_is_refused(size, length):
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=FakeClock())
        with pytest.raises(ValueError, match=f"got size {size}, length {length}"):
            await batcher.submit("a", 1, size=size, length=length)

    run(test)


@pytest.mark.parametrize(
    "limits",
    [{"max_padded": 0}, {"look_ahead": 0}, {"max_passed_over": -1}, {"patience_s": -1.0}],
    ids=lambda limits: next(iter(limits)),
)
def test_limits_that_make_no_sense_are_refused_by_name(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        MicroBatcher(Passes(), max_size=8, **limits)


def test_choose_sees_the_ready_queues_and_says_which_runs():
    seen: list[list[Ready[str]]] = []

    def last(ready: Sequence[Ready[str]]) -> str:
        seen.append(sorted(ready, key=lambda each: each.key))
        return seen[-1][-1].key

    async def test() -> None:
        clock, passes = FakeClock(), Passes()
        batcher: Batcher = MicroBatcher(passes, max_size=8, choose=last, clock=clock)
        waiting = [
            later(batcher.submit(queue, item, size=2, wait_s=wait_s, priority=priority))
            for item, (queue, wait_s, priority) in enumerate(
                [("b", 1.0, 0), ("a", 1.0, 0), ("b", 1.0, 5), ("c", 9.0, 9)]
            )
        ]
        await settle()
        await clock.advance(1.0)
        assert passes.seen == [("b", [2, 0]), ("a", [1])]
        first = seen[0]
        assert [(each.key, each.units, each.oldest_s) for each in first] == [
            ("a", 2, 1.0),
            ("b", 4, 1.0),
        ]
        assert first[1].rank < first[0].rank
        await clock.advance(8.0)
        await asyncio.gather(*waiting)
        assert seen[-1][0].oldest_s == 9.0

    run(test)


def test_a_queue_that_is_not_ready_cannot_be_chosen():
    async def test() -> None:
        batcher: Batcher = MicroBatcher(
            Passes(), max_size=8, choose=lambda ready: "elsewhere", clock=FakeClock()
        )
        work = [later(batcher.submit("a", 0)), later(batcher.submit("b", 1, wait_s=9.0))]
        for error in await asyncio.gather(*work, return_exceptions=True):
            assert isinstance(error, ValueError)
            assert "'elsewhere', which is not among the 1 ready ones" in str(error)
        assert batcher.idle

    run(test)
