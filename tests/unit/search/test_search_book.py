"""What becomes of trials, and which are next after any end of a search."""

import json

import pytest
from search_help import grid_of, opened, put, search_config, write_base

from kd_ray.cluster.search.book import Proposed
from kd_ray.cluster.search.proposals import proposals_of
from kd_ray.config.load import load
from kd_ray.evaluation.run_folder import RunFolderError


@pytest.fixture
def root(tmp_path):
    write_base(tmp_path)
    return tmp_path


def drained(proposals):
    found = []
    while (proposed := proposals.next()) is not None:
        found.append(proposed)
    return found


def test_the_first_seed_of_all_settings_comes_before_the_second_of_any(root):
    config = search_config(seeds=[5, 3])
    proposals = proposals_of(config, [])
    assert proposals.left == 8
    found = drained(proposals)
    assert [(each.number, each.seed) for each in found] == [
        *((number, 5) for number in (1, 2, 3, 4)),
        *((number, 3) for number in (1, 2, 3, 4)),
    ]
    assert proposals.left == 0


def test_a_search_that_goes_on_repeats_nothing_that_is_at_its_end(root):
    config = search_config(seeds=[1, 2])
    book, base = opened(config, root)
    trials = grid_of(config)
    put(book, base, trials[0], [50, 40, 30, 20])
    put(book, base, trials[1], [60, 55], state="stopped")
    put(book, base, trials[2], [60], state="failed")
    put(book, base, trials[3], [60, 50], state="unfinished")
    found = drained(proposals_of(config, book.trials()))
    # The interrupted one first, new ones, and at last once more what failed.
    assert found == [trials[3], *trials[4:], trials[2]]


def test_settings_keep_their_numbers_when_the_search_grows(root):
    config = search_config(algorithm={"type": "random", "samples": 2})
    book, base = opened(config, root)
    first = drained(proposals_of(config, []))
    put(book, base, first[1], [50])
    grown = search_config(algorithm={"type": "random", "samples": 4})
    book.open(grown, base)
    found = drained(proposals_of(grown, book.trials()))
    assert found[0].setting == first[0].setting
    numbers = [each.number for each in found]
    assert 2 not in numbers
    assert len(set(numbers)) == 3


def test_another_base_or_space_in_the_same_folder_is_refused(root):
    config = search_config()
    book, base = opened(config, root)
    space = {"distillation.alpha": {"type": "choice", "values": [0.1]}}
    with pytest.raises(RunFolderError, match=r"config\.space"):
        book.open(search_config(space=space), base)
    write_base(root, training={"epochs": 9})
    with pytest.raises(RunFolderError, match=r"base\.training\.epochs: 4 before, 9 now"):
        opened(config, root)
    write_base(root)
    opened(search_config(seeds=[1, 2, 3], concurrent=2, fail_fast=True), root)


@pytest.mark.parametrize(("before", "after"), [(None, {"hosts": 1}), ({"hosts": 1}, None)])
def test_a_search_with_and_without_a_pool_of_its_own_are_two(root, before, after):
    config = search_config(pool=before)
    book, base = opened(config, root)
    begun, *_ = grid_of(config)
    put(book, base, begun, [50], state="unfinished")
    with pytest.raises(RunFolderError, match=r"teachers elsewhere; .* the section pool"):
        opened(search_config(pool=after), root)
    if before is not None:
        larger = search_config(pool={"hosts": 1, "cache_mib": 8})
        book, base = opened(larger, root)
        assert book.begin(begun, base) is not None
        assert book.trial(begun.key).state == "unfinished"


def test_a_search_of_an_older_version_goes_on(root):
    config = search_config()
    book, _ = opened(config, root)
    for name, key in (("config", "fail_fast"), ("base", "workers")):
        path = book.path / f"{name}.json"
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
    # Keys that it did not know have their defaults.
    opened(config, root)
    assert "workers" in json.loads((book.path / "base.json").read_text())
    write_base(root, workers={"cpus": 2})
    with pytest.raises(RunFolderError, match=r"base\.workers\.cpus: 1.0 before, 2.0 now"):
        opened(config, root)


def test_a_trial_s_folder_says_how_to_train_it_alone(root):
    config = search_config("a", pool={"hosts": 1})
    book, base = opened(config, root)
    proposed = grid_of(config)[0]
    content = book.begin(proposed, base)
    folder = root / "runs" / "a" / "trials" / proposed.key
    assert (folder / "config.json").read_text() == content
    trial = book.trial(proposed.key)
    assert (trial.state, trial.number, trial.seed) == ("unfinished", 1, 1)
    name = f"a/trials/{proposed.key}"
    assert trial.repeat == (
        f"kd-ray distill runs/{name}/config.json name={name}-repeat "
        'teachers.source=\'{"type":"local"}\''
    )
    overrides = ["name=x", "teachers.source={type: local}"]
    alone = load(folder / "config.json", overrides)
    assert alone.teachers.source.type == "local"
    assert alone.distillation.alpha == proposed.setting["distillation.alpha"]


def test_a_setting_that_does_not_fit_is_a_failed_trial(root):
    config = search_config()
    book, base = opened(config, root)
    proposed = Proposed(1, {"distillation.alpha": 7}, 1)
    assert book.begin(proposed, base) is None
    trial = book.trial(proposed.key)
    assert trial.state == "failed"
    assert "distillation.alpha: got 7" in trial.reason


def test_a_failure_leaves_its_traceback_in_the_folder(root):
    config = search_config()
    book, base = opened(config, root)
    proposed = grid_of(config)[0]
    book.begin(proposed, base)
    try:
        raise ValueError("no such teacher")
    except ValueError as error:
        book.broke(proposed.key, error)
    trial = book.trial(proposed.key)
    assert (trial.state, trial.reason) == ("failed", "ValueError: no such teacher")
    text = (trial.folder / "logs" / "failure.txt").read_text()
    assert "test_search_book.py" in text
    # Taken up again, it is not failed any more.
    book.begin(proposed, base)
    assert book.trial(proposed.key).state == "unfinished"


def test_a_summary_counts_whatever_was_noted(root):
    """The search may be killed between a trial's end and the note of it."""
    config = search_config()
    book, base = opened(config, root)
    proposed = grid_of(config)[0]
    put(book, base, proposed, [50, 40])
    note = book.path / "trials" / proposed.key / "trial.json"
    assert json.loads(note.read_text())["state"] == "unfinished"
    assert book.trial(proposed.key).state == "finished"
