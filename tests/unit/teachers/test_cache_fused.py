import threading
from dataclasses import replace

import numpy as np
import pytest
from doubles import request
from hypothesis import given, settings
from hypothesis import strategies as st
from store_doubles import output

from kd_ray.config.strategies import (
    Average,
    Best,
    Confidence,
    Fixed,
    TopM,
    TrustTable,
    Weighted,
)
from kd_ray.core.contracts import Fusion
from kd_ray.core.strategies import FusedTargets, fuse
from kd_ray.core.targets import truncate
from kd_ray.teachers.cache import (
    FusedCache,
    Lookups,
    cut_fused,
    fill_fused,
    fusion_digest,
    lay_fused,
    looks_at_batches,
    row_keys,
)
from kd_ray.teachers.cache.fused_rows import FUSED_OVERHEAD, fused_bytes

LARGE = 2**30
IDS = [f"u{n}" for n in range(6)]
POOL = ("a", "b", "c")
KEYS = row_keys(request(1, 6))
FUSION = Fusion(Weighted())


def fused(ids=IDS, fusion=FUSION, *, teachers=(0, 1, 2), count=3, **changes):
    outputs = [replace(output(n, list(ids), padding=0.0), **changes) for n in teachers]
    return fuse(outputs, fusion, count)


def same_targets(mine, theirs):
    """Equal, and of equal dtypes, up to padding."""
    for name in (
        "weights_tokens", "weights_labels", "ctc_errors", "decoder_errors", "reference_lengths"
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert getattr(mine, name).dtype == getattr(theirs, name).dtype
    assert mine.answered == theirs.answered
    assert mine.num_teachers == theirs.num_teachers
    assert mine.fusing == theirs.fusing
    assert (mine.tokens is None) == (theirs.tokens is None)
    assert (mine.labels is None) == (theirs.labels is None)
    if theirs.tokens is not None:
        same_tokens(mine.tokens, theirs.tokens)
    if theirs.labels is not None:
        same_labels(mine.labels, theirs.labels)


def same_tokens(mine, theirs):
    np.testing.assert_array_equal(mine.lengths, theirs.lengths)
    for name in ("log_probs", "ids", "log_tail"):
        a, b = getattr(mine, name), getattr(theirs, name)
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype
            for row, length in enumerate(theirs.lengths):
                np.testing.assert_array_equal(a[row, :length], b[row, :length])


def same_labels(mine, theirs):
    for name in ("lengths", "utterance", "weights", "dropped_weight"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert getattr(mine, name).dtype == getattr(theirs, name).dtype
    for a, b, length in zip(mine.labels, theirs.labels, theirs.lengths, strict=True):
        np.testing.assert_array_equal(a[:length], b[:length])


def joined(rows, like):
    return lay_fused(rows, answered=like.answered, fusing=like.fusing)


@st.composite
def batches(draw):
    """Fused targets of a random batch, and how they were asked for."""
    numbers = draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    count = draw(st.integers(1, 5))
    teachers = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    strategy = draw(
        st.sampled_from(
            [Average(), Best(), Best(ties="average"), Weighted(scale=0.3), TopM(m=2), Confidence()]
        )
    )
    fusion = Fusion(
        strategy,
        temperature=draw(st.sampled_from([1.0, 2.5])),
        max_strings=draw(st.sampled_from([None, 1, 2])),
        dtype=draw(st.sampled_from(["float32", "float16"])),
        fusing=draw(st.sampled_from(["mixture", "geometric"])),
    )
    changes = {}
    if draw(st.booleans()):
        changes["strings"] = ()
    elif draw(st.booleans()):
        changes["log_probs"] = None
    targets = fused([f"u{n}" for n in numbers], fusion, teachers=teachers, count=count, **changes)
    if targets.tokens is not None and draw(st.booleans()):
        targets = replace(targets, tokens=truncate(targets.tokens, draw(st.integers(1, 11))))
    return targets


@settings(max_examples=150, deadline=None)
@given(batches())
def test_a_batch_that_was_cut_is_laid_together_again(targets):
    same_targets(joined(cut_fused(targets), targets), targets)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=8), st.data())
def test_rows_of_different_batches_make_the_batch_that_was_never_fused(numbers, data):
    names = [f"u{n}" for n in numbers]
    cut_at = data.draw(st.integers(1, len(names) - 1))
    parts = [fused(names[:cut_at]), fused(names[cut_at:])]
    rows = [row for part in parts for row in cut_fused(part)]
    order = data.draw(st.permutations(range(len(names))))
    expected = fused([names[place] for place in order])
    same_targets(joined([rows[place] for place in order], expected), expected)


def test_rows_keep_no_batch_alive_and_know_their_bytes():
    targets = fused()
    targets = replace(targets, tokens=truncate(targets.tokens, 4))
    for row in cut_fused(targets):
        assert row.weights_labels is row.weights_tokens
        arrays = [
            row.tokens.log_probs, row.tokens.ids, row.tokens.log_tail, row.labels.labels,
            row.labels.lengths, row.labels.weights, row.weights_tokens, row.ctc_errors,
            row.decoder_errors,
        ]  # fmt: skip
        for array in arrays:
            assert array.base is None
            assert not array.flags.writeable
        assert fused_bytes(row) == sum(array.nbytes for array in arrays) + FUSED_OVERHEAD


def test_heads_that_are_weighed_differently_keep_both_tables():
    targets = fused(fusion=Fusion(Best()))
    targets = replace(targets, weights_labels=targets.weights_labels[::-1] + 0.25)
    row = cut_fused(targets)[0]
    assert row.weights_labels is not row.weights_tokens
    shared = cut_fused(fused(fusion=Fusion(Best())))[0]
    assert fused_bytes(row) == fused_bytes(shared) + row.weights_labels.nbytes
    same_targets(joined(cut_fused(targets), targets), targets)


def test_rows_of_other_teachers_or_kinds_make_no_batch():
    rows = cut_fused(fused())
    other = cut_fused(fused(teachers=(0, 1), count=2))
    sparse = replace(fused(), tokens=truncate(fused().tokens, 3))
    for strange in (other, cut_fused(sparse), cut_fused(fused(log_probs=None))):
        with pytest.raises(ValueError, match="do not make a batch"):
            lay_fused([rows[0], strange[1]], answered=(0, 1, 2), fusing="mixture")
    with pytest.raises(ValueError, match="no row"):
        lay_fused([], answered=(0,), fusing="mixture")


def test_what_was_put_comes_back_to_who_asks_for_the_same():
    cache = FusedCache(LARGE)
    assert cache.get_rows(FUSION, POOL, KEYS, job="x") == [None] * 6
    cache.put_rows(FUSION, POOL, KEYS, fused())
    order = [5, 2, 2]
    rows = cache.get_rows(Fusion(Weighted()), list(POOL), [KEYS[row] for row in order], job="x")
    same_targets(fill_fused(rows, None, "mixture"), fused([IDS[row] for row in order]))
    assert cache.statistics.jobs == {"x": Lookups(hits=3, misses=6)}


OTHERS = {
    "strategy": Fusion(Average()),
    "scale": Fusion(Weighted(scale=0.2)),
    "temperature": Fusion(Weighted(), temperature=2.0),
    "max strings": Fusion(Weighted(), max_strings=2),
    "dtype": Fusion(Weighted(), dtype="float16"),
    "fusing": Fusion(Weighted(), fusing="geometric"),
    "compatibility": Fusion(Weighted(), compatibility="reference"),
    "table": Fusion(
        Weighted(
            scope="corpus",
            table=TrustTable(split="v", measure="wer", teachers=POOL, error_percent=(1, 2, 3)),
        )
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_fusion_finds_nothing(what):
    cache = FusedCache(LARGE)
    cache.put_rows(FUSION, POOL, KEYS, fused())
    assert cache.get_rows(OTHERS[what], POOL, KEYS) == [None] * 6
    assert fusion_digest(OTHERS[what]) != fusion_digest(FUSION)


def test_another_table_is_another_fusion():
    strategy = OTHERS["table"].strategy
    table = strategy.table.model_copy(update={"error_percent": (1.0, 2.0, 4.0)})
    changed = Fusion(strategy.model_copy(update={"table": table}))
    assert fusion_digest(changed) != fusion_digest(OTHERS["table"])


@pytest.mark.parametrize("pool", [("b", "a", "c"), ("a", "b"), ("a", "b", "c", "d")])
def test_another_list_of_teachers_finds_nothing(pool):
    cache = FusedCache(LARGE)
    cache.put_rows(FUSION, POOL, KEYS, fused())
    assert cache.get_rows(FUSION, pool, KEYS) == [None] * 6


def test_who_wants_label_strings_alone_is_answered_by_whole_targets():
    cache, one = FusedCache(LARGE), request(1, 6)
    cache.put_rows(FUSION, POOL, KEYS, fused())
    keys = row_keys(replace(one, wanted=frozenset({"labels"})))
    rows = cache.get_rows(FUSION, POOL, keys)
    same_targets(fill_fused(rows, None, "mixture"), fused(log_probs=None))


def test_a_target_that_misses_a_teacher_is_never_kept():
    cache = FusedCache(LARGE)
    cache.put_rows(FUSION, POOL, KEYS, fused(teachers=(0, 2)))
    assert cache.get_rows(FUSION, POOL, KEYS) == [None] * 6
    assert cache.statistics.refused == {"incomplete": 6}
    assert cache.statistics.entries == 0


BATCH_SCOPE = [
    Fusion(Weighted(scope="batch")),
    Fusion(Best(scope="batch")),
    Fusion(TopM(m=1, scope="batch")),
    Fusion(Weighted(), compatibility="reference"),
    Fusion(Best(), compatibility="reference"),
]


@pytest.mark.parametrize("fusion", BATCH_SCOPE, ids=repr)
def test_targets_that_depend_on_the_whole_batch_are_refused(fusion, caplog):
    cache = FusedCache(LARGE)
    with caplog.at_level("INFO"):
        cache.put_rows(fusion, POOL, KEYS, fused(fusion=fusion))
        cache.put_rows(fusion, POOL, KEYS, fused(fusion=fusion))
    assert looks_at_batches(fusion, 3)
    assert cache.get_rows(fusion, POOL, KEYS) == [None] * 6
    assert cache.statistics.refused == {"batch_scope": 12}
    assert sum("scope 'batch'" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "fusion",
    [
        FUSION,
        OTHERS["table"],
        Fusion(Average(), compatibility="reference"),
        Fusion(Confidence()),
        Fusion(Fixed(weights=(1.0, 2.0, 3.0))),
        Fusion(TopM(m=1)),
    ],
    ids=repr,
)
def test_targets_of_other_scopes_do_not_depend_on_the_batch(fusion):
    assert not looks_at_batches(fusion, 3)
    whole = cut_fused(fused(fusion=fusion))
    alone = [cut_fused(fused([name], fusion))[0] for name in IDS]
    for a, b in zip(whole, alone, strict=True):
        np.testing.assert_array_equal(a.tokens.log_probs, b.tokens.log_probs)
        np.testing.assert_array_equal(a.labels.labels, b.labels.labels)
        np.testing.assert_array_equal(a.labels.weights, b.labels.weights)


def test_a_changed_teacher_takes_along_all_targets_that_it_has_a_part_in():
    cache = FusedCache(LARGE)
    pools = [("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e")]
    for pool in pools:
        cache.put_rows(FUSION, pool, KEYS, fused())
        cache.put_rows(Fusion(Average()), pool, KEYS, fused(fusion=Fusion(Average())))
    assert cache.forget_teacher("b") == 24
    assert cache.forget_teacher("b") == 0
    kept = [None not in cache.get_rows(FUSION, pool, KEYS) for pool in pools]
    assert kept == [False, False, True]
    statistics = cache.statistics
    assert statistics.entries == 12
    assert statistics.forgotten == 24
    cache.put_rows(FUSION, pools[0], KEYS, fused())
    assert None not in cache.get_rows(FUSION, pools[0], KEYS)


def test_bytes_are_exact_and_bounded_and_lists_without_rows_are_cleared_away():
    room = sum(map(fused_bytes, cut_fused(fused()))) * 2
    cache = FusedCache(room)
    for number in range(20):
        cache.put_rows(FUSION, (f"t{number}", "b", "c"), KEYS, fused())
        assert cache.statistics.num_bytes <= room
    assert cache.statistics.num_bytes == room
    assert cache.statistics.evictions == 18 * 6
    assert len(cache._pools) <= 4


def test_rows_that_are_not_finite_are_never_kept():
    targets = fused()
    targets.tokens.log_probs[3, 0, 0] = np.nan
    cache = FusedCache(LARGE)
    cache.put_rows(FUSION, POOL, KEYS, targets)
    there = [row is not None for row in cache.get_rows(FUSION, POOL, KEYS)]
    assert there == [True, True, True, False, True, True]
    assert cache.statistics.refused == {"not_finite": 1}


def test_another_number_of_rows_or_teachers_is_refused():
    with pytest.raises(ValueError, match="5 keys and 3 teachers"):
        FusedCache(LARGE).put_rows(FUSION, POOL, KEYS[:5], fused())
    with pytest.raises(ValueError, match="6 keys and 2 teachers"):
        FusedCache(LARGE).put_rows(FUSION, POOL[:2], KEYS, fused())


def test_cached_rows_and_fresh_ones_make_the_whole_answer():
    cache = FusedCache(LARGE)
    cache.put_rows(FUSION, POOL, [KEYS[1], KEYS[4]], fused([IDS[1], IDS[4]]))
    rows = cache.get_rows(FUSION, POOL, KEYS)
    fresh = fused([IDS[n] for n in (0, 2, 3, 5)])
    same_targets(fill_fused(rows, fresh, "mixture"), fused())
    with pytest.raises(ValueError, match="3 fresh rows for 4 missing"):
        fill_fused(rows, fused(IDS[:3]), "mixture")
    shortened = fused([IDS[n] for n in (0, 2, 3, 5)], teachers=(0, 2))
    whole = fill_fused(rows, shortened, "mixture")
    assert whole.answered == (0, 2)
    assert (whole.weights_tokens[1] > 0).tolist() == [False, True, False, False, True, False]
    assert fill_fused([None] * 6, fused(), "mixture").answered == (0, 1, 2)


def test_threads_may_hammer_it():
    expected = {name: fused([name]) for name in IDS}
    cache = FusedCache(sum(map(fused_bytes, cut_fused(fused()))))
    wrong = []

    def work(seed):
        random = np.random.default_rng(seed)
        for turn in range(150):
            number, pool = int(random.integers(6)), (f"t{random.integers(3)}", "b", "c")
            [row] = cache.get_rows(FUSION, pool, KEYS[number : number + 1])
            targets = expected[IDS[number]]
            if row is None:
                cache.put_rows(FUSION, pool, KEYS[number : number + 1], targets)
            elif not np.array_equal(row.tokens.log_probs, targets.tokens.log_probs[0]):
                wrong.append((seed, number))
            if turn % 41 == 0:
                cache.forget_teacher(pool[0])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.statistics.num_bytes <= cache.statistics.max_bytes
    cache.forget_teacher("b")
    assert cache.statistics.num_bytes == cache.statistics.entries == 0


def test_targets_without_utterance_strings_survive():
    targets = FusedTargets(
        tokens=None,
        labels=replace(
            fused().labels,
            labels=np.zeros((0, 0), dtype=np.int64),
            lengths=np.zeros(0, dtype=np.int64),
            utterance=np.zeros(0, dtype=np.int64),
            weights=np.zeros(0),
        ),
        **{
            name: getattr(fused(), name)
            for name in (
                "weights_tokens", "weights_labels", "ctc_errors", "decoder_errors",
                "reference_lengths", "answered", "num_teachers",
            )
        },
    )  # fmt: skip
    same_targets(joined(cut_fused(targets), targets), targets)
