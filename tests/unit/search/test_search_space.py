"""Settings of a search: which there are, and which are refused before anything starts."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from search_help import BASE, SPACE, search_config, write_base

from kd_ray.cluster.search.resources import needs_of, private_cpus, shortage, slots
from kd_ray.cluster.search.space import (
    check_space,
    digest_of,
    listed_settings,
    longest_epochs,
    read_base,
    trial_config,
)
from kd_ray.config.load import ConfigError, check

TRAIN = {key: BASE[key] for key in ("name", "data", "model", "training")} | {"command": "train"}


@pytest.fixture
def root(tmp_path):
    write_base(tmp_path)
    return tmp_path


def listed(*values):
    return {"type": "choice", "values": list(values)}


def refused(root, **changes):
    config = search_config(**changes)
    with pytest.raises(ConfigError) as caught:
        check_space(config, read_base(config, root))
    return str(caught.value)


def test_a_grid_has_every_combination_once():
    settings = listed_settings(search_config())
    assert [(s["teachers.strategy"]["type"], s["distillation.alpha"]) for s in settings] == [
        ("average", 0.3),
        ("average", 0.9),
        ("best", 0.3),
        ("best", 0.9),
    ]
    assert len({digest_of(setting) for setting in settings}) == 4


def test_a_setting_has_one_digest_in_any_order():
    assert digest_of({"a": 1, "b": {"x": 1, "y": 2}}) == digest_of({"b": {"y": 2, "x": 1}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


RANGES = {
    "training.optimizer.lr": {"type": "loguniform", "low": 1e-4, "high": 1e-1},
    "distillation.alpha": {"type": "quniform", "low": 0.1, "high": 0.95, "q": 0.1},
    "distillation.temperature": {"type": "uniform", "low": 1, "high": 4},
    "model.encoder.rnn_size": {"type": "lograndint", "low": 4, "high": 64},
    "training.epochs": {"type": "randint", "low": 2, "high": 9, "step": 3},
}


@given(st.integers(0, 10_000), st.integers(2, 12))
def test_draws_stay_in_their_ranges_and_more_of_them_continue_the_sequence(seed, samples):
    def draws(count):
        return listed_settings(
            search_config(
                space=RANGES, algorithm={"type": "random", "samples": count, "seed": seed}
            )
        )

    settings = draws(samples)
    assert draws(samples - 1) == settings[:-1]
    for setting in settings:
        assert 1e-4 <= setting["training.optimizer.lr"] <= 1e-1
        tenths = setting["distillation.alpha"] * 10
        assert math.isclose(tenths, round(tenths))
        assert 1 <= round(tenths) <= 9
        assert 1 <= setting["distillation.temperature"] <= 4
        assert 4 <= setting["model.encoder.rnn_size"] <= 64
        assert setting["training.epochs"] in (2, 5, 8)


def test_axes_of_type_grid_are_crossed_with_every_draw():
    space = {
        "distillation.alpha": {"type": "uniform", "low": 0, "high": 1},
        "teachers.strategy": {**SPACE["teachers.strategy"], "type": "grid"},
    }
    settings = listed_settings(
        search_config(space=space, algorithm={"type": "random", "samples": 3})
    )
    alphas = [setting["distillation.alpha"] for setting in settings]
    assert len(settings) == 6
    assert alphas[0::2] == alphas[1::2]
    assert len(set(alphas)) == 3


def test_the_same_draw_is_not_made_twice():
    settings = listed_settings(search_config(algorithm={"type": "random", "samples": 50}))
    assert len(settings) == 4


def test_every_problem_of_a_space_comes_at_once_with_a_way_out(root):
    text = refused(
        root,
        space={
            "distillation.alphas": listed(0.1, 0.2),
            "teachers.strategy": listed({"type": "average"}, {"type": "best", "scale": 2}),
            "training.optimizer.lr": {"type": "uniform", "low": -1, "high": 1},
        },
        algorithm={"type": "random", "samples": 2},
    )
    assert "space.distillation.alphas, values 0.1, 0.2:" in text
    assert "distillation.alphas: no such key; did you mean 'alpha'?" in text
    assert 'space.teachers.strategy, value {"type": "best", "scale": 2}:' in text
    assert "teachers.strategy.scale: no such key" in text
    assert "space.training.optimizer.lr, value -1.0:" in text
    assert "got -1.0: input should be greater than 0" in text


def test_values_that_do_not_go_together_are_refused_before_anything_starts(root):
    text = refused(
        root,
        space={
            "teachers.strategy": listed({"type": "average"}, {"type": "weighted"}),
            "teachers.strategy.scale": listed(0.1, 1.0),
        },
        overrides={"teachers.strategy": {"type": "weighted"}},
    )
    assert "2 of 4 combinations are refused, the first: strategy average, scale 0.1" in text
    assert "belongs into one axis" in text


def test_a_space_that_fits_is_accepted(root):
    config = search_config()
    check_space(config, read_base(config, root))
    drawn = search_config(space=RANGES, algorithm={"type": "optuna", "samples": 3})
    check_space(drawn, read_base(drawn, root))


def test_a_section_above_a_fixed_key_cannot_change_it_either(root):
    (root / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    text = refused(
        root,
        base="train.yaml",
        space={
            "training": listed({"select_by": "attention"}, {"select_by": "ctc"}, {"seed": 4}),
            "data": listed({"valid": "data/valid.parquet"}, {"valid": "b"}, {"tokens": "c"}),
        },
    )
    assert 'space.training, value {"select_by": "ctc"}:' in text
    assert 'training.select_by: "ctc" here, "attention" in the base' in text
    assert "training.seed: cannot be searched over; give seeds beside the space" in text
    assert 'data.valid: "b" here' in text
    assert 'data.tokens: "c" here, "data/tokens.json" in the base' in text
    assert text.count("space.") == 4


def test_the_limits_of_a_setting_go_with_it_into_the_search_s_pool(root):
    source = {"type": "pool", "hosts": 2}
    write_base(root, "pooled.yaml", teachers={"list": "teachers.txt", "source": source})
    space = {"teachers.source.quorum": listed(0.5, 1.0)}
    config = search_config("a", "pooled.yaml", space, pool={"hosts": 1})
    base = read_base(config, root)
    check_space(config, base)
    quorums = [
        trial_config(base, setting, name="x", seed=1).teachers.source.quorum
        for setting in listed_settings(config)
    ]
    assert quorums == [0.5, 1.0]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("teachers.source.hosts", (1, 2), "teachers.source.hosts: 1 here, 2 in the base"),
        ("teachers.source", ({"type": "local"},), 'source.type: "local" here, "pool" in the base'),
        ("teachers", ({"source": {"cache_mib": 5}},), "teachers.source.cache_mib: 5.0 here"),
    ],
)
def test_where_teachers_are_cannot_be_searched_over_with_a_pool(root, key, values, message):
    source = {"type": "pool", "hosts": 2}
    write_base(root, "pooled.yaml", teachers={"list": "teachers.txt", "source": source})
    space = {key: listed(*values)}
    text = refused(root, base="pooled.yaml", space=space, pool={"hosts": 1})
    assert message in text
    assert "set it in the section pool" in text
    assert text.count("space.") == 1
    alone = search_config(base="pooled.yaml", space=space)
    check_space(alone, read_base(alone, root))


@pytest.mark.parametrize(
    ("space", "longest"),
    [
        ({"distillation.alpha": listed(0.1)}, 4),
        ({"training.epochs": listed(2, 16)}, 16),
        ({"training": listed({"epochs": 9}, {"optimizer": {"lr": 0.1}})}, 9),
        ({"training.epochs": {"type": "randint", "low": 1, "high": 30}}, 30),
    ],
)
def test_the_longest_trial_is_known_in_advance(root, space, longest):
    config = search_config(space=space, algorithm={"type": "random", "samples": 2})
    assert longest_epochs(config, read_base(config, root)) == longest


@pytest.mark.parametrize("name", ["cpus", "gpus"])
def test_what_a_worker_group_takes_is_said_by_the_base(root, name):
    write_base(root, "group.yaml", workers={"count": 2})
    config = search_config(base="group.yaml", **{f"{name}_per_trial": 2})
    with pytest.raises(ConfigError, match=rf"{name}_per_trial.*workers\.{name} in overrides"):
        read_base(config, root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"training.seed": listed(1, 2)}}, "training.seed.*give seeds beside the space"),
        ({"space": {"data.valid": listed("a", "b")}}, "data.valid: this key cannot be searched"),
        ({"space": {"data.tokens": listed("a", "b")}}, "data.tokens: .* errors in one unit"),
        ({"space": {"a": listed(1, 1)}}, "values must differ"),
        ({"space": {"a": {"type": "uniform", "low": 2, "high": 1}}}, "low must be below high"),
        ({"space": {"a": {"type": "uniform", "low": 0, "high": 1}}}, "'grid' tries every value"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        (
            {
                "space": {"a": {"type": "grid", "values": [1]}},
                "algorithm": {"type": "optuna", "samples": 2},
            },
            "one value at a time",
        ),
        ({"space": {"a": {"type": "uniform", "low": 0, "hig": 1}}}, "did you mean 'high'"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        search_config(**changes)


def test_a_trial_is_the_base_with_overrides(root):
    config = search_config(overrides={"training.epochs": 3})
    base = read_base(config, root)
    setting = {"teachers.strategy": {"type": "weighted", "scope": "batch"}}
    trial = trial_config(base, setting, name="a/b", seed=7)
    by_hand = yaml.safe_load((root / "base.yaml").read_text())
    by_hand["training"] |= {"epochs": 3, "seed": 7}
    by_hand["teachers"]["strategy"] = {"type": "weighted", "scope": "batch"}
    assert trial == check(by_hand | {"name": "a/b"}, "by hand")


def test_the_pool_of_a_search_takes_the_place_of_the_base_s_source(root):
    source = {"type": "pool", "hosts": 2, "quorum": 1.0}
    write_base(root, "pooled.yaml", teachers={"list": "teachers.txt", "source": source})
    config = search_config("a/b", "pooled.yaml", pool={"hosts": 1, "cache_mib": 8})
    base = read_base(config, root)
    trial = trial_config(base, {}, name="x", seed=1)
    assert (trial.teachers.source.name, trial.teachers.source.hosts) == ("search-a-b", 1)
    assert trial.teachers.source.quorum == 1.0
    own = trial_config(base, {}, name="x", seed=1, asks_pool=False)
    assert (own.teachers.source.name, own.teachers.source.hosts) == (None, 2)


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"source": {"type": "store", "path": "store"}}, "names none"),
        ({"source": {"type": "pool", "name": "there"}}, "asks the pool 'there'"),
    ],
)
def test_a_pool_without_teachers_to_bring_up_is_refused(root, teachers, message):
    write_base(root, "other.yaml", teachers=teachers)
    with pytest.raises(ConfigError, match=message):
        read_base(search_config(base="other.yaml", pool={}), root)


def test_a_base_of_another_command_is_refused(root):
    (root / "pool.yaml").write_text("{command: pool, name: a, teachers: {list: b}}")
    with pytest.raises(ConfigError, match=r"kd-ray pool.*not for `kd-ray train`"):
        read_base(search_config(base="pool.yaml"), root)


@pytest.mark.parametrize(
    ("changes", "workers", "source", "cluster", "expected"),
    [
        ({}, {}, {"type": "local"}, {"CPU": 4}, 4),
        ({"concurrent": 9}, {}, {"type": "local"}, {"CPU": 4}, 9),
        ({"pool": {"hosts": 1, "cpus_per_host": 2}}, {}, {"type": "local"}, {"CPU": 4}, 2),
        ({"cpus_per_trial": 0.5}, {}, {"type": "local"}, {"CPU": 4}, 8),
        ({}, {}, {"type": "pool", "hosts": 3}, {"CPU": 9}, 2),
        ({}, {"count": 2, "cpus": 2}, {"type": "local"}, {"CPU": 9}, 2),
        ({}, {"gpus": 0.5}, {"type": "local"}, {"CPU": 16, "GPU": 2}, 4),
        ({"pool": {"gpus_per_host": 1}}, {"gpus": 1}, {"type": "local"}, {"CPU": 9, "GPU": 3}, 2),
        ({}, {"cpus": 8}, {"type": "local"}, {"CPU": 4}, 1),
    ],
)
def test_trials_at_a_time_follow_the_resources_with_teachers_counted(
    root, changes, workers, source, cluster, expected
):
    teachers = {"list": "teachers.txt", "source": source}
    write_base(root, "sized.yaml", teachers=teachers, workers=workers)
    config = search_config(base="sized.yaml", **changes)
    needs = needs_of(config, read_base(config, root))
    assert slots(config, needs, cluster) == expected


@pytest.mark.parametrize(
    ("changes", "workers", "cluster", "lacks"),
    [
        ({}, {}, {"CPU": 1}, None),
        ({}, {"gpus": 1}, {"CPU": 4}, "a trial takes 1 GPU, there are 0"),
        ({"concurrent": 3}, {"cpus": 8}, {"CPU": 4}, "a trial takes 8 CPU, there are 4"),
        (
            {"pool": {"gpus_per_host": 1}}, {"gpus": 1}, {"CPU": 9, "GPU": 1},
            "a trial takes 1 GPU and the pool 1, there are 1",
        ),
        (
            {"pool": {"gpus_per_host": 1}}, {}, {"CPU": 9},
            "a trial takes 0 GPU and the pool 1, there are 0",
        ),
    ],
)  # fmt: skip
def test_a_search_that_cannot_fit_says_what_lacks(root, changes, workers, cluster, lacks):
    write_base(root, "sized.yaml", workers=workers)
    config = search_config(base="sized.yaml", **changes)
    assert shortage(needs_of(config, read_base(config, root)), cluster) == lacks


def test_a_private_ray_holds_what_was_asked_for(root):
    config = search_config(concurrent=3, pool={"hosts": 2})
    needs = needs_of(config, read_base(config, root))
    assert private_cpus(config, needs, 2) == 5
    assert private_cpus(config, needs, 16) == 16


def test_a_group_s_trial_reserves_little_for_itself(root):
    write_base(root, "group.yaml", workers={"count": 3, "gpus": 1})
    config = search_config(base="group.yaml")
    needs = needs_of(config, read_base(config, root))
    assert needs.reserved == {"CPU": 0.1}
    assert needs.trial == {"CPU": 3.1, "GPU": 3}


def test_custom_resources_limit_the_trials_at_a_time_too(root):
    source = {"type": "pool", "hosts": 2, "resources_per_host": {"teachers": 0.5}}
    workers = {"resources_per_worker": {"students": 1}}
    teachers = {"list": "teachers.txt", "source": source}
    write_base(root, "placed.yaml", teachers=teachers, workers=workers)
    config = search_config(base="placed.yaml")
    needs = needs_of(config, read_base(config, root))
    assert needs.trial == {"CPU": 3.1, "students": 1, "teachers": 1}
    cluster = {"CPU": 90, "students": 5, "teachers": 3}
    assert slots(config, needs, cluster) == 3
