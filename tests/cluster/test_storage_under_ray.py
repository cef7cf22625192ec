"""Workers, hosts and actors whose cache is another one than the driver's, as on other nodes."""

import json
import shutil
import time

import numpy as np
import pytest
import tiny
from doubles import load_fake_teachers
from safetensors.torch import load_file
from store_doubles import inference_job

from kd_ray import storage
from kd_ray.cluster.offline import run_offline
from kd_ray.cluster.parallel import run_side_by_side
from kd_ray.cluster.trainer import run_training
from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.storage import lease
from kd_ray.teachers.store import TargetStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

D = ["digest-1", "digest-2", "digest-3"]


def test_a_worker_group_distils_from_a_pool_at_an_address(far, tiny_root):
    for name in ("data", "teachers"):
        shutil.copytree(tiny_root / name, far.folder / name)
    shutil.copy(tiny_root / "teachers.txt", far.folder)
    config = tiny.distill_config(
        "far/group",
        "teachers.txt",
        **tiny.PLAIN_SGD,
        workers={"count": 2, "cpus": 0.5},
        teachers__source={
            "type": "pool", "hosts": 2, "cpus_per_host": 0.5, "batching": "per_request",
        },
    )  # fmt: skip
    summary = run_training(config, far.root)
    assert summary["updates"] == 6
    run_training(config, tiny_root)
    runs = [root / "runs/far/group" for root in (far.folder, tiny_root)]
    there, here = (load_file(run / "model/model.safetensors") for run in runs)
    for name, value in here.items():
        assert (value - there[name]).abs().max() < 1e-5, name
    kinds = [event["kind"] for event in read_json_lines(runs[0] / "events.jsonl")]
    assert kinds.count("worker_started") == 2, "events of all nodes are merged"
    assert "pool_started" in kinds
    assert not list(runs[0].rglob(".kd_ray-lease.json"))
    # The workers' cache is not this process's: checkpoints came here by the address alone.
    names = {path.name for path in (runs[0] / "checkpoints").iterdir()}
    assert names == {"update-00000003", "update-00000006"}


def test_a_task_waits_for_the_lease_that_its_first_process_left_on_another_node(far):
    age_s = lease.EXPIRE_S - 1.0
    theirs = {"token": "x", "time": time.time() - age_s, "host": "elsewhere", "process": 7}
    far.write(f"runs/a/{lease.NAME}", json.dumps(theirs))

    def work(folder):
        storage.hold(folder)
        storage.release(folder)
        return "done"

    calls = {"a": (far.root / "runs/a",)}
    assert run_side_by_side(work, calls, cpus=0.1, gpus=0, max_parallel=None) == {"a": "done"}


def test_actors_fill_a_store_at_an_address(far, tmp_path):
    (tmp_path / "here").mkdir()
    here = inference_job(tmp_path / "here")
    far.root.mkdir(parents=True)
    there = inference_job(far.root)
    storage.publish_folder(far.root)
    for job in (here, there):
        run_offline(job, actors=2, cpus_per_actor=0.5, load=load_fake_teachers)
    far.other_node()
    stores = [TargetStore.open(job.store) for job in (here, there)]
    assert not any(stores[1].missing("train", digest) for digest in D)
    ids = [name for shard in stores[0].shards("train") for name in shard.ids]
    for mine, theirs in zip(*(store.read("train", ids, D) for store in stores), strict=True):
        assert (mine.log_probs == theirs.log_probs).all()
        pairs = zip(mine.strings, theirs.strings, strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)
    assert not (far.folder / "store/_attempts").exists()
