"""Which checkpoint the workers of a group go on from."""

from types import SimpleNamespace

import pytest

from kd_ray.models.checkpoint import CheckpointError
from kd_ray.students import saving
from kd_ray.students.checkpoints import TrainingCheckpoints
from kd_ray.students.saving import Saver


def saver(folder, rank, chosen):
    """Of one worker of two; `chosen`: what rank 0 says."""

    def gather(values):
        assert (values == {}) == (rank != 0)
        return {"name": chosen} if rank else values

    collective = SimpleNamespace(rank=rank, world=2, gather=gather)
    checkpoints = TrainingCheckpoints(folder, 2)
    return Saver(None, checkpoints, None, None, None, None, collective, None, {}, averages=False)


def checkpoint(folder, update):
    path = folder / f"update-{update:08d}"
    path.mkdir(parents=True)
    (path / "state.json").write_text("{}")
    return path


def test_every_worker_goes_on_from_the_checkpoint_of_rank_0(tmp_path):
    older, newer = checkpoint(tmp_path, 80), checkpoint(tmp_path, 100)
    assert saver(tmp_path, 0, None)._agreed() == newer
    assert saver(tmp_path, 1, older.name)._agreed() == older
    # Rank 0 sees none: it begins, so all do.
    assert saver(tmp_path, 1, None)._agreed() is None


def test_a_checkpoint_that_a_node_does_not_see_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_SEEN_S", 0.0)
    checkpoint(tmp_path, 80)
    with pytest.raises(CheckpointError, match=r"update-00000100, which is not on this node"):
        saver(tmp_path, 1, "update-00000100")._agreed()
