"""When a run ends, and that what validation decodes at a time changes nothing."""

import shutil

import pytest
import tiny
import torch
from tiny_runs import run, train_lines

from kd_ray.config.data import Batches
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.speech.batches import GlobalBatches
from kd_ray.students.collective import Alone
from kd_ray.students.session import run_session
from kd_ray.students.validation import Validation


def impatient(name, **overrides):
    """A model that learns nothing: the first epoch is the best one."""
    options = {"training__epochs": 9, "training__optimizer__lr": 1e-12, "training__patience": 2}
    return tiny.train_config(name, **(options | overrides))


def test_a_run_ends_when_it_is_out_of_patience(tiny_root):
    summary = run(impatient("impatient"), tiny_root)
    epochs = [line["epoch"] for line in train_lines(tiny_root, "impatient")]
    assert (summary["best_epoch"], max(epochs), summary["updates"]) == (1, 3, 9)
    (event,) = read_json_lines(tiny_root / "runs/impatient/events.jsonl")
    assert (event["kind"], event["epoch"], event["best_epoch"]) == ("out_of_patience", 3, 1)
    # A run that is killed before its summary is written stops where it stood.
    (tiny_root / "runs/impatient/summary.json").unlink()
    again = run(impatient("impatient"), tiny_root)
    assert again["updates"] == 9
    shutil.rmtree(tiny_root / "runs/impatient")


def test_whoever_hears_of_epochs_hears_which_one_is_the_last(tiny_root):
    config = tiny.train_config("cut", training__epochs=9, training__max_updates=4)
    heard = []
    folder = RunFolder(tiny_root, "cut").open(config)
    run_session(
        config, root=tiny_root, collective=Alone(), device=torch.device("cpu"),
        on_epoch=heard.append,
    )  # fmt: skip
    folder.close()
    # Three updates an epoch.
    assert [(each["epoch"], each["last"]) for each in heard] == [(1, False), (2, True)]


def test_without_patience_it_goes_on(tiny_root):
    config = impatient("patient", training__patience=None, training__epochs=4)
    assert run(config, tiny_root)["updates"] == 12


@pytest.mark.parametrize("max_batch_s", [None, 3.0])
def test_updates_are_counted_up_to_what_is_asked_for(max_batch_s):
    durations = [0.5 + 0.1 * row for row in range(11)]
    batches = GlobalBatches(
        [str(row) for row in range(11)],
        durations,
        Batches(batch_size=4, max_batch_s=max_batch_s),
        seed=1,
    )
    everything = sum(len(batches.batches_in_epoch(epoch)) for epoch in range(5))
    assert batches.updates_in(5) == everything
    assert batches.updates_in(5, at_most=everything + 1) == everything
    assert batches.updates_in(10**9, at_most=7) == 7


def test_validation_in_small_pieces_scores_the_same(tiny_root):
    from kd_ray.students.materials import Inventories, build_data, new_model

    config = tiny.train_config("pieces")
    inventories = Inventories.load(config, tiny_root)
    valid = build_data(config, tiny_root, inventories)["valid"]
    torch.manual_seed(1)
    model = new_model(config, inventories).eval()
    scores = []
    for limit in (None, 1.2, 0.01):
        validation = Validation(valid, 16, torch.device("cpu"), "attention", limit)
        sizes = [len(ids) for ids, _, _ in validation._batches(validation._order)]
        assert (sum(sizes), len(sizes) == 1) == (6, limit is None)
        assert limit != 0.01 or sizes == [1] * 6
        scores.append(validation.run(model, Alone()))
    assert scores[0] == scores[1] == scores[2]
