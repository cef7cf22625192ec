"""Updates that fail: what is kept, what is told, and that the same command goes on."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from kd_ray.commands.replay import replay
from kd_ray.config.commands import ReplayConfig
from kd_ray.config.load import load
from kd_ray.core.contracts import TeachersGone
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError, read_json_lines
from kd_ray.models.checkpoint import read_config
from kd_ray.speech.manifest import manifest_digest, read_manifest, write_manifest
from kd_ray.students import loop
from kd_ray.students.collective import Alone
from kd_ray.students.replay import KEEP, ReplayError, replay_update
from kd_ray.students.session import run_session
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers


def run(config, root, source=None):
    RunFolder(root, config.name).open(config)
    return run_session(
        config, root=root, collective=Alone(), device=torch.device("cpu"), source=source
    )


@pytest.fixture
def source(tiny_root):
    source = LocalSource(load_teachers([tiny_root / "teachers" / f"t{n}" for n in range(3)]))
    yield source
    source.close()


def events(root, name):
    return read_json_lines(root / "runs" / name / "events.jsonl")


def failed_updates(root, name):
    return sorted((root / "runs" / name / "failed_updates").iterdir())


@pytest.mark.parametrize("kind", ["train", "distill"])
def test_a_replayed_update_gives_the_loss_and_gradient_of_the_run(
    tiny_root, monkeypatch, source, kind
):
    name = f"dumped-{kind}"
    options = {"training__max_skipped_updates": 1, "training__accumulation": 2}
    config = (
        tiny.train_config(name, **options)
        if kind == "train"
        else tiny.distill_config(name, "teachers.txt", **options)
    )
    # Every update counts as failed, though its figures are finite: they can be compared.
    monkeypatch.setattr(loop.math, "isfinite", lambda value: False)
    with pytest.raises(loop.TrainingStopped, match="2 updates in a row"):
        run(config, tiny_root, source if kind == "distill" else None)
    monkeypatch.undo()
    for folder in failed_updates(tiny_root, name):
        result = replay_update(folder)
        assert result.loss == result.recorded_loss
        assert result.grad_norm == pytest.approx(result.recorded_grad_norm, rel=1e-6)
        assert len(result.utterances) == 8
        assert not result.bad_utterances
        assert not result.bad_gradients


@pytest.fixture(scope="module")
def diverged(tiny_root):
    """The name of a run whose updates 2 and 3 were not finite."""
    name = "diverged"
    config = tiny.train_config(
        name, training__max_skipped_updates=1, training__optimizer={"type": "adam", "lr": 1e36},
        training__schedule={"type": "constant"},
    )  # fmt: skip
    with pytest.raises(loop.TrainingStopped, match=r"kd-ray replay .*replay\.yaml"):
        run(config, tiny_root)
    return name


def test_updates_that_are_not_finite_are_kept_and_then_stop_the_run(tiny_root, diverged):
    told = [event for event in events(tiny_root, diverged) if event["kind"] == "skipped_update"]
    assert [event["update"] for event in told] == [2, 3]
    assert len(told[0]["utterance_ids"]) == 8
    section = load(failed_updates(tiny_root, diverged)[0] / "replay.yaml", {})
    assert isinstance(section, ReplayConfig)
    result = replay(section, tiny_root)
    assert result.update == 2
    assert not math.isfinite(result.loss)
    assert set(result.bad_utterances) <= set(told[0]["utterance_ids"])
    assert result.bad_utterances
    assert result.bad_gradients


def test_features_that_are_not_finite_are_named(tiny_root, diverged):
    folder = failed_updates(tiny_root, diverged)[1]
    path = folder / "rank-0" / "batches.safetensors"
    arrays = load_file(path)
    arrays["0.inputs"][3, 5, 2] = float("nan")
    save_file(arrays, path)
    ids = [event["utterance_ids"] for event in events(tiny_root, diverged)][1]
    assert replay_update(folder).bad_features == (ids[3],)


def test_only_the_latest_failed_updates_are_kept(tiny_root, monkeypatch):
    config = tiny.train_config("many", training__epochs=4, training__max_skipped_updates=20)
    monkeypatch.setattr(loop.math, "isfinite", lambda value: False)
    run(config, tiny_root)
    kept = [folder.name for folder in failed_updates(tiny_root, "many")]
    assert kept == [f"update-{number:08d}" for number in range(12 - KEEP + 1, 13)]


def test_a_folder_without_a_failed_update_is_refused(tmp_path):
    with pytest.raises(ReplayError, match="no failed update"):
        replay_update(tmp_path)


class GoneAfter:
    """A source whose teachers are gone after some requests."""

    def __init__(self, source, requests, error=None):
        self.source, self.left = source, requests
        self.gone = Gone(error or TeachersGone("1 of 3 teachers answered, 2 are needed: t1 (lost)"))

    def ask(self, request):
        self.left -= 1
        return self.gone if self.left < 0 else self.source.ask(request)

    def describe(self):
        return self.source.describe()

    def close(self):
        pass


class Gone:
    def __init__(self, error):
        self.error = error

    def result(self, timeout_s):
        raise self.error

    def cancel(self):
        pass


def test_without_a_quorum_the_run_stops_with_a_checkpoint_and_goes_on_from_it(tiny_root, source):
    whole = tiny.distill_config("quorum-whole", "teachers.txt")
    run(whole, tiny_root, source)
    config = tiny.distill_config("quorum-lost", "teachers.txt")
    with pytest.raises(TeachersGone, match=r"t1 \(lost\)\nStopped before update 6.*checkpoint"):
        run(config, tiny_root, GoneAfter(source, 5))
    checkpoints = tiny_root / "runs" / "quorum-lost" / "checkpoints"
    assert "update-00000005" in [path.name for path in checkpoints.iterdir()]
    run(config, tiny_root, source)
    resumed = [event for event in events(tiny_root, "quorum-lost") if event["kind"] == "resumed"]
    assert [event["update"] for event in resumed] == [5]
    first, second = (
        load_file(tiny_root / "runs" / name / "model" / "model.safetensors")
        for name in ("quorum-whole", "quorum-lost")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_says_what_it_was_made_of(tiny_root, source):
    extra = read_config(tiny_root / "runs" / "quorum-whole" / "model")["extra"]
    assert extra["training_data"] == manifest_digest(tiny_root / "data" / "train.parquet")
    assert extra["teachers"] == [each.digest for each in source.describe().teachers]


def test_a_signal_that_is_too_late_stops_the_run_with_a_checkpoint(tiny_root, source):
    config = tiny.distill_config("late", "teachers.txt")
    late = TimeoutError("no answer after 210 s")
    with pytest.raises(TeachersGone, match=r"after 210 s\nStopped before update 3.*checkpoint"):
        run(config, tiny_root, GoneAfter(source, 2, late))
    assert (tiny_root / "runs/late/checkpoints/update-00000002/state.json").exists()


@pytest.mark.parametrize("what", ["training_data", "teachers"])
def test_a_run_does_not_go_on_with_other_data_or_teachers(tiny_root, monkeypatch, source, what):
    name = f"changed-{what}"
    config = tiny.distill_config(name, "teachers.txt", data__train=f"data/{name}.parquet")
    manifest = tiny_root / config.data.train
    rows = read_manifest(tiny_root / "data" / "train.parquet")
    write_manifest(manifest, rows)
    with pytest.raises(TeachersGone):
        run(config, tiny_root, GoneAfter(source, 2))
    if what == "teachers":
        two = LocalSource(load_teachers([tiny_root / "teachers" / f"t{n}" for n in range(2)]))
        with pytest.raises(RunFolderError, match=r"teachers: digest \["):
            run(config, tiny_root, two)
        two.close()
    else:
        write_manifest(manifest, [replace(rows[0], speaker="somebody else"), *rows[1:]])
        with pytest.raises(RunFolderError, match=r"training manifest \(data\.train\): digest"):
            run(config, tiny_root, source)
    write_manifest(manifest, rows)
    run(config, tiny_root, source)
