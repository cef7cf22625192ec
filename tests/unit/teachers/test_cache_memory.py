import hashlib
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from doubles import request, writing_request
from store_doubles import output

from kd_ray.config.strategies import Average
from kd_ray.core.contracts import Fusion, Labels, Written
from kd_ray.teachers.cache import Lookups, OutputCache, cut, lay, row_keys
from kd_ray.teachers.cache.output_rows import ROW_OVERHEAD, row_bytes

LARGE = 2**30
IDS = [f"u{n}" for n in range(6)]


def keys_of(count, *, code=5, salt=""):
    """As of rows that asked for distributions in float32 and label strings."""
    digests = [hashlib.blake2b(f"{salt}{n}".encode(), digest_size=16) for n in range(count)]
    return [digest.digest() + bytes([code]) for digest in digests]


KEYS = keys_of(6)


def same_rows(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a.log_probs, b.log_probs)
        np.testing.assert_array_equal(a.string, b.string)
        for name in (
            "positions", "frames", "ctc_errors", "decoder_errors", "reference_length", "confidence"
        ):  # fmt: skip
            assert getattr(a, name) == getattr(b, name)


def same_output(mine, theirs):
    assert mine.teacher == theirs.teacher
    for row, length in enumerate(theirs.positions):
        np.testing.assert_array_equal(mine.log_probs[row, :length], theirs.log_probs[row, :length])
    for a, b in zip(mine.strings, theirs.strings, strict=True):
        np.testing.assert_array_equal(a, b)
    for name in (
        "positions", "frames", "ctc_errors", "decoder_errors", "reference_lengths", "confidence"
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert getattr(mine, name).dtype == getattr(theirs, name).dtype


def test_what_was_put_comes_back_in_any_order():
    cache, whole = OutputCache(LARGE), output(3, IDS)
    cache.put_rows("a", KEYS, whole)
    order = [4, 0, 5]
    rows = cache.get_rows("a", [KEYS[row] for row in order])
    same_output(lay(rows, 3), output(3, [IDS[row] for row in order]))
    assert cache.get_rows("b", KEYS) == [None] * 6
    assert cache.statistics.lookups == Lookups(hits=3, misses=6)


def test_written_strings_come_back_too():
    cache, keys = OutputCache(LARGE), row_keys(writing_request(1, 2))
    means = np.array([-0.25, -1.5], dtype=np.float32)
    cache.put_rows("a", keys, Written(Labels.of([[3, 4, 5], []]), means, np.array([0, 0])))
    back = lay(cache.get_rows("a", keys[::-1]), 7)
    assert [string.tolist() for string in back.strings.strings()] == [[], [3, 4, 5]]
    np.testing.assert_array_equal(back.mean_log_probs, means[::-1])
    assert back.mean_log_probs.dtype == np.float32
    assert back.teachers.tolist() == [7, 7]


def test_a_teacher_without_a_ctc_head_has_no_strings():
    cache = OutputCache(LARGE)
    cache.put_rows("a", KEYS, replace(output(1, IDS), strings=()))
    assert lay(cache.get_rows("a", KEYS), 1).strings == ()


@pytest.mark.parametrize(
    ("held", "asked", "answered"),
    [
        ({"tokens", "labels"}, {"labels"}, True),
        ({"tokens", "labels"}, {"tokens"}, True),
        ({"labels"}, {"tokens", "labels"}, False),
        ({"tokens"}, {"tokens", "labels"}, False),
        ({"tokens"}, {"labels"}, False),
    ],
)
def test_who_asks_for_part_of_what_is_held_is_answered_and_not_the_other_way_round(
    held, asked, answered
):
    one = request(1, 6)
    keys = {
        name: row_keys(replace(one, wanted=frozenset(wanted)))
        for name, wanted in (("held", held), ("asked", asked))
    }
    cache, whole = OutputCache(LARGE), output(1, IDS)
    cache.put_rows("a", keys["held"], whole if "tokens" in held else replace(whole, log_probs=None))
    rows = cache.get_rows("a", keys["asked"])
    if not answered:
        assert rows == [None] * 6
        return
    assert all((row.log_probs is not None) == ("tokens" in asked) for row in rows)


def test_a_row_that_holds_more_takes_the_place_of_those_that_hold_less():
    labels, tokens, both = (keys_of(6, code=code) for code in (3, 2, 5))
    cache, whole = OutputCache(LARGE), output(1, IDS)
    cache.put_rows("a", labels, replace(whole, log_probs=None))
    cache.put_rows("a", tokens, whole)
    assert cache.statistics.entries == 12
    cache.put_rows("a", both, whole)
    cache.put_rows("a", labels, replace(whole, log_probs=None))
    statistics = cache.statistics
    assert statistics.entries == 6
    assert statistics.num_bytes == sum(map(row_bytes, cut(whole)))
    assert statistics.evictions == 0


def test_the_least_recently_used_goes_first():
    sizes = [row_bytes(row) for row in cut(output(1, IDS))]
    cache = OutputCache(sum(sizes[:3]))
    cache.put_rows("a", KEYS[:3], output(1, IDS[:3]))
    cache.get_rows("a", KEYS[:1])
    cache.put_rows("a", KEYS[1:2], output(1, IDS[1:2]))
    # u3 has the longest reference of all: u2, used longest ago, does not make room enough.
    cache.put_rows("a", KEYS[3:4], output(1, IDS[3:4]))
    there = [row is not None for row in cache.get_rows("a", KEYS)]
    assert there == [False, True, False, True, False, False]
    assert cache.statistics.evictions == 2


def test_the_bound_holds_at_every_moment_and_bytes_are_exact():
    sizes = [row_bytes(row) for row in cut(output(1, IDS))]
    cache = OutputCache(2 * max(sizes))
    for turn in range(40):
        row = turn * 5 % 6
        teacher = f"t{turn % 3}"
        cache.put_rows(teacher, [KEYS[row]], output(turn % 3, [IDS[row]]))
        statistics = cache.statistics
        held = [
            each
            for name in ("t0", "t1", "t2")
            for each in cache.get_rows(name, KEYS)
            if each is not None
        ]
        assert statistics.entries == len(held)
        exact = sum(each.log_probs.nbytes + each.string.nbytes + ROW_OVERHEAD for each in held)
        assert statistics.num_bytes == exact <= cache.statistics.max_bytes
    assert cache.statistics.evictions > 0


def test_overhead_is_what_python_takes():
    cache, one, count = OutputCache(LARGE), output(1, ["u0"]), 5_600
    keys = keys_of(count)
    # Just behind a growth of the tables, where a row takes most.
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            cache.put_rows("a", [bytes(bytearray(key))], one)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # A hundredth for what else the process may do meanwhile.
    assert 0.8 * cache.statistics.num_bytes < used <= 1.01 * cache.statistics.num_bytes


def test_a_row_larger_than_the_bound_is_not_kept_but_counted():
    cache = OutputCache(ROW_OVERHEAD + 80)
    cache.put_rows("a", KEYS, output(1, IDS))
    assert cache.statistics.refused["too_large"] == 6
    assert cache.statistics.num_bytes == cache.statistics.entries == 0
    with pytest.raises(ValueError, match="negative"):
        OutputCache(-1)


def test_rows_keep_no_batch_alive_and_cannot_be_changed():
    cache, whole = OutputCache(LARGE), output(1, IDS)
    strings = np.concatenate([whole.strings[0], np.arange(9)])
    whole = replace(whole, strings=(strings[: len(whole.strings[0])], *whole.strings[1:]))
    cache.put_rows("a", KEYS, whole)
    whole.log_probs[:] = 0
    rows = cache.get_rows("a", KEYS)
    for row in rows:
        for array in (row.log_probs, row.string):
            assert array.base is None
            assert array.flags.owndata
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    same_rows(rows, cut(output(1, IDS)))
    laid = lay(rows, 1)
    laid.log_probs[:] = 0
    same_rows(cache.get_rows("a", KEYS), cut(output(1, IDS)))


@pytest.mark.parametrize("where", ["token", "whole position", "infinite", "confidence"])
def test_a_row_that_is_not_finite_is_never_kept(where):
    whole = output(1, IDS)
    if where == "token":
        whole.log_probs[2, 0, 3] = np.nan
    elif where == "whole position":
        whole.log_probs[2, 1] = -np.inf
    elif where == "infinite":
        whole.log_probs[2, 1, 0] = np.inf
    else:
        whole.confidence[2] = np.nan
    whole.log_probs[0, 0, 0] = -np.inf
    cache = OutputCache(LARGE)
    cache.put_rows("a", KEYS, whole)
    there = [row is not None for row in cache.get_rows("a", KEYS)]
    assert there == [True, True, False, True, True, True]
    assert cache.statistics.refused["not_finite"] == 1


def test_written_rows_that_are_not_finite_are_never_kept():
    cache, keys = OutputCache(LARGE), keys_of(2, code=0)
    means = np.array([np.nan, -1.0], dtype=np.float32)
    cache.put_rows("a", keys, Written(Labels.of([[3], [4]]), means, np.array([0, 0])))
    assert [row is None for row in cache.get_rows("a", keys)] == [True, False]


def test_another_number_of_keys_is_refused():
    with pytest.raises(ValueError, match="5 keys for an output of 6"):
        OutputCache(LARGE).put_rows("a", KEYS[:5], output(1, IDS))


def test_a_changed_teacher_takes_its_own_rows_along_and_no_others():
    cache = OutputCache(LARGE)
    for number, name in enumerate("abc"):
        cache.put_rows(name, KEYS, output(number, IDS))
    before = cache.statistics.num_bytes
    assert cache.forget_teacher("b") == 6
    assert cache.forget_teacher("b") == 0
    assert cache.get_rows("b", KEYS) == [None] * 6
    assert None not in cache.get_rows("a", KEYS) + cache.get_rows("c", KEYS)
    statistics = cache.statistics
    assert statistics.forgotten == 6
    assert statistics.entries == 12
    assert statistics.num_bytes == before - sum(map(row_bytes, cut(output(1, IDS))))


def test_hits_are_counted_by_job():
    cache = OutputCache(LARGE)
    cache.get_rows("a", KEYS, job="first")
    cache.put_rows("a", KEYS, output(1, IDS))
    cache.get_rows("a", KEYS, job="second")
    cache.get_rows("a", [*KEYS[:2], *keys_of(1, salt="x")], job="first")
    statistics = cache.statistics
    assert statistics.jobs == {"first": Lookups(2, 7), "second": Lookups(6, 0)}
    assert statistics.lookups == Lookups(8, 7)
    assert statistics.jobs["second"].hit_share == 1.0
    assert Lookups().hit_share == 0.0


def test_float16_is_for_those_who_round_anyway():
    one, whole = request(1, 6), output(1, IDS)
    rounds = row_keys(replace(one, fusion=Fusion(Average(), dtype="float16")))
    exact = row_keys(one)
    half = OutputCache(LARGE, dtype="float16")
    half.put_rows("a", rounds, whole)
    assert {row.log_probs.dtype for row in half.get_rows("a", rounds)} == {np.dtype("float16")}
    assert half.get_rows("a", exact) == [None] * 6
    laid = lay(half.get_rows("a", rounds), 1)
    assert laid.log_probs.dtype == np.float32
    for row, length in enumerate(whole.positions):
        np.testing.assert_array_equal(
            laid.log_probs[row, :length].astype(np.float16),
            whole.log_probs[row, :length].astype(np.float16),
        )
    small = half.statistics.num_bytes
    half.put_rows("a", exact, whole)
    same_rows(half.get_rows("a", exact), cut(whole))
    assert half.statistics.entries == 6
    assert half.statistics.num_bytes > small


def test_a_float32_cache_answers_those_who_round():
    one = request(1, 6)
    rounds = row_keys(replace(one, fusion=Fusion(Average(), dtype="float16")))
    cache = OutputCache(LARGE)
    cache.put_rows("a", rounds, output(1, IDS))
    same_rows(cache.get_rows("a", row_keys(one)), cut(output(1, IDS)))
    same_rows(cache.get_rows("a", rounds), cut(output(1, IDS)))


def test_threads_may_hammer_it():
    names = [f"u{n}" for n in range(60)]
    keys = keys_of(60)
    sizes = [row_bytes(row) for row in cut(output(0, names))]
    cache = OutputCache(sum(sizes) // 2)
    wrong, asked = [], 400

    def work(seed):
        random = np.random.default_rng(seed)
        for turn in range(asked):
            number, teacher = int(random.integers(60)), int(random.integers(2))
            expected = output(teacher, [names[number]])
            [row] = cache.get_rows(str(teacher), [keys[number]], job=str(seed))
            if row is None:
                cache.put_rows(str(teacher), [keys[number]], expected)
            elif not np.array_equal(row.log_probs, expected.log_probs[0]):
                wrong.append((seed, number))
            if turn % 97 == 0:
                cache.forget_teacher(str(teacher))
            statistics = cache.statistics
            if not 0 <= statistics.num_bytes <= statistics.max_bytes:
                wrong.append(statistics)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    statistics = cache.statistics
    held = [r for t in "01" for r in cache.get_rows(t, keys) if r is not None]
    assert statistics.entries == len(held)
    assert statistics.num_bytes == sum(map(row_bytes, held))
    assert statistics.lookups.hits + statistics.lookups.misses == 6 * asked
    assert set(statistics.jobs) == set("012345")
    assert statistics.evictions > 0
    cache.forget_teacher("0")
    cache.forget_teacher("1")
    assert cache.statistics.num_bytes == cache.statistics.entries == 0


def test_rows_that_do_not_belong_together_make_no_batch():
    scored = cut(output(1, IDS))
    with pytest.raises(ValueError, match="do not make a batch"):
        lay([], 0)
    with pytest.raises(ValueError, match="5 of 6 rows have distributions"):
        lay([replace(scored[0], log_probs=None), *scored[1:]], 0)
    assert lay([replace(scored[0], string=None), *scored[1:]], 0).strings == ()
