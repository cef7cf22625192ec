"""Who watches trainings: what is told of validations, whatever happens to the file of figures."""

import logging
import time

import pytest

from kd_ray.commands.watch import EpochWatcher, watching
from kd_ray.evaluation.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "r")


@pytest.fixture
def told(caplog):
    """Epochs that were logged, in order."""
    caplog.set_level(logging.INFO)

    def epochs():
        found = [r.getMessage() for r in caplog.records if " valid errors " in r.getMessage()]
        return [int(line.split("epoch")[1].split("/")[0]) for line in found]

    return epochs


def train(run, *epochs, seconds=1.0):
    """Ten updates an epoch, and a validation."""
    for epoch in epochs:
        for update in range(10 * epoch - 9, 10 * epoch + 1):
            run.metrics({"kind": "train", "update": update, "epoch": epoch, "loss": 1.0})
        run.metrics({
            "kind": "valid", "update": 10 * epoch, "epoch": epoch, "error_rate": 5.0,
            "error_rate_ctc": 5.0, "best_error_rate": 5.0, "seconds": seconds,
        })  # fmt: skip


def test_each_validation_is_told_once(run, told):
    with EpochWatcher([run], 9) as watcher:
        watcher.look()
        train(run, 1)
        watcher.look()
        train(run, 2)
        watcher.look()
        watcher.look()
        train(run, 3)
    assert told() == [1, 2, 3]


@pytest.mark.parametrize("resumed_at", [20, 15, 0])
@pytest.mark.parametrize("more", [(3,), (3, 4, 5)])
def test_a_group_that_goes_on_from_a_checkpoint_is_told_of_once(run, told, resumed_at, more):
    """Its figures are written anew, and may be shorter or longer than before at the next look."""
    with EpochWatcher([run], 9) as watcher:
        train(run, 1, 2)
        watcher.look()
        run.forget_after(resumed_at)
        if more[-1] == 3:
            watcher.look()
        train(run, *range(resumed_at // 10 + 1, more[0]), seconds=2.0)
        watcher.look()
        train(run, *more)
    assert told() == [1, 2, *more]


def test_a_command_that_goes_on_tells_only_what_it_makes(run, told):
    train(run, 1, 2, 3)
    with EpochWatcher([run], 9) as watcher:
        watcher.look()
        run.forget_after(20)
        watcher.look()
        train(run, 3, seconds=2.0)
    assert told() == [3]


def test_torn_lines_are_passed_over(run, told, caplog):
    with EpochWatcher([run], 9) as watcher:
        train(run, 1)
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "valid", "upd{"kind": "train"}\n[]\n\n{"kind": "tr')
            file.flush()
            watcher.look()
            file.write('ain", "epoch": 2}\n')
        train(run, 2)
        watcher.look()
    assert told() == [1, 2]


def test_what_cannot_be_shown_ends_nothing_that_is_watched(run, told, caplog):
    with watching(EpochWatcher([run], 9), every_s=0.01):
        run.metrics({"kind": "valid", "update": 1})
        limit = time.monotonic() + 20
        while "cannot be shown" not in caplog.text and time.monotonic() < limit:
            time.sleep(0.01)
        train(run, 1)
        while told() != [1] and time.monotonic() < limit:
            time.sleep(0.01)
    assert told() == [1]
    assert caplog.text.count("cannot be shown") == 1
