from dataclasses import replace

import numpy as np
import pytest
from doubles import writing_request
from store_doubles import fill, filled_store, info, output, references_of, utterances

from kd_ray.config.strategies import Average
from kd_ray.core.contracts import Audio, Fusion, Labels, Masks, Score, View
from kd_ray.teachers.cache import Lookups, OutputCache, StoreLevel, data_digest, find, lay, row_keys
from kd_ray.teachers.store import StoreError

D = [f"{n:016x}" for n in range(4)]
IDS = ["u7", "u0", "u4", "u9"]
DATA = data_digest("train", utterances(10), "phones")


def ask(ids=IDS, dtype="float32", **changes):
    silence = Audio.of([np.zeros(8, dtype=np.int16)] * len(ids))
    one = Score(tuple(ids), silence, Labels.of(references_of(ids)), Fusion(Average(), dtype=dtype))
    return replace(one, **changes)


@pytest.fixture
def level(tmp_path):
    return StoreLevel(filled_store(tmp_path / "store"), "train")


def test_stored_rows_are_what_the_teacher_said(level):
    rows = level.get_rows(D[2], ask(), DATA, job="x")
    mine, theirs = lay(rows, 2), output(2, IDS, padding=0.0)
    np.testing.assert_array_equal(mine.log_probs, theirs.log_probs)
    for name in ("positions", "frames", "ctc_errors", "decoder_errors", "reference_lengths"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    np.testing.assert_array_equal(mine.confidence, theirs.confidence)
    for a, b in zip(mine.strings, theirs.strings, strict=True):
        np.testing.assert_array_equal(a, b)
    assert level.statistics.jobs == {"x": Lookups(hits=4, misses=0)}


REFUSED = {
    "other data": ({}, "0" * 16, D[0]),
    "other view": ({"view": View("specaugment", 1)}, DATA, D[0]),
    "masks": ({"view": View(masks=Masks(np.ones((4, 1, 2)), np.ones((4, 1, 2))))}, DATA, D[0]),
    "unknown teacher": ({}, DATA, D[3]),
    "no prefix": ({"references": None, "wanted": frozenset({"labels"})}, DATA, D[0]),
    "no references": (
        {"references": None, "prefix": Labels.of(references_of(IDS))},
        DATA,
        D[0],
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_store_does_not_mean_it_does_not_answer(level, why):
    changes, data, teacher = REFUSED[why]
    assert level.get_rows(teacher, ask(**changes), data) == [None] * 4
    assert level.statistics.lookups == Lookups(hits=0, misses=4)


def test_other_rows_prefixes_and_references_are_told_apart_row_by_row(level):
    references = references_of(IDS)
    references[1] = [*references[1], 3]
    one = ask(references=Labels.of(references))
    there = [row is not None for row in level.get_rows(D[0], one, DATA)]
    assert there == [True, False, True, True]
    rollout = ask(prefix=Labels.of([[5], *references_of(IDS)[1:]]))
    there = [row is not None for row in level.get_rows(D[0], rollout, DATA)]
    assert there == [False, True, True, True]
    strange = ask(["u7", "u99"], references=Labels.of([*references_of(["u7"]), [3]]))
    assert [row is not None for row in level.get_rows(D[0], strange, DATA)] == [True, False]
    assert len(level.get_rows(D[0], ask(), DATA, rows=[2])) == 1


def test_generated_strings_are_in_no_store(level):
    assert level.get_rows(D[0], writing_request(1, 2), DATA) == [None, None]


def test_distributions_come_only_where_they_are_wanted(level):
    rows = level.get_rows(D[0], ask(wanted=frozenset({"labels"})), DATA)
    assert [row.log_probs for row in rows] == [None] * 4


def test_a_float16_store_answers_those_who_round(tmp_path):
    level = StoreLevel(filled_store(tmp_path / "store", dtype="float16"), "train")
    assert level.get_rows(D[0], ask(), DATA) == [None] * 4
    assert level.get_rows(D[0], ask(dtype="float16", per_teacher=True), DATA) == [None] * 4
    rows = level.get_rows(D[0], ask(dtype="float16"), DATA)
    expected = output(0, IDS, padding=0.0).log_probs
    np.testing.assert_array_equal(lay(rows, 0).log_probs, expected.astype(np.float16))
    assert None not in level.get_rows(D[0], ask(wanted=frozenset({"labels"})), DATA)


def test_a_store_of_another_precision_goes_by_that_name_only(tmp_path):
    store = filled_store(tmp_path / "store", precision="bfloat16")
    level = StoreLevel(store, "train")
    teacher = store.teacher(D[0])
    assert teacher.answers_digest == f"{D[0]}-bfloat16"
    assert level.get_rows(D[0], ask(), DATA) == [None] * 4
    assert None not in level.get_rows(teacher.answers_digest, ask(), DATA)


def test_a_store_of_top_k_and_an_unknown_split_are_refused(tmp_path):
    store = filled_store(tmp_path / "store", top_k=4)
    with pytest.raises(ValueError, match="keeps the 4 likeliest"):
        StoreLevel(store, "train")
    with pytest.raises(StoreError, match="no split 'valid'"):
        StoreLevel(filled_store(tmp_path / "other"), "valid")


def test_text_teachers_and_heads_that_are_not_there(tmp_path):
    store = filled_store(tmp_path / "store", teachers=1)
    store.append_teacher(info(1, reads="text"))
    store.append_teacher(info(2, has_ctc=False))
    fill(store, "train")
    level = StoreLevel(store, "train")
    assert level.get_rows(D[1], ask(), DATA) == [None] * 4
    assert lay(level.get_rows(D[2], ask(), DATA), 0).strings == ()


def test_shards_that_are_not_committed_are_misses(tmp_path):
    store = filled_store(tmp_path / "store", teachers=1)
    store.append_teacher(info(1))
    level = StoreLevel(store, "train")
    assert level.get_rows(D[1], ask(), DATA) == [None] * 4
    fill(store, "train")
    # Looked for once; a new level sees them.
    assert level.get_rows(D[1], ask(), DATA) == [None] * 4
    assert None not in StoreLevel(store, "train").get_rows(D[1], ask(), DATA)


def test_the_store_is_asked_for_what_memory_does_not_have(level):
    memory, one = OutputCache(2**20), ask()
    keys = row_keys(one)
    memory.put_rows(D[1], keys[:1], output(1, IDS[:1]))
    found = find(D[1], one, keys, memory=memory, store=level, data=DATA, job="x")
    assert found.missing == ()
    np.testing.assert_array_equal(
        found.whole(None, 1).log_probs, output(1, IDS, padding=0.0).log_probs
    )
    assert memory.statistics.jobs["x"] == Lookups(hits=1, misses=3)
    assert level.statistics.jobs["x"] == Lookups(hits=3, misses=0)
    strange = ask(["u7", "u99"], references=Labels.of([*references_of(["u7"]), [3]]))
    found = find(D[1], strange, row_keys(strange), memory=memory, store=level, data=DATA)
    assert found.missing == (1,)
