"""Global batches lose and repeat nothing, keep their limits, and resume anywhere."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.data import Batches
from kd_ray.speech.batches import BatchesError, GlobalBatches, shard

DURATIONS = st.lists(st.floats(0.1, 20.0), min_size=1, max_size=80)
LIMITS = st.builds(
    Batches,
    batch_size=st.integers(1, 9),
    max_batch_s=st.none() | st.floats(20.0, 100.0),
    bucket_batches=st.integers(1, 5),
)


def _batches(durations_s: list[float], limits: Batches, seed: int = 0) -> GlobalBatches:
    return GlobalBatches([f"u{i}" for i in range(len(durations_s))], durations_s, limits, seed)


@settings(max_examples=150, deadline=None)
@given(durations_s=DURATIONS, limits=LIMITS, seed=st.integers(0, 9), epoch=st.integers(0, 4))
def test_an_epoch_loses_and_repeats_nothing_and_keeps_the_limits(
    durations_s: list[float], limits: Batches, seed: int, epoch: int
) -> None:
    maker = _batches(durations_s, limits, seed)
    batches = maker.batches_in_epoch(epoch)
    assert sorted(row for rows in batches for row in rows) == list(range(len(durations_s)))
    assert len(batches) == maker.updates_per_epoch(epoch)
    for rows in batches:
        assert 1 <= len(rows) <= limits.batch_size
        lengths = [durations_s[row] for row in rows]
        assert lengths == sorted(lengths)
        if limits.max_batch_s is not None:
            assert lengths[-1] * len(rows) <= limits.max_batch_s


@settings(max_examples=80, deadline=None)
@given(durations_s=DURATIONS, limits=LIMITS, seed=st.integers(0, 9), data=st.data())
def test_any_update_resumes_the_same_sequence(
    durations_s: list[float], limits: Batches, seed: int, data: st.DataObject
) -> None:
    maker = _batches(durations_s, limits, seed)
    expected = [(epoch, rows) for epoch in range(3) for rows in maker.batches_in_epoch(epoch)]
    assert [maker.at(update) for update in range(len(expected))] == expected
    update = data.draw(st.integers(0, len(expected) - 1))
    resumed = _batches(durations_s, limits, seed)
    assert [resumed.at(later) for later in range(update, len(expected))] == expected[update:]
    jumps = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=6))
    assert [maker.at(jump) for jump in jumps] == [expected[jump] for jump in jumps]


def test_epochs_and_seeds_differ() -> None:
    durations_s = [1.0 + (7 * i % 50) / 10 for i in range(60)]
    maker = _batches(durations_s, Batches(batch_size=4))
    other = _batches(durations_s, Batches(batch_size=4), seed=1)
    assert maker.batches_in_epoch(0) != maker.batches_in_epoch(1)
    assert maker.batches_in_epoch(0) != other.batches_in_epoch(0)
    assert maker.batches_in_epoch(0) == maker.batches_in_epoch(0)


def test_batches_do_not_depend_on_the_order_of_the_rows() -> None:
    durations_s = [1.0 + (7 * i % 50) / 10 for i in range(40)]
    names = [f"u{i}" for i in range(40)]
    limits = Batches(batch_size=4, bucket_batches=3)
    forward = GlobalBatches(names, durations_s, limits, 3)
    backward = GlobalBatches(names[::-1], durations_s[::-1], limits, 3)
    for update in range(20):
        rows, mirrored = forward.at(update)[1], backward.at(update)[1]
        assert [names[row] for row in rows] == [names[39 - row] for row in mirrored]


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    maker = _batches([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], Batches(batch_size=2), seed=5)
    assert [maker.at(update) for update in range(5)] == [
        (0, (4, 5)),
        (0, (2, 3)),
        (0, (0, 1)),
        (0, (6,)),
        (1, (4, 5)),
    ]


def test_buckets_keep_padding_low() -> None:
    durations_s = [1.0 + (37 * i % 400) / 40 for i in range(400)]

    def padding(bucket_batches: int) -> float:
        limits = Batches(batch_size=8, bucket_batches=bucket_batches)
        batches = _batches(durations_s, limits).batches_in_epoch(0)
        padded = sum(durations_s[rows[-1]] * len(rows) for rows in batches)
        return padded / sum(durations_s) - 1

    assert padding(20) < 0.1 < padding(1)


def test_short_and_long_batches_are_mixed_over_the_epoch() -> None:
    durations_s = [0.5 + i / 10 for i in range(160)]
    batches = _batches(durations_s, Batches(batch_size=8, bucket_batches=20)).batches_in_epoch(0)
    longest = [durations_s[rows[-1]] for rows in batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


@pytest.mark.parametrize(
    ("ids", "durations_s", "limits", "message"),
    [
        ([], [], {}, "no utterances"),
        (["a"], [1.0, 2.0], {}, "1 utterance ids but 2 durations"),
        (["a", "a"], [1.0, 2.0], {}, "more than once"),
        (["a", "b"], [1.0, float("nan")], {}, "nan of b"),
        (["a", "b"], [0.0, 1.0], {}, "0.0 of a"),
        (["a", "b"], [9.0, 1.0], {"max_batch_s": 5.0}, "longest is a with 9.00 s"),
    ],
    ids=["none", "counts", "duplicates", "nan", "zero", "too long"],
)
def test_utterances_that_cannot_be_batched_are_named(
    ids: list[str], durations_s: list[float], limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(BatchesError, match=message):
        GlobalBatches(ids, durations_s, Batches(**limits), 0)


def test_updates_are_counted_from_zero() -> None:
    with pytest.raises(BatchesError, match="update -1"):
        _batches([1.0], Batches()).at(-1)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.integers(0, 999), unique=True, max_size=40).map(tuple),
    world=st.integers(1, 9),
    accumulation=st.integers(1, 5),
)
def test_shards_partition_the_batch_evenly(
    rows: tuple[int, ...], world: int, accumulation: int
) -> None:
    parts = [
        [mine for _, mine in shard(rows, rank, world, world * accumulation)]
        for rank in range(world)
    ]
    assert all(len(part) == accumulation for part in parts)
    micro = [rows for part in parts for rows in part]
    assert sorted(row for rows in micro for row in rows) == sorted(rows)
    assert max(map(len, micro)) - min(map(len, micro)) <= 1
    per_rank = [sum(map(len, part)) for part in parts]
    assert max(per_rank) - min(per_rank) <= 1


def test_shards_of_a_worked_example() -> None:
    # Dealt like cards: part 0, 1 are the first micro-batches of ranks 0, 1; then the second ones.
    rows = (10, 11, 12, 13, 14, 15)
    assert shard(rows, 0, 2, 4) == [(0, (10, 14)), (2, (12,))]
    assert shard(rows, 1, 2, 4) == [(1, (11, 15)), (3, (13,))]
    assert shard((7,), 1, 2, 4) == [(1, ()), (3, ())]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.integers(0, 999), unique=True, max_size=40).map(tuple),
    parts=st.integers(1, 12),
    data=st.data(),
)
def test_micro_batches_do_not_depend_on_how_many_workers_share_them(
    rows: tuple[int, ...], parts: int, data: st.DataObject
) -> None:
    world = data.draw(st.integers(1, parts))
    shares = [each for rank in range(world) for each in shard(rows, rank, world, parts)]
    assert sorted(shares) == shard(rows, 0, 1, parts)


@pytest.mark.parametrize(("rank", "world", "parts"), [(2, 2, 2), (-1, 2, 2), (0, 1, 0), (0, 2, 1)])
def test_impossible_shards_are_refused(rank: int, world: int, parts: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of world {world}"):
        shard((1, 2), rank, world, parts)
