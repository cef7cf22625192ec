"""What users do to jobs: kill them, and type the same command again."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import small_demo
import tiny
import torch
from safetensors.torch import load_file
from yaml_files import finish, kd_ray, write_config

from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.teachers.store import TargetStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("kills")
    tiny.make_corpus(root)
    tiny.make_teachers(root)
    return root


def wait_for(condition, process, timeout_s=600.0):
    """Until `condition()`; fails if the process ends before."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def updates_of(root, name):
    path = root / "runs" / name / "metrics.jsonl"
    lines = read_json_lines(path) if path.exists() else []
    return [line["update"] for line in lines if line["kind"] == "train"]


def last_model(root, name):
    folder = sorted((root / "runs" / name / "checkpoints").glob("update-*"))[-1]
    return load_file(folder / "model" / "model.safetensors")


IMITATION = {
    "model": {
        "type": "speech_to_text",
        "front_end": {"num_mels": 16},
        "encoder": {**tiny.ATTENTION, "conv_channels": 8},
        "decoder": tiny.ATTENTION,
    },
    "distillation": {"preset": "imitkd_full", "rollout": {"max_length": 8}},
    "teachers__reads": "phones",
    "teachers__strategy": {"type": "average"},
    "teachers__source": {"type": "pool", "hosts": 1, "batching": "per_request"},
}
"""A translator, its experts in a pool: prefixes are its own rollouts."""


@pytest.mark.parametrize("kind", ["recogniser", "imitation"])
def test_distill_killed_and_started_again_ends_with_the_same_weights(root, kind):
    teachers = "teachers.txt"
    options = {"training__epochs": 30, "training__checkpoint_every_updates": 2}
    if kind == "imitation":
        teachers = tiny.make_experts(root)
        options |= IMITATION
    configs = {
        name: write_config(root / f"{name}.yaml", tiny.distill_config(name, teachers, **options))
        for name in (f"whole-{kind}", f"killed-{kind}")
    }
    whole, cut = configs
    finish(kd_ray("distill", configs[whole], root=root))
    killed = kd_ray("distill", configs[cut], root=root)
    wait_for(lambda: len(updates_of(root, cut)) >= 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert RunFolder(root, cut).summary() is None
    finish(kd_ray("distill", configs[cut], root=root))
    assert updates_of(root, cut) == updates_of(root, whole) == list(range(1, 91))
    events = read_json_lines(root / "runs" / cut / "events.jsonl")
    assert [event["kind"] for event in events if event["kind"] == "resumed"] == ["resumed"]
    first, second = last_model(root, whole), last_model(root, cut)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if kind == "imitation":
        assert figures_of(root, cut) == figures_of(root, whole)


def figures_of(root, name):
    """beta and what rollouts looked like, update by update."""
    lines = read_json_lines(root / "runs" / name / "metrics.jsonl")
    wanted = ("beta", "replaced_share", "rollout_length_ratio", "loss", "grad_norm")
    return [[line.get(key) for key in wanted] for line in lines if line["kind"] == "train"]


def descendants(pid):
    """Processes below `pid`, by /proc."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]


def test_infer_teachers_killed_half_way_repeats_no_committed_shard(root):
    settings = {
        "command": "infer-teachers",
        "teachers": "teachers.txt",
        "splits": {"train": "data/train.parquet"},
        "tokens": "data/tokens.json",
        "shard_utterances": 1,
        "batch_size": 1,
    }
    config = write_config(root / "store.yaml", settings | {"store": "store"})
    reference = write_config(root / "reference.yaml", settings | {"store": "reference"})
    store = root / "store"

    def committed():
        return {path: path.stat() for path in store.rglob("part-*.parquet")}

    process = kd_ray("infer-teachers", config, root=root)
    wait_for(lambda: len(committed()) >= 6, process)
    below = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    before = committed()
    if len(before) == 72:
        pytest.fail("the kill came too late: everything was committed")
    # Ray's agents look for their raylet only now and then.
    until = time.monotonic() + 240
    while any(alive(pid) for pid in below) and time.monotonic() < until:
        time.sleep(0.5)
    assert not [command_of(pid) for pid in below if alive(pid)], "processes stayed behind"
    before = committed()
    finish(kd_ray("infer-teachers", config, root=root))
    after = committed()
    assert len(after) == 72
    for path, stat in before.items():
        assert (after[path].st_ino, after[path].st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    finish(kd_ray("infer-teachers", reference, root=root))
    assert rows_of(store) == rows_of(root / "reference")
    # A further teacher is appended; nothing that is there is made again.
    teachers = root / "teachers.txt"
    teachers.write_text(teachers.read_text().replace("teachers/t2\n", "teachers/t2\nteachers/t3\n"))
    torch.manual_seed(9)
    tiny.make_teachers(root, 4)
    finish(kd_ray("infer-teachers", config, root=root))
    final = committed()
    assert len(final) == 96
    assert all(final[path].st_mtime_ns == stat.st_mtime_ns for path, stat in after.items())
    tiny.make_teachers(root, 3)


def rows_of(folder):
    store = TargetStore.open(folder)
    ids = [f"train-{number}" for number in range(24)]
    rows = []
    for output in store.read("train", ids, store.index.digests):
        strings = [string.tolist() for string in output.strings]
        valid = [output.log_probs[row, :end].tolist() for row, end in enumerate(output.positions)]
        rows.append((strings, valid, output.ctc_errors.tolist(), output.decoder_errors.tolist()))
    return rows


def test_the_recipe_runs_from_nothing_and_repeats_its_table(root, tmp_path):
    """Everything that `make demo` does, at the smallest size that trains."""
    demo = tmp_path / "demo"
    demo.mkdir()
    for name, content in small_demo.recognition().items():
        write_config(demo / f"{name}.yaml", content)

    def step(*names, parallel=1):
        tasks = [{"config": str(demo / f"{name}.yaml")} for name in names]
        return {"title": " ".join(names), "parallel": parallel, "tasks": tasks}

    recipe = {
        "command": "recipe",
        "name": "d",
        "steps": [
            step("corpus"),
            step("teachers"),
            step("store"),
            step("none", "pooled", "weighted", parallel=2),
            step("evaluate"),
            step("report"),
        ],
    }
    path = write_config(demo / "recipe.yaml", recipe)
    output = finish(kd_ray("recipe", path, root=demo), 400)
    table = json.loads((demo / "runs" / "d" / "table.json").read_text())
    labels = [row["label"] for row in table]
    assert {"a", "b", "none", "weighted"} <= set(labels)
    assert "weighted" in output
    # A pool started by a task that runs beside another one.
    pooled_summary = RunFolder(demo, "d/pooled").summary()
    assert pooled_summary["source"] == "pool"
    assert pooled_summary["signal"]["missing_teacher_answers"] == 0
    page = (demo / "runs" / "d" / "report.html").read_text()
    assert "<svg" in page
    assert "https://" not in page.replace("http://www.w3.org", "")
    hypotheses = demo / "runs" / "d" / "evaluation" / "hypotheses" / "test"
    assert sorted(path.stem for path in hypotheses.iterdir()) == ["a", "b", "none", "weighted"]
    again = finish(kd_ray("recipe", path, root=demo), 400)
    assert "is finished already" in again
    assert json.loads((demo / "runs" / "d" / "table.json").read_text()) == table
    # From nothing once more: the same seed gives the same table, timings apart.
    other = tmp_path / "other"
    other.mkdir()
    finish(kd_ray("recipe", path, root=other), 400)
    repeated = json.loads((other / "runs" / "d" / "table.json").read_text())
    for row in [*table, *repeated]:
        row.pop("real_time_factor")
    assert repeated == table
