"""In what two configurations differ."""

import json

import tiny

from kd_ray.config.load import dump
from kd_ray.evaluation.run_folder import differences


def content(**changes):
    return json.loads(dump(tiny.train_config("a", **changes)))


def test_each_key_that_differs_is_a_line():
    after = content(training__seed=7, training__epochs=9)
    assert differences(content(), after) == [
        "training.epochs: 2 before, 9 now",
        "training.seed: 1 before, 7 now",
    ]
    (line,) = differences(content(), content(training__seed=7), of="base")
    assert line.startswith("base.training.seed: ")


def test_keys_that_may_differ_are_left_out_with_all_below_them():
    after = content(training__seed=7, training__epochs=9)
    (line,) = differences(content(), after, ignore=["training.seed"])
    assert line.startswith("training.epochs: ")
    assert differences(content(), after, ignore={"training"}) == []


def test_keys_of_a_later_version_have_their_defaults_on_either_side():
    older = content()
    del older["training"]["seed"]
    assert differences(older, content()) == []
    assert differences(content(), older) == []
    (line,) = differences(older, content(training__seed=7))
    assert line == "training.seed: 1 before, 7 now"


def test_what_is_no_configuration_any_more_is_compared_as_it_is():
    older = {**content(), "formerly": 1}
    assert differences(older, content()) == ["formerly: 1 before, None now"]
