import dataclasses
import errno
import os
import time

import numpy as np
import pytest
import soundfile
from doubles import FakeTeacher, load_fake_teachers
from store_doubles import inference_job, stored_files

from kd_ray.core.contracts import Labels
from kd_ray.speech.audio import AudioError, read_waveform
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.manifest import read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers import readers
from kd_ray.teachers.inference import InferenceJob, ShardScorer
from kd_ray.teachers.store import StoreError, TargetStore

D = ["digest-1", "digest-2", "digest-3"]


class Loader:
    """Counts which groups were loaded."""

    def __init__(self):
        self.loaded = []

    def __call__(self, folders, device):
        self.loaded.append([folder.name for folder in folders])
        return load_fake_teachers(folders, device)


def run_all(job: InferenceJob, load=load_fake_teachers, group=tuple(D)):
    scorer = ShardScorer(job, load)
    store = TargetStore.open(job.store)
    return [
        record
        for shard in store.shards("train")
        for record in scorer.run("train", shard.index, group, group)
    ]


def test_stored_rows_are_what_each_teacher_says_to_each_utterance_alone(tmp_path):
    job = inference_job(tmp_path)
    run_all(job)
    store = TargetStore.open(job.store)
    tokens = Tokens.load(job.tokens)
    for number, digest in enumerate(D):
        teacher = FakeTeacher(number + 1, num_mels=8 + (number + 1) % 2)
        extract = LogMelExtractor(teacher.front_end)
        for row in read_manifest(job.manifests["train"]):
            features, lengths = extract([read_waveform(row, job.root)])
            references = Labels.of([tokens.encode(row.phones)])
            wanted = frozenset({"tokens", "labels"})
            theirs = teacher.score(features, lengths, references, references, wanted)
            (mine,) = store.read("train", [row.id], [digest])
            np.testing.assert_allclose(mine.log_probs, theirs.log_probs, atol=1e-4)
            np.testing.assert_array_equal(mine.strings[0], theirs.strings[0])
            for name in ("frames", "positions", "ctc_errors", "decoder_errors"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


def test_features_are_made_once_for_each_front_end(tmp_path, monkeypatch):
    made = []

    class Counting(LogMelExtractor):
        def __call__(self, waveforms):
            made.append(self.config.num_mels)
            return super().__call__(waveforms)

    monkeypatch.setattr(readers, "LogMelExtractor", Counting)
    job = inference_job(tmp_path, count=5, shard=5)
    run_all(job)
    # Teachers 1 and 3 hear 9 mels, teacher 2 hears 8; two batches of at most 3 utterances.
    assert sorted(made) == [8, 8, 9, 9]


def test_a_group_is_loaded_once_and_only_when_needed(tmp_path):
    job = inference_job(tmp_path)
    first = Loader()
    records = run_all(job, first)
    assert first.loaded == [["1", "2", "3"]]
    assert sum(record.rows for record in records) == 30
    again = Loader()
    assert all(record.seconds == 0 for record in run_all(job, again))
    assert again.loaded == []


def test_an_interrupted_shard_is_repeated_only_for_teachers_that_lack_it(tmp_path, monkeypatch):
    job = inference_job(tmp_path)
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_all(job)
    before = stored_files(job)
    assert len(before) == 4
    time.sleep(0.01)
    records = run_all(job)
    assert [record.seconds > 0 for record in records] == [False] * 4 + [True] * 5
    after = stored_files(job)
    assert {name: after[name] for name in before} == before

    (tmp_path / "other").mkdir()
    whole = inference_job(tmp_path / "other")
    run_all(whole)
    assert [data for *_, data in after.values()] == [
        data for *_, data in stored_files(whole).values()
    ]


def test_a_teacher_that_answers_nan_is_named_and_others_keep_their_rows(tmp_path):
    job = inference_job(tmp_path, seeds=("1", "2-nan"))
    with pytest.raises(StoreError, match=r"teacher fake-2 .*split 'train', shard 0: .*NaN"):
        run_all(job, group=("digest-1", "digest-2"))
    assert list(stored_files(job)) == ["split=train/teacher=digest-1/part-00000.parquet"]


def test_a_checkpoint_that_changed_since_planning_is_refused(tmp_path):
    job = inference_job(tmp_path)
    swapped = {**job.folders, "digest-1": job.folders["digest-2"]}
    with pytest.raises(StoreError, match=r"fake-2 .*digest-2, .*planned with digest-1"):
        run_all(dataclasses.replace(job, folders=swapped))


def test_another_token_file_is_refused(tmp_path):
    job = inference_job(tmp_path)
    Tokens.train(["a b x"], "phones").save(job.tokens)
    with pytest.raises(StoreError, match=r"tokens\.json has token digest"):
        ShardScorer(job, load_fake_teachers)


def test_a_manifest_that_changed_since_planning_is_refused(tmp_path):
    job = inference_job(tmp_path)
    rows = read_manifest(job.manifests["train"])
    write_manifest(job.manifests["train"], [dataclasses.replace(rows[0], phones="d"), *rows[1:]])
    with pytest.raises(StoreError, match=r"\(u0\) changed"):
        run_all(job)


def test_unreadable_audio_is_named(tmp_path):
    job = inference_job(tmp_path)
    soundfile.write(tmp_path / "audio" / "u2.wav", np.zeros(0, np.int16), 16000)
    with pytest.raises(AudioError, match="u2"):
        run_all(job)


def test_a_full_disk_names_the_path(tmp_path, monkeypatch):
    job = inference_job(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match=r"cannot write .*part-00000\.parquet.*No space left"):
        run_all(job)
    assert stored_files(job) == {}
