"""Partials by the row: cut out of a batch, kept, laid into another one, merged as ever."""

from dataclasses import replace

import numpy as np
import pytest
from doubles import request
from hypothesis import given, settings
from hypothesis import strategies as st
from store_doubles import output

from kd_ray.config.strategies import Average, Best, Confidence, TopM, Weighted
from kd_ray.core import strategies
from kd_ray.core.contracts import Fusion
from kd_ray.teachers.cache import (
    FusedCache,
    cut_partial,
    fill_partial,
    group_of,
    lay_partial,
    row_keys,
)
from kd_ray.teachers.cache.partial_rows import partial_bytes

LARGE = 2**30
IDS = [f"u{n}" for n in range(6)]
KEYS = row_keys(request(1, 6))
FUSION = Fusion(Weighted())
DIGESTS = {0: "a", 2: "b", 3: "c"}
GROUP = group_of(DIGESTS, 5)


def partial(ids=IDS, fusion=FUSION, *, teachers=(0, 2, 3), count=5, **changes):
    outputs = [replace(output(n, list(ids), padding=0.0), **changes) for n in teachers]
    return strategies.local(outputs, fusion, count)


def same_partials(mine, theirs):
    """Equal, and of equal dtypes; tables of label strings may be in another order."""
    assert (mine.fusion, mine.num_teachers) == (theirs.fusion, theirs.num_teachers)
    for name in (
        "teachers", "ctc_errors", "decoder_errors", "confidence", "reference_lengths", "positions",
        "chrf_errors",
    ):  # fmt: skip
        a, b = getattr(mine, name), getattr(theirs, name)
        np.testing.assert_array_equal(a, b)
        assert a is b is None or a.dtype == b.dtype
    assert (mine.choice is None) == (theirs.choice is None)
    assert (mine.probabilities is None) == (theirs.probabilities is None)
    if theirs.kept is None:
        assert mine.kept is None
        if theirs.probabilities is not None:
            assert mine.probabilities.dtype == theirs.probabilities.dtype
            np.testing.assert_array_equal(mine.probabilities, theirs.probabilities)


def same_targets(mine, theirs):
    """What both finish to."""
    mine, theirs = strategies.finish(mine), strategies.finish(theirs)
    for name in ("weights_tokens", "weights_labels", "ctc_errors"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert mine.answered == theirs.answered
    if theirs.tokens is not None:
        np.testing.assert_array_equal(mine.tokens.log_probs, theirs.tokens.log_probs)
        np.testing.assert_array_equal(mine.tokens.lengths, theirs.tokens.lengths)
    if theirs.labels is not None:
        for name in ("labels", "lengths", "utterance", "weights", "dropped_weight"):
            np.testing.assert_array_equal(getattr(mine.labels, name), getattr(theirs.labels, name))


STRATEGIES = [
    Average(), Best(), Best(ties="average"), Weighted(scale=0.3), TopM(m=1), TopM(m=2, scale=0.1),
    TopM(m=9), Confidence(),
]  # fmt: skip


@st.composite
def asked(draw):
    """A batch, the teachers of two hosts, and how they are fused."""
    numbers = draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    count = draw(st.integers(2, 6))
    hosts = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    fusion = Fusion(
        draw(st.sampled_from(STRATEGIES)),
        temperature=draw(st.sampled_from([1.0, 2.5])),
        max_strings=draw(st.sampled_from([None, 1])),
        dtype=draw(st.sampled_from(["float32", "float16"])),
        fusing=draw(st.sampled_from(["mixture", "geometric"])),
    )
    changes = {}
    if draw(st.booleans()):
        changes["strings"] = ()
    elif draw(st.booleans()):
        changes["log_probs"] = None
    if draw(st.booleans()):
        changes["chrf_errors"] = np.array(numbers) * 1000
    return [f"u{n}" for n in numbers], hosts, fusion, changes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(asked())
def test_rows_that_were_cut_apart_one_by_one_make_the_same_partials_and_targets(what):
    ids, hosts, fusion, changes = what
    wholes, laid = [], []
    for host in set(hosts):
        teachers = [n for n, lives in enumerate(hosts) if lives == host]
        common = {"teachers": teachers, "count": len(hosts)}
        single = [
            {name: value[row : row + 1] if name == "chrf_errors" else value
             for name, value in changes.items()}
            for row in range(len(ids))
        ]  # fmt: skip
        rows = [
            cut_partial(partial([name], fusion, **common, **alone))[0]
            for name, alone in zip(ids, single, strict=True)
        ]
        mine = lay_partial(rows, fusion=fusion, num_teachers=len(hosts), teachers=teachers)
        whole = partial(ids, fusion, **common, **changes)
        same_partials(mine, whole)
        wholes.append(whole)
        laid.append(mine)
    if len(wholes) == 2:
        same_targets(strategies.merge(*laid), strategies.merge(*wholes))
    else:
        same_targets(laid[0], wholes[0])


def test_what_was_put_comes_back_to_who_asks_the_same_teachers_for_the_same():
    cache = FusedCache(LARGE)
    assert cache.get_partial_rows(FUSION, GROUP, KEYS) == [None] * 6
    cache.put_partial_rows(GROUP, KEYS, partial())
    order = [5, 2, 2]
    rows = cache.get_partial_rows(Fusion(Weighted()), GROUP, [KEYS[row] for row in order])
    fill = {"fusion": FUSION, "num_teachers": 5, "teachers": (0, 2, 3)}
    same_partials(fill_partial(rows, None, **fill), partial([IDS[row] for row in order]))
    assert cache.statistics.num_bytes == sum(map(partial_bytes, cut_partial(partial())))
    others = [group_of({0: "a", 2: "c", 3: "b"}, 5), group_of(DIGESTS, 6), group_of({0: "a"}, 5)]
    for other in others:
        assert cache.get_partial_rows(FUSION, other, KEYS) == [None] * 6
    assert cache.get_partial_rows(Fusion(Average()), GROUP, KEYS) == [None] * 6
    # Targets of the same teachers are something else.
    assert cache.get_rows(FUSION, GROUP, KEYS) == [None] * 6


def test_cached_rows_and_fresh_ones_make_the_whole_partial():
    cache = FusedCache(LARGE)
    cache.put_partial_rows(GROUP, [KEYS[1], KEYS[4]], partial([IDS[1], IDS[4]]))
    rows = cache.get_partial_rows(FUSION, GROUP, KEYS)
    fill = {"fusion": FUSION, "num_teachers": 5, "teachers": (0, 2, 3)}
    fresh = partial([IDS[n] for n in (0, 2, 3, 5)])
    same_partials(fill_partial(rows, fresh, **fill), partial())
    with pytest.raises(ValueError, match="3 fresh rows for 4 missing"):
        fill_partial(rows, partial(IDS[:3]), **fill)
    with pytest.raises(ValueError, match="do not make a batch of 3 teachers"):
        fill_partial(rows, partial(fresh_ids(), teachers=(0, 2)), **fill)
    with pytest.raises(ValueError, match="no row"):
        fill_partial([], None, **fill)


def fresh_ids():
    return [IDS[n] for n in (0, 2, 3, 5)]


def test_who_wants_label_strings_alone_is_answered_by_whole_partials():
    cache, one = FusedCache(LARGE), request(1, 6)
    cache.put_partial_rows(GROUP, KEYS, partial())
    keys = row_keys(replace(one, wanted=frozenset({"labels"})))
    rows = cache.get_partial_rows(FUSION, GROUP, keys)
    mine = fill_partial(rows, None, fusion=FUSION, num_teachers=5, teachers=(0, 2, 3))
    same_partials(mine, partial(log_probs=None))


def test_partials_that_miss_a_teacher_or_depend_on_the_batch_are_never_kept():
    cache = FusedCache(LARGE)
    cache.put_partial_rows(GROUP, KEYS, partial(teachers=(0, 3)))
    batch = Fusion(Weighted(scope="batch"))
    cache.put_partial_rows(GROUP, KEYS, partial(fusion=batch))
    assert cache.statistics.refused == {"incomplete": 6, "batch_scope": 6}
    assert cache.statistics.entries == 0
    with pytest.raises(ValueError, match="5 keys for a partial of 6 rows"):
        cache.put_partial_rows(GROUP, KEYS[:5], partial())


def test_a_changed_teacher_takes_along_the_partials_that_it_has_a_part_in():
    cache = FusedCache(LARGE)
    other = group_of({1: "d", 4: "e"}, 5)
    cache.put_partial_rows(GROUP, KEYS, partial())
    cache.put_partial_rows(other, KEYS, partial(teachers=(1, 4)))
    assert cache.forget_teacher("b") == 6
    assert cache.get_partial_rows(FUSION, GROUP, KEYS) == [None] * 6
    assert None not in cache.get_partial_rows(FUSION, other, KEYS)
