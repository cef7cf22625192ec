"""ASHA over trials that are known by their folders; Tune itself is not started."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler
from search_help import grid_of, opened, put, search_config, write_base

from kd_ray.cluster.search.book import Proposed
from kd_ray.cluster.search.early_stopping import scheduler_of
from kd_ray.cluster.search.space import longest_epochs

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE

ASHA = {"type": "asha", "grace_epochs": 1, "reduction_factor": 2}


@pytest.fixture
def root(tmp_path):
    write_base(tmp_path)
    return tmp_path


def as_tune_has_it(proposed, epochs=4):
    return SimpleNamespace(config={"key": proposed.key, "epochs": epochs}, trial_id="changes")


def told(scheduler, proposed, epoch, error, *, epochs=4, last=False):
    result = {"epoch": epoch, "error_rate": error, "last": last}
    return scheduler.on_trial_result(None, as_tune_has_it(proposed, epochs), result)


def test_a_trial_behind_the_others_is_stopped_and_its_folder_says_so(root):
    config = search_config(scheduler=ASHA)
    book, base = opened(config, root)
    scheduler = scheduler_of(config, book, 4)
    good, bad, _, _ = grid_of(config)
    for proposed in (good, bad):
        book.begin(proposed, base)
        scheduler.on_trial_add(None, as_tune_has_it(proposed))
    assert told(scheduler, good, 1, 50.0) == CONTINUE
    assert told(scheduler, bad, 1, 60.0) == STOP
    trial = book.trial(bad.key)
    assert trial.state == "stopped"
    assert trial.reason.startswith("stopped early at epoch 1: error 60.00 %")
    scheduler.on_trial_complete(None, as_tune_has_it(bad), {})
    scheduler.on_trial_remove(None, as_tune_has_it(bad))


def test_scores_of_an_earlier_run_of_the_search_count(root):
    config = search_config(scheduler=ASHA)
    book, base = opened(config, root)
    good, bad, same, _ = grid_of(config)
    put(book, base, good, [50, 40, 30, 20])
    scheduler = scheduler_of(config, book, 4)
    for proposed in (bad, same):
        book.begin(proposed, base)
        scheduler.on_trial_add(None, as_tune_has_it(proposed))
    assert told(scheduler, bad, 1, 60.0) == STOP
    assert told(scheduler, same, 1, 50.0) == CONTINUE


def test_a_trial_that_goes_on_is_not_compared_with_itself(root):
    config = search_config(scheduler=ASHA)
    book, base = opened(config, root)
    [proposed, *_] = grid_of(config)
    put(book, base, proposed, [50, 40], state="unfinished")
    scheduler = scheduler_of(config, book, 4)
    scheduler.on_trial_add(None, as_tune_has_it(proposed))
    # Worse than it was itself at this step, which is all there is to compare with.
    assert told(scheduler, proposed, 2, 45.0) == CONTINUE
    assert told(scheduler, proposed, 3, 60.0) == CONTINUE


def test_nothing_is_stopped_at_its_last_epoch(root):
    """The trial would lack the summary that makes it a finished one."""
    config = search_config(scheduler=ASHA)
    book, base = opened(config, root)
    good, bad, _, _ = grid_of(config)
    put(book, base, good, [50, 40, 30, 20])
    scheduler = scheduler_of(config, book, 4)
    book.begin(bad, base)
    scheduler.on_trial_add(None, as_tune_has_it(bad))
    assert told(scheduler, bad, 4, 99.0) == CONTINUE


def test_without_early_stopping_every_trial_goes_on(root):
    config = search_config()
    scheduler = scheduler_of(config, opened(config, root)[0], 4)
    assert scheduler.on_trial_result(None, None, {"error_rate": 100.0}) == CONTINUE


def test_a_trial_that_is_longer_than_the_base_is_looked_at_to_its_end(root):
    space = {"training.epochs": {"type": "choice", "values": [4, 64]}}
    config = search_config(space=space, scheduler=ASHA)
    book, base = opened(config, root)
    scheduler = scheduler_of(config, book, longest_epochs(config, base))
    good, bad = (Proposed(number, {"training.epochs": 64}, number) for number in (1, 2))
    for proposed in (good, bad):
        book.begin(proposed, base)
        scheduler.on_trial_add(None, as_tune_has_it(proposed, epochs=64))
    for epoch in (1, 2, 4, 8, 16):
        assert told(scheduler, good, epoch, 50.0, epochs=64) == CONTINUE
        if epoch < 16:
            assert told(scheduler, bad, epoch, 50.0, epochs=64) == CONTINUE
    assert told(scheduler, bad, 16, 60.0, epochs=64) == STOP


def test_nothing_is_stopped_at_its_last_update(root):
    """A training that ends by `training.max_updates` is at its end before its last epoch."""
    config = search_config(scheduler=ASHA)
    book, base = opened(config, root)
    good, bad, other, _ = grid_of(config)
    put(book, base, good, [50, 40])
    scheduler = scheduler_of(config, book, 4)
    for proposed in (bad, other):
        book.begin(proposed, base)
        scheduler.on_trial_add(None, as_tune_has_it(proposed))
    assert told(scheduler, other, 2, 60.0) == CONTINUE
    assert told(scheduler, bad, 2, 99.0, last=True) == CONTINUE
    assert book.trial(bad.key).state == "unfinished"
