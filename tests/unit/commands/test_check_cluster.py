"""What a configuration asks of a cluster, and what it may not ask."""

import pytest
import tiny
from yaml_files import CHECKOUT, write_config

from kd_ray import cli
from kd_ray.cluster.pool.hosts import HostStarter
from kd_ray.commands.checking.cluster import check_cluster, named_cluster, wishes_of
from kd_ray.config.commands import InferTeachersConfig, TrainTeachersConfig
from kd_ray.config.load import ConfigError, check, check_as, load
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import HostSettings, PoolSource
from kd_ray.config.training import Workers

TEACHERS = {"kd-ray-role": "teachers"}


def distillation(source, **workers):
    return tiny.distill_config("x", "t.txt", teachers__source=source, workers=workers)


def test_hosts_and_workers_say_what_they_take_and_where():
    config = distillation(
        {"type": "pool", "hosts": 3, "gpus_per_host": 0.5, "label_selector": TEACHERS},
        count=2, cpus=4, gpus=1, resources_per_worker={"students": 1},
    )  # fmt: skip
    workers, hosts = wishes_of(config, CHECKOUT)
    assert (workers.count, workers.resources) == (2, {"CPU": 4, "GPU": 1, "students": 1})
    assert (hosts.count, hosts.labels) == (3, TEACHERS)
    assert hosts.resources == {"CPU": 1, "GPU": 0.5}


def test_what_others_run_or_the_command_itself_runs_is_no_wish():
    assert wishes_of(distillation({"type": "pool", "name": "shared"}), CHECKOUT) == []
    assert [wish.what for wish in wishes_of(distillation({"type": "local"}, gpus=1), CHECKOUT)] == [
        "training workers"
    ]


def test_pools_inference_and_teachers_too():
    pool = check_as(
        PoolConfig,
        {
            "command": "pool", "name": "p", "teachers": {"list": ["t"]},
            "hosts": {"hosts": 2, "resources_per_host": {"teachers": 1}},
        },
        "test",
    )  # fmt: skip
    (hosts,) = wishes_of(pool, CHECKOUT)
    assert (hosts.count, hosts.resources["teachers"]) == (2, 1)
    infer = InferTeachersConfig(
        command="infer-teachers", store="s", teachers="t", splits={}, tokens="t", gpus_per_actor=1
    )
    assert [wish.resources for wish in wishes_of(infer, CHECKOUT)] == [{"CPU": 1, "GPU": 1}]
    placed = infer.model_copy(
        update={"actors": 3, "resources_per_actor": {"teachers": 2}, "label_selector": TEACHERS}
    )
    (actors,) = wishes_of(placed, CHECKOUT)
    assert (actors.count, actors.most, actors.labels) == (1, 3, TEACHERS)
    assert actors.resources == {"CPU": 1, "GPU": 1, "teachers": 2}
    base = tiny.train_config("base", workers={"count": 2, "cpus": 3}).model_dump(mode="json")
    many = check(
        {"command": "train-teachers", "name": "n", "base": base, "teachers": [{"name": "a"}]},
        "test",
    )
    assert isinstance(many, TrainTeachersConfig)
    assert [(wish.count, wish.resources["CPU"]) for wish in wishes_of(many, CHECKOUT)] == [(2, 3)]


def test_a_search_asks_for_its_pool_and_for_one_trial_at_least(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    hosts, trials = wishes_of(load(CHECKOUT / "configs/demo/search.yaml"), CHECKOUT)
    assert (hosts.what, hosts.count, hosts.resources["CPU"]) == ("teacher hosts", 1, 0.5)
    assert (trials.what, trials.count, trials.resources) == ("trials", 1, {"CPU": 0.75})
    changes = {
        "pool": None, "concurrent": 3, "cpus_per_trial": None,
        "overrides.teachers.source": {"type": "pool", "hosts": 2},
        "overrides.workers": {"count": 2, "gpus": 1},
    }  # fmt: skip
    workers, hosts = wishes_of(load(CHECKOUT / "configs/demo/search.yaml", changes), CHECKOUT)
    assert (workers.count, workers.resources["GPU"], hosts.count) == (6, 1, 6)


def test_a_private_ray_cannot_give_labels_or_custom_resources():
    problems, _ = check_cluster(
        distillation({"type": "pool", "label_selector": TEACHERS}), None, CHECKOUT
    )
    assert len(problems) == 1
    assert "on nodes with kd-ray-role=teachers" in problems[0]
    assert "--address" in problems[0]
    assert check_cluster(distillation({"type": "pool", "hosts": 2}), None, CHECKOUT) == ([], [])


def test_the_cluster_is_that_of_ray_address(monkeypatch):
    for value, expected in (("", None), ("local", None), ("auto", "auto")):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert named_cluster() == expected


def test_the_address_of_the_command_line_comes_first(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    monkeypatch.setattr(
        "kd_ray.commands.check.check_cluster",
        lambda config, address, root: ([f"saw {address}"], []),
    )
    recipe = {"command": "report", "name": "n", "title": "t", "evaluation": "e"}
    path = write_config(tmp_path / "report.yaml", recipe)
    assert cli.main(["check", str(path)]) == 2
    assert cli.main(["check", "--address", "head:6379", str(path)]) == 2
    assert caplog.text.index("saw other:6379") < caplog.text.index("saw head:6379")


@pytest.mark.parametrize(
    ("section", "content", "text"),
    [
        (HostSettings, {"resources_per_host": {"GPU": 1}}, "keys of their own"),
        (Workers, {"resources_per_worker": {"memory": 1}}, "keys of their own"),
        (Workers, {"resources_per_worker": {"students": 0}}, "greater than or equal"),
        (HostSettings, {"label_selector": {"role": "in(a, b"}}, "label_selector"),
        (HostSettings, {"label_selector": {"": "a"}}, "label_selector"),
        (InferTeachersConfig, {"resources_per_actor": {"CPU": 1}}, "cpus_per_actor"),
        (InferTeachersConfig, {"label_selector": {"role": "in(a"}}, "label_selector"),
    ],
)
def test_what_ray_would_refuse_late_is_refused_early(section, content, text):
    with pytest.raises(ConfigError, match=text):
        check_as(section, content, "test")


def test_selectors_may_use_every_operator_of_ray():
    selector = {"a/b": "x", "c": "!y", "d": "in(p, q)", "e": "!in(p)"}
    assert HostSettings(label_selector=selector).label_selector == selector


def test_a_named_pool_does_not_choose_nodes_for_its_client():
    with pytest.raises(ConfigError, match="leave out resources_per_host"):
        check_as(PoolSource, {"name": "p", "resources_per_host": {"teachers": 1}}, "test")


def test_one_worker_that_is_sent_to_a_node_is_a_group():
    assert not Workers().grouped
    assert Workers(count=2).grouped
    assert Workers(label_selector=TEACHERS).grouped


class Options:
    """In place of an actor class: keeps what a host was started with."""

    def options(self, **given):
        self.given = given
        return self

    def remote(self, *arguments):
        return self


class Plan:
    teachers = ()

    def folders(self, name):
        return {}


def test_hosts_are_started_with_what_the_configuration_says(monkeypatch):
    options = Options()
    monkeypatch.setattr("kd_ray.cluster.pool.hosts.HostActor", options)
    settings = HostSettings(resources_per_host={"teachers": 2}, label_selector=TEACHERS)
    HostStarter(settings, None, namespace="n").start_host(Plan(), "host")
    assert options.given["resources"] == {"teachers": 2}
    assert options.given["label_selector"] == TEACHERS
    HostStarter(HostSettings(), None, namespace="n").start_host(Plan(), "host")
    assert options.given["resources"] is None
    assert options.given["label_selector"] is None
