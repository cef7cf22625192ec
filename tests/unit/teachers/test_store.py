import errno
import json
import logging
import os
import time

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_doubles import VOCABULARY, fill, filled_store, info, output, rows, utterances

from kd_ray.speech.manifest import Utterance
from kd_ray.teachers.store import StoreError, TargetStore, estimate_bytes
from kd_ray.teachers.store.files import TEMPORARY_SUFFIX, write_atomically

D = [f"{n:016x}" for n in range(9)]
"""Digests of the made-up teachers."""


def same(mine, theirs):
    for name in ("positions", "frames", "ctc_errors", "decoder_errors", "reference_lengths"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    np.testing.assert_array_equal(mine.confidence, theirs.confidence)
    for a, b in zip(mine.strings, theirs.strings, strict=True):
        np.testing.assert_array_equal(a, b)


def valid(log_probs, positions):
    return [row[:length] for row, length in zip(log_probs, positions, strict=True)]


@pytest.fixture(scope="module")
def dense_store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("dense") / "store", teachers=3, count=75, shard=40)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    numbers=st.lists(st.integers(0, 74), min_size=1, max_size=12),
    teachers=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
)
def test_any_batch_of_any_teachers_reads_what_was_written(dense_store, numbers, teachers):
    ids = [f"u{n}" for n in numbers]
    found = dense_store.read("train", ids, [D[t] for t in teachers])
    assert [out.teacher for out in found] == list(range(len(teachers)))
    for mine, number in zip(found, teachers, strict=True):
        theirs = output(number, ids)
        same(mine, theirs)
        assert mine.log_probs.dtype == np.float32
        assert np.isfinite(mine.log_probs).all(), "NaN of the padding must not be stored"
        for a, b in zip(
            valid(mine.log_probs, mine.positions),
            valid(theirs.log_probs, theirs.positions),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_float16_rounds_log_probs_once_and_nothing_else(tmp_path):
    store = filled_store(tmp_path / "store", dtype="float16")
    ids = ["u7", "u2"]
    (mine,) = store.read("train", ids, [D[1]])
    theirs = output(1, ids)
    same(mine, theirs)
    for a, b in zip(
        valid(mine.log_probs, mine.positions),
        valid(theirs.log_probs, theirs.positions),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))


def test_a_reopened_store_reads_the_same(tmp_path):
    filled_store(tmp_path / "store")
    store = TargetStore.open(tmp_path / "store")
    (mine,) = store.read("train", ["u9", "u0"], [D[2]])
    same(mine, output(2, ["u9", "u0"]))
    assert store.index.digests == (D[0], D[1], D[2])


def test_files_are_a_parquet_dataset_with_documented_columns(tmp_path):
    filled_store(tmp_path / "store")
    table = ds.dataset(
        tmp_path / "store", partitioning="hive", exclude_invalid_files=True
    ).to_table()
    assert table.num_rows == 30
    assert set(table.column_names) == {
        "utterance_id", "prefix_digest", "ctc_string", "frames", "positions", "log_probs",
        "ctc_errors", "decoder_errors", "reference_length", "confidence", "chrf_errors", "split",
        "teacher",
    }  # fmt: skip
    path = tmp_path / "store" / "split=train" / f"teacher={D[0]}" / "part-00000.parquet"
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_store_json_says_what_numbers_mean(tmp_path):
    filled_store(tmp_path / "store", dtype="float16", top_k=3)
    said = json.loads((tmp_path / "store" / "store.json").read_text())
    assert said["tokens_digest"] == "tokens"
    assert (said["blank"], said["bos"], said["eos"]) == (0, 1, 2)
    assert (said["dtype"], said["top_k"], said["vocabulary_size"]) == ("float16", 3, VOCABULARY)
    assert [teacher["frame_rate_hz"] for teacher in said["teachers"]] == [25.0] * 3
    assert said["splits"]["train"]["utterances"] == 10


# -- interruption -------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_without_touching_committed_shards(tmp_path):
    folder = tmp_path / "store"
    store = TargetStore.create(folder, [info(0), info(1)])
    shards = store.plan("train", utterances(10), 4, column="phones")
    first = store.write_shard("train", D[0], 0, rows(0, list(shards[0].ids)))
    second = store.write_shard("train", D[0], 2, rows(0, list(shards[2].ids)))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (first, second)}
    leftover = first.parent / f".part-00001.parquet.abc{TEMPORARY_SUFFIX}"
    leftover.write_bytes(b"half")

    time.sleep(0.01)
    again = TargetStore.prepare(folder, [info(0), info(1)])
    again.plan("train", utterances(10), 4, column="phones")
    with again.writing():
        assert not leftover.exists()
        assert [shard.index for shard in again.missing("train", D[0])] == [1]
        assert [shard.index for shard in again.missing("train", D[1])] == [0, 1, 2]
        fill(again, "train")
        assert again.write_shard("train", D[0], 0, rows(0, list(shards[0].ids))) is None
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    ids = [f"u{n}" for n in range(10)]
    whole = filled_store(tmp_path / "whole", teachers=2)
    for mine, theirs in zip(
        again.read("train", ids, D[:2]), whole.read("train", ids, D[:2]), strict=True
    ):
        same(mine, theirs)
        np.testing.assert_array_equal(mine.log_probs, theirs.log_probs)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind_and_names_the_path(tmp_path, monkeypatch, call):
    store = TargetStore.create(tmp_path / "store", [info(0)])
    (shard,) = store.plan("train", utterances(3), 4, column="phones")
    path = store.shard_path("train", D[0], 0)

    def full(*_args, **_keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StoreError, match=r"part-00000\.parquet.*No space left"):
            store.write_shard("train", D[0], 0, rows(0, list(shard.ids)))
    assert list(path.parent.iterdir()) == []
    assert store.missing("train", D[0]) == [shard]
    fill(store, "train")
    assert store.missing("train", D[0]) == []


def test_a_write_that_dies_midway_never_shows_under_the_final_name(tmp_path):
    path = tmp_path / "a" / "file"
    seen = []

    def write(temporary):
        temporary.write_text("half")
        seen.extend(tmp_path.joinpath("a").iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert len(seen) == 1
    assert seen[0].name.endswith(TEMPORARY_SUFFIX)
    assert not path.exists()


@pytest.mark.parametrize("damage", ["truncated", "other split", "not parquet"])
def test_a_file_that_is_not_the_planned_shard_does_not_count(tmp_path, caplog, damage):
    store = filled_store(tmp_path / "store", teachers=1)
    path = store.shard_path("train", D[0], 1)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "not parquet":
        path.write_text("hello")
    else:
        store.plan("other", utterances(8)[4:], 4, column="phones")
        fill(store, "other")
        path.write_bytes(store.shard_path("other", D[0], 0).read_bytes())
    again = TargetStore.open(tmp_path / "store")
    with caplog.at_level(logging.WARNING):
        assert [shard.index for shard in again.missing("train", D[0])] == [1]
    assert "does not count as committed" in caplog.text
    fill(again, "train")
    (mine,) = again.read("train", ["u5"], [D[0]])
    same(mine, output(0, ["u5"]))


def test_a_shard_that_vanishes_while_reading_says_the_way_out(tmp_path):
    store = filled_store(tmp_path / "store", teachers=1)
    store.shard_path("train", D[0], 0).unlink()
    with pytest.raises(StoreError, match=r"part-00000\.parquet.*infer-teachers"):
        store.read("train", ["u0"], [D[0]])


def test_two_writers_exclude_each_other(tmp_path):
    store = filled_store(tmp_path / "store")
    other = TargetStore.open(tmp_path / "store")
    refusal = pytest.raises(StoreError, match=f"being written by process {os.getpid()}")
    with store.writing(), refusal, other.writing():
        pass
    with TargetStore.open(tmp_path / "store").writing():
        pass


def test_changes_while_another_process_writes_are_refused_and_later_ones_are_joined(tmp_path):
    store = filled_store(tmp_path / "store", teachers=1)
    other = TargetStore.open(tmp_path / "store")
    with store.writing():
        other.append_teacher(info(0))
        other.plan("train", utterances(10), 4, column="phones")
        with pytest.raises(StoreError, match="being written"):
            other.append_teacher(info(1))
        with pytest.raises(StoreError, match="being written"):
            other.plan("new", utterances(3), 4, column="phones")
        store.append_teacher(info(2))
    other.append_teacher(info(1))
    other.plan("new", utterances(3), 4, column="phones")
    again = TargetStore.open(tmp_path / "store")
    assert again.index.digests == (D[0], D[2], D[1])
    assert set(again.index.splits) == {"train", "new"}


# -- refusals -----------------------------------------------------------------------------------


def test_nan_is_refused_by_teacher_and_utterance_and_nothing_is_written(tmp_path):
    store = TargetStore.create(tmp_path / "store", [info(0), info(1)])
    (shard,) = store.plan("train", utterances(3), 4, column="phones")
    made = rows(1, list(shard.ids))
    made[1].log_probs[0, 3] = np.nan
    with pytest.raises(StoreError, match=r"teacher t1 .*shard 0: 1 of 3 .*u1: .*NaN"):
        store.write_shard("train", D[1], 0, made)
    assert not store.shard_path("train", D[1], 0).parent.exists()


def test_rows_that_are_no_distribution_are_refused(tmp_path):
    store = TargetStore.create(tmp_path / "store", [info(0)])
    (shard,) = store.plan("train", utterances(2), 4, column="phones")
    made = rows(0, list(shard.ids))
    made[0].log_probs[:] += 1.0
    with pytest.raises(StoreError, match=r"sum to 2\.718, not 1"):
        store.write_shard("train", D[0], 0, made)


def test_rows_of_other_utterances_are_refused(tmp_path):
    store = TargetStore.create(tmp_path / "store", [info(0)])
    store.plan("train", utterances(4), 2, column="phones")
    with pytest.raises(StoreError, match=r"shard 1 .* has 2 utterances.*brought 2 rows.*1 of them"):
        store.write_shard("train", D[0], 1, rows(0, ["u1", "u2"]))


def test_coverage_counts_and_names_what_is_missing(tmp_path):
    store = TargetStore.create(tmp_path / "store", [info(0), info(1)])
    store.plan("train", utterances(10), 4, column="phones")
    fill(store, "train", [D[0]])
    made = store.missing("train", D[1])[1]
    store.write_shard("train", D[1], 1, rows(1, list(made.ids)))
    ids = [f"u{n}" for n in range(10)]
    assert store.coverage("train", ids) == {D[0]: [], D[1]: ["u0", "u1", "u2", "u3", "u8", "u9"]}
    store.require("train", ids, [D[0]])
    with pytest.raises(StoreError, match=r"t1 .*6 utterance\(s\) \(u0, u1.*\n.*infer-teachers"):
        store.require("train", ids)
    with pytest.raises(StoreError, match="infer-teachers"):
        store.read("train", ["u0"], D[:2])


def test_unknown_utterances_and_teachers_are_named(tmp_path):
    store = filled_store(tmp_path / "store")
    with pytest.raises(StoreError, match=r"does not have 1 utterance\(s\) \(u99\)"):
        store.read("train", ["u1", "u99"], [D[0]])
    with pytest.raises(StoreError, match=rf"no teacher {D[7]}; it has {D[0]} \(t0\)"):
        store.missing("train", D[7])
    with pytest.raises(StoreError, match=r"no split 'valid', only \['train'\]"):
        store.shards("valid")


def test_appended_teacher_gets_the_next_index_and_only_its_shards_are_missing(tmp_path):
    store = filled_store(tmp_path / "store", teachers=2)
    assert store.append_teacher(info(5, index=0)).index == 2
    assert store.append_teacher(info(5)).index == 2
    again = TargetStore.open(tmp_path / "store")
    assert again.index.digests == (D[0], D[1], D[5])
    assert [len(again.missing("train", digest)) for digest in again.index.digests] == [0, 0, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens_digest": "other"}, "tokens_digest other"),
        ({"vocabulary_size": 12}, "vocabulary_size 12"),
        ({"eos": 3}, "eos 3"),
        ({"precision": "bfloat16"}, "precision bfloat16, the store has float32"),
    ],
)
def test_a_teacher_with_other_tokens_or_precision_is_refused(tmp_path, change, message):
    store = filled_store(tmp_path / "store", teachers=1)
    with pytest.raises(StoreError, match=message):
        store.append_teacher(info(5, **change))


def test_prepare_refuses_other_settings_by_name(tmp_path):
    filled_store(tmp_path / "store", dtype="float16")
    with pytest.raises(StoreError, match="dtype: float16, asked for is float32"):
        TargetStore.prepare(tmp_path / "store", [info(0)])
    with pytest.raises(StoreError, match="top_k: None, asked for is 4"):
        TargetStore.prepare(tmp_path / "store", [info(0)], dtype="float16", top_k=4)
    with pytest.raises(StoreError, match="already"):
        TargetStore.create(tmp_path / "store", [info(0)])


def test_a_store_is_of_one_precision(tmp_path):
    """The same teachers in another one are not those that it knows."""
    folder = tmp_path / "store"
    store = TargetStore.prepare(folder, [info(0, precision="bfloat16")])
    assert (store.index.precision, store.teacher(D[0]).precision) == ("bfloat16",) * 2
    assert TargetStore.open(folder).index.teachers == store.index.teachers
    with pytest.raises(StoreError, match="precision float32, the store has bfloat16"):
        TargetStore.prepare(folder, [info(0)])


def test_stores_that_say_no_precision_are_of_float32(tmp_path):
    filled_store(tmp_path / "store")
    path = tmp_path / "store" / "store.json"
    said = json.loads(path.read_text())
    assert said.pop("precision") == "float32"
    for teacher in said["teachers"]:
        del teacher["precision"]
    path.write_text(json.dumps(said))
    again = TargetStore.prepare(tmp_path / "store", [info(0)])
    assert again.index.precision == again.teacher(D[0]).precision == "float32"


@pytest.mark.parametrize("top_k", [0, VOCABULARY, VOCABULARY + 1])
def test_top_k_must_leave_a_tail(tmp_path, top_k):
    with pytest.raises(
        StoreError, match=f"top_k is {top_k}; it must be from 1 to {VOCABULARY - 1}"
    ):
        TargetStore.create(tmp_path / "store", [info(0)], top_k=top_k)


def test_a_split_cannot_be_planned_anew_with_other_data_or_shards(tmp_path):
    store = filled_store(tmp_path / "store")
    with pytest.raises(StoreError, match=r"shard_utterances=4.*shard_utterances=5"):
        store.plan("train", utterances(10), 5, column="phones")
    with pytest.raises(StoreError, match="planned as"):
        store.plan("train", utterances(9), 4, column="phones")
    assert len(store.plan("train", utterances(10), 4, column="phones")) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Utterance(id="x", audio=None, phones="a"), "x.*without audio"),
        (Utterance(id="x", audio="x.wav"), "x.*without 'phones'"),
        (Utterance(id="u1", audio="x.wav", phones="a"), "u1.*more than once"),
    ],
    ids=["no audio", "no text", "twice"],
)
def test_rows_that_teachers_cannot_score_are_refused_at_planning(tmp_path, row, message):
    store = TargetStore.create(tmp_path / "store", [info(0)])
    with pytest.raises(StoreError, match=message):
        store.plan("train", [*utterances(2), row], 4, column="phones")
    assert not store.index.splits


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a=b"])
def test_split_names_that_are_no_folder_are_refused(tmp_path, name):
    store = TargetStore.create(tmp_path / "store", [info(0)])
    with pytest.raises(StoreError, match="cannot name a split"):
        store.plan(name, utterances(2), 4, column="phones")


def test_changed_texts_and_audio_are_named(tmp_path):
    store = filled_store(tmp_path / "store")
    same_rows = utterances(10)
    store.check_data("train", same_rows[3:5], "phones")
    changed = [*same_rows[:2], Utterance(id="u2", audio="audio/u2.wav", duration_s=1.0, phones="b")]
    with pytest.raises(StoreError, match=r"audio or text of 1 utterance\(s\) \(u2\) changed"):
        store.check_data("train", changed, "phones")
    with pytest.raises(StoreError, match=r"'phones'.*'transcript'"):
        store.check_data("train", same_rows, "transcript")


def test_the_split_is_found_by_its_utterances(tmp_path):
    store = filled_store(tmp_path / "store", teachers=1)
    assert store.split_for(["u3", "u9"]) == "train"
    with pytest.raises(StoreError, match=r"'train' lacks 1 utterance\(s\) \(u10\)"):
        store.split_for(["u3", "u10"])
    store.plan("again", utterances(5), 4, column="phones")
    with pytest.raises(StoreError, match=r"train, again.* all hold"):
        store.split_for(["u3"])
    assert store.split_for(["u9"]) == "train"


def test_opening_says_what_is_missing(tmp_path):
    with pytest.raises(StoreError, match=r"no target store: it has no store\.json"):
        TargetStore.open(tmp_path)
    filled_store(tmp_path / "store")
    index = tmp_path / "store" / "store.json"
    text = index.read_text()
    said = json.loads(text)
    del said["eos"]
    index.write_text(json.dumps(said))
    with pytest.raises(StoreError, match=r"(?s)store\.json is incomplete.*eos"):
        TargetStore.open(tmp_path / "store")
    index.write_text(json.dumps({**said, "version": 7}))
    with pytest.raises(StoreError, match="has version 7, this package reads version 2"):
        TargetStore.open(tmp_path / "store")
    index.write_text(text)
    (tmp_path / "store" / "_plans" / "train.parquet").unlink()
    with pytest.raises(StoreError, match="plan of split 'train' cannot be read"):
        TargetStore.open(tmp_path / "store")


def test_a_small_cache_gives_the_same_rows(tmp_path):
    filled_store(tmp_path / "store", count=75, shard=40)
    tight = TargetStore.open(tmp_path / "store", cache_mib=0.0)
    ids = [f"u{n}" for n in (70, 1, 35, 2, 71, 40)]
    for mine, number in zip(tight.read("train", ids, D[:3]), range(3), strict=True):
        same(mine, output(number, ids))


def test_the_estimate_is_an_upper_bound_near_the_truth(tmp_path):
    for settings_ in ({}, {"dtype": "float16"}, {"top_k": 4}):
        folder = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
        filled_store(folder, teachers=2, count=512, shard=512, **settings_)
        size = sum(path.stat().st_size for path in folder.rglob("part-*"))
        bound = estimate_bytes(
            utterances=512, positions=3.5, vocabulary_size=VOCABULARY, teachers=2, **settings_
        )
        assert size < bound < 2.5 * size
