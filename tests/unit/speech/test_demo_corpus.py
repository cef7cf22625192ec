import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kd_ray.config.data import DemoCorpus
from kd_ray.speech.corpora.demo import DemoCorpusError, build_demo_corpus, worker
from kd_ray.speech.corpora.demo import corpus as corpus_module
from kd_ray.speech.corpora.demo.corpus import draw_lines, make_jobs
from kd_ray.speech.corpora.demo.rendering import Job, dry_speech, render
from kd_ray.speech.corpora.demo.speakers import cast
from kd_ray.speech.manifest import read_manifest

pytest.importorskip("espeakng_loader")

TINY = DemoCorpus(
    train_utterances=12,
    valid_utterances=3,
    test_utterances=3,
    unlabelled_utterances=2,
    text_only_sentences=5,
    train_speakers=4,
    valid_speakers=2,
    test_speakers=2,
    unlabelled_speakers=1,
    max_words=5,
)


def build(root, config=TINY, progress=lambda done, total: None):
    return build_demo_corpus(config, root / "data" / "demo", root, progress)


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    root = tmp_path_factory.mktemp("demo")
    return root, build(root)


def test_the_same_configuration_gives_the_same_bytes(built, tmp_path, monkeypatch):
    root, _ = built
    seen = []
    # Two processes here, one there: who renders what must not matter.
    monkeypatch.setattr(worker, "_JOBS_PER_PROCESS", 10)
    monkeypatch.setattr(worker, "_cores", lambda: 2)
    build(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path) == contents(root)
    assert seen == [(done, 20) for done in range(21)]


def test_manifests_have_what_each_split_promises(built):
    root, manifests = built
    rows = {split: read_manifest(path) for split, path in manifests.items()}
    sizes = {"train": 12, "valid": 3, "test": 3, "unlabelled": 2, "text_only": 5}
    assert {split: len(found) for split, found in rows.items()} == sizes
    for split, found in rows.items():
        for row in found:
            assert (row.source_language, row.target_language) == ("en", "de")
            is_labelled = split != "unlabelled"
            assert (row.transcript is not None) == (row.translation is not None) == is_labelled
            assert (row.phones is not None) == (split in ("train", "valid", "test"))
            if split == "text_only":
                assert row.audio is None
                continue
            samples, rate = soundfile.read(root / row.audio, dtype="int16")
            assert rate == 16_000
            assert samples.ndim == 1
            assert row.duration_s == len(samples) / 16_000
            assert np.max(np.abs(samples)) > 100
            assert not Path(row.audio).is_absolute()


def test_sentences_and_speakers_are_disjoint(built):
    _, manifests = built
    rows = {split: read_manifest(path) for split, path in manifests.items()}
    sentences = Counter(
        row.transcript for found in rows.values() for row in found if row.transcript
    )
    assert max(sentences.values()) == 1
    speakers = [{row.speaker for row in found if row.speaker} for found in rows.values()]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 4 + 2 + 2 + 1


def test_training_shows_every_phone_and_character(built):
    _, manifests = built
    rows = {split: read_manifest(path) for split, path in manifests.items()}
    phones = {phone for row in rows["train"] for phone in row.phones.split()}
    letters = {letter for row in rows["train"] for letter in row.translation}
    assert len(phones) > 35
    for row in rows["valid"] + rows["test"]:
        assert set(row.phones.split()) <= phones
        assert set(row.translation) <= letters


def test_a_finished_corpus_is_found_and_not_planned_again(built, monkeypatch):
    root, manifests = built
    monkeypatch.setattr(corpus_module, "draw_lines", None)
    assert build(root) == manifests


def test_an_interrupted_build_continues(built, tmp_path):
    root, _ = built

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, progress=stop)
    early = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    assert len(early) >= 4
    leftover = tmp_path / "data" / "demo" / "audio" / "train" / ".train-00003.flac.1.tmp"
    leftover.write_bytes(b"cut off by a kill")
    build(tmp_path)
    late = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    assert all(late[path] == changed for path, changed in early.items())
    assert contents(tmp_path) == contents(root)


def test_another_corpus_in_the_folder_is_refused(built):
    root, _ = built
    with pytest.raises(DemoCorpusError, match="other settings"):
        build(root, TINY.model_copy(update={"seed": 2}))


def test_an_utterance_depends_on_its_job_alone(built):
    root, manifests = built
    jobs = make_jobs(TINY, draw_lines(TINY))
    talkers = [
        dry_speech(job.text, job.voice, seed=job.seed) for job in corpus_module.babble_jobs(TINY)
    ]
    for row in read_manifest(manifests["test"])[::-1]:
        job = Job.from_dict(json.loads(json.dumps(jobs[row.id].to_dict())))
        samples, _ = soundfile.read(root / row.audio, dtype="int16")
        assert np.array_equal(render(job, talkers), samples)


def test_difficulty_changes_neither_sentences_nor_voices():
    clean = TINY.model_copy(update={"snr_db": (30.0, 30.0), "reverberation": 0.0})
    lines = draw_lines(TINY)
    assert draw_lines(clean) == lines
    noisy_jobs, clean_jobs = make_jobs(TINY, lines), make_jobs(clean, lines)
    for name, job in noisy_jobs.items():
        other = clean_jobs[name]
        assert (job.voice, job.seed, job.level_db) == (other.voice, other.seed, other.level_db)
        assert (other.snr_db, other.rt60_s) == (30.0, None)
        assert TINY.snr_db[0] <= job.snr_db <= TINY.snr_db[1]


def test_more_training_data_leaves_the_test_split_alone():
    more = TINY.model_copy(update={"train_utterances": 40, "train_speakers": 9})
    assert cast(more)["test"] == cast(TINY)["test"]


def test_voices_are_not_shared_between_splits():
    speakers = cast(DemoCorpus())
    variants = [voice.voice.variant for split in speakers.values() for voice in split]
    assert len(variants) == 40 + 8 + 12 + 10 + 6
    assert len(set(variants)) == len(variants)


def test_too_little_training_for_the_alphabet_is_an_error(monkeypatch):
    monkeypatch.setattr(corpus_module, "_PATIENCE", 20)
    config = TINY.model_copy(update={"train_utterances": 1})
    with pytest.raises(DemoCorpusError, match="raise train_utterances"):
        draw_lines(config)


def test_accents_can_be_chosen():
    speakers = cast(DemoCorpus(accents=("en-us", "en")))
    accents = Counter(speaker.voice.accent for speaker in speakers["train"])
    assert set(accents) == {"en-us", "en"}


def test_settings_that_are_not_made_use_of_leave_older_corpora_valid():
    digest = corpus_module.corpus_digest
    assert digest(TINY) == digest(TINY.model_copy(update={"vocabulary": None, "accents": None}))
    assert digest(TINY) != digest(TINY.model_copy(update={"vocabulary": 200}))
