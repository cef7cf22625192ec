"""Optuna proposes, hears, and remembers over the end of a process."""

import pytest
from search_help import opened, put, search_config, write_base

from kd_ray.cluster.search import optuna_proposals
from kd_ray.cluster.search.proposals import proposals_of

SPACE = {
    "teachers.strategy": {"type": "choice", "values": [{"type": "average"}, {"type": "best"}]},
    "distillation.alpha": {"type": "uniform", "low": 0.0, "high": 1.0},
}


@pytest.fixture
def root(tmp_path):
    write_base(tmp_path)
    return tmp_path


def optuna_search(samples, **changes):
    algorithm = {"type": "optuna", "samples": samples, "startup": 4}
    return search_config(space=SPACE, algorithm=algorithm, **changes)


def error_of(setting):
    """Least at alpha 0.7 with `best`."""
    worse = 0 if setting["teachers.strategy"]["type"] == "best" else 20
    return 20 + worse + 100 * abs(setting["distillation.alpha"] - 0.7)


def train(proposals, book, base, most=None, **how):
    """Pretend to train what is proposed; the proposals in order."""
    found = []
    while most is None or len(found) < most:
        proposed = proposals.next()
        if proposed is None:
            break
        found.append(proposed)
        proposals.ended(put(book, base, proposed, [error_of(proposed.setting)], **how))
    return found


def test_it_comes_closer_to_the_best_setting_than_its_first_draws(root):
    config = optuna_search(30)
    book, base = opened(config, root)
    found = train(proposals_of(config, []), book, base)
    errors = [error_of(each.setting) for each in found]
    assert len(found) == 30
    assert min(errors[4:]) < min(errors[:4])
    assert sum(errors[20:]) / 10 < sum(errors[:10]) / 10
    again = train(proposals_of(config, []), *opened(config, root))
    assert [each.setting for each in again] == [each.setting for each in found]


def test_a_search_that_goes_on_knows_what_was_tried(root):
    config = optuna_search(24)
    book, base = opened(config, root)
    first = train(proposals_of(config, []), book, base, most=16)
    proposals = proposals_of(config, book.trials())
    assert proposals.left == 8
    rest = train(proposals, book, base)
    assert len(rest) == 8
    assert [each.number for each in rest] == list(range(17, 25))
    assert not {each.key for each in first} & {each.key for each in rest}
    # It draws from what it knows: by chance the mean would be about 60.
    assert sum(error_of(each.setting) for each in rest) / 8 < 45


def test_an_interrupted_setting_goes_on_with_the_seeds_that_lack(root):
    config = optuna_search(3, seeds=[1, 2])
    book, base = opened(config, root)
    proposals = proposals_of(config, [])
    assert proposals.left == 6
    [first] = train(proposals, book, base, most=1)
    second = proposals.next()
    assert (second.setting, second.seed) == (first.setting, 2)
    put(book, base, second, [50], state="unfinished")
    rest = proposals_of(config, book.trials())
    assert rest.left == 5
    found = train(rest, book, base)
    assert found[0] == second
    assert len(found) == 5
    assert len({each.number for each in found}) == 3


def test_stopped_and_failed_settings_are_told_as_such(root):
    config = optuna_search(3)
    book, base = opened(config, root)
    proposals = proposals_of(config, [])
    train(proposals, book, base, most=1, state="stopped")
    train(proposals, book, base, most=1, state="failed")
    train(proposals, book, base, most=1)
    states = [trial.state.name for trial in proposals._study.get_trials()]
    assert states == ["PRUNED", "FAIL", "COMPLETE"]


def test_where_nothing_new_is_left_it_ends(root):
    space = {"distillation.alpha": {"type": "choice", "values": [0.2, 0.7]}}
    config = search_config(space=space, algorithm={"type": "optuna", "samples": 10})
    book, base = opened(config, root)
    proposals = proposals_of(config, [])
    found = []
    while (proposed := proposals.next()) is not None:
        found.append(proposed.setting["distillation.alpha"])
        proposals.ended(put(book, base, proposed, [50.0]))
    assert sorted(found) == [0.2, 0.7]
    assert proposals.left == 0


def test_few_settings_are_all_tried_though_optuna_repeats_the_best(root, monkeypatch):
    # Fifty known ones in a row come of a hundred settings, near their end.
    monkeypatch.setattr(optuna_proposals, "_REPEATED_PROPOSALS", 2)
    values = {"type": "choice", "values": [number / 20 for number in range(20)]}
    space = {"distillation.alpha": values}
    config = search_config(space=space, algorithm={"type": "optuna", "samples": 20, "startup": 4})
    book, base = opened(config, root)
    proposals = proposals_of(config, [])
    found = []
    while (proposed := proposals.next()) is not None:
        alpha = proposed.setting["distillation.alpha"]
        found.append(alpha)
        proposals.ended(put(book, base, proposed, [10.0 + 90 * alpha]))
    assert sorted(found) == values["values"]


def test_seeds_that_were_dropped_do_not_reach_optuna(root):
    config = optuna_search(2, seeds=[1, 2])
    book, base = opened(config, root)
    proposals = proposals_of(config, [])
    good, bad = proposals.next(), proposals.next()
    put(book, base, good, [30.0])
    put(book, base, bad, [], state="failed")
    one_seed = optuna_search(2, seeds=[1])
    book.open(one_seed, base)
    proposals = proposals_of(one_seed, book.trials())
    [known] = proposals._study.get_trials()
    assert (known.state.name, known.value) == ("COMPLETE", 30.0)
    assert proposals.left == 1
