"""The average of a run's last validated models: what it is of, what is exported, and resuming."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_runs import assert_close, in_two_processes, join_group, last_weights, run

from kd_ray.config.load import ConfigError
from kd_ray.models.checkpoint import CheckpointError, load_model, save_model
from kd_ray.storage import fetch_folder, publish_folder
from kd_ray.students import loop, session
from kd_ray.students.collective import Alone, ProcessGroup
from kd_ray.students.last_models import LastModels

OPTIONS = {"training__epochs": 3, "training__average_last": 2}


def weights(root, name, folder="model"):
    return load_file(root / "runs" / name / folder / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_exported_model_is_the_mean_of_the_last_validated_ones(tiny_root):
    summary = run(tiny.train_config("averaged", **OPTIONS), tiny_root)
    plain = run(tiny.train_config("best-alone", training__epochs=3), tiny_root)
    place = tiny_root / "runs" / "averaged"
    assert sorted(path.name for path in (place / "validated").iterdir()) == [
        "update-00000006", "update-00000009"
    ]  # fmt: skip
    assert summary["average"]["updates"] == [6, 9]
    assert summary["best_error_rate"] == plain["best_error_rate"]
    exported = weights(tiny_root, "averaged")
    parts = [weights(tiny_root, "averaged", f"validated/update-0000000{n}") for n in (6, 9)]
    for name, value in exported.items():
        expected = (parts[0][name].double() + parts[1][name].double()) / 2
        assert torch.equal(value, expected.to(value.dtype))
    assert equal(parts[1], last_weights(tiny_root, "averaged"))
    assert not equal(exported, parts[1])
    # The best single one is what a run without an average exports.
    assert equal(weights(tiny_root, "averaged", "best_model"), weights(tiny_root, "best-alone"))
    extra = json.loads((place / "model" / "config.json").read_text())["extra"]
    assert extra["average_of_updates"] == [6, 9]
    assert extra["error_rate"] == summary["average"]["error_rate"]


@pytest.mark.parametrize("killed", ["in-an-update", "after-a-validation", "before-the-summary"])
def test_a_resumed_run_exports_the_same_average(tiny_root, monkeypatch, killed):
    names = [f"{kind}-average-{killed}" for kind in ("whole", "resumed")]
    whole, resumed = (tiny.train_config(name, **OPTIONS) for name in names)
    first = run(whole, tiny_root)
    target, name = {
        "in-an-update": (loop, "take_update"),
        "after-a-validation": (loop, "validate"),
        "before-the-summary": (session, "_summary"),
    }[killed]
    original = getattr(target, name)

    def stopped(*arguments):
        if killed == "in-an-update" and arguments[2].index == 7:
            raise KeyboardInterrupt
        result = original(*arguments)
        # Validated and kept, but not in a checkpoint yet.
        if killed == "before-the-summary" or (
            killed == "after-a-validation" and arguments[2].index == 5
        ):
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(target, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        run(resumed, tiny_root)
    monkeypatch.setattr(target, name, original)
    second = run(resumed, tiny_root)
    for folder in ("model", "best_model"):
        assert equal(*(weights(tiny_root, name, folder) for name in names))
    assert first["average"] == second["average"]


def test_models_of_updates_that_are_repeated_are_dropped(tmp_path):
    last = LastModels(tmp_path, 2, lambda folder, extra: folder.mkdir())
    for update in (3, 6, 9):
        last.add(update)
    assert last.updates() == [6, 9]
    last.forget_after(6)
    assert last.updates() == [6]


def test_an_average_of_nothing_says_where_it_looked(tmp_path):
    last = LastModels(tmp_path / "validated", 3, lambda folder, extra: None)
    with pytest.raises(CheckpointError, match=r"average_last is 3, but .*validated holds no model"):
        last.average_into(torch.nn.Linear(1, 1), Alone())


class Told:
    """A worker of two, one after the other: what the first says, the second hears."""

    world = 2

    def __init__(self, rank, said):
        self.rank, self.said = rank, said

    def gather(self, values):
        self.said.update(values)
        return dict(self.said)


def test_workers_on_other_nodes_average_the_models_that_the_first_one_has(far, tiny_root):
    def last_models():
        def write(place, extra):
            found = load_model(tiny_root / "teachers/t0")
            with torch.no_grad():
                for values in found.model.parameters():
                    values.mul_(extra["update"])
            save_model(place, found.model, tokens=found.tokens, extra=extra)
            publish_folder(place)

        return LastModels(far.root / "runs" / "far" / "validated", 2, write)

    last_models().add(1)
    # A node that joined then, and has not seen what came later.
    far.other_node()
    late = last_models()
    fetch_folder(late.folder)
    assert late.updates() == [1]
    far.other_node()
    leading = last_models()
    fetch_folder(leading.folder)
    for update in (2, 3):
        leading.add(update)
    said, averages = {}, []
    for rank, each in enumerate((leading, late)):
        if rank == 1:
            far.node(1)
        model = load_model(tiny_root / "teachers/t0").model
        assert each.average_into(model, Told(rank, said)) == [2, 3]
        averages.append(model.state_dict())
    assert equal(*averages)


def test_one_model_is_no_average(tiny_root):
    with pytest.raises(ConfigError, match="average_last"):
        tiny.train_config("one", training__average_last=1)


def _worker(rank, rendezvous, root, config):
    join_group(rank, rendezvous)
    run(config, root, ProcessGroup(torch.device("cpu")))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_export_the_average_of_one(tiny_root):
    options = {**OPTIONS, **tiny.PLAIN_SGD, "data__augment": None}
    run(tiny.train_config("average-1", **options), tiny_root)
    in_two_processes(_worker, tiny_root, tiny.train_config("average-2", **options))
    assert_close(weights(tiny_root, "average-1"), weights(tiny_root, "average-2"), 1e-5)
