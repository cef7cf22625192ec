"""Configurations of pools: what is refused, and what `kd-ray check` finds in them."""

import re

import pytest
import tiny

from kd_ray.commands.check import check
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import HostSettings, PoolSource
from kd_ray.evaluation.system import load_system
from kd_ray.speech.manifest import read_manifest
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.teacher import info_of


def pool(root, **changes):
    content = {"command": "pool", "name": "p", "teachers": {"list": ["teachers/t*"]}, **changes}
    return check_as(PoolConfig, content, "test")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"replicas": 3, "hosts": 2}, "replicas is 3 and hosts is 2"),
        ({"batching": "per_request", "cache_mib": 5}, "repeat bit for bit"),
        ({"batching": "per_request", "fused_cache_mib": 5}, "repeat bit for bit"),
        ({"batching": "per_request", "hosts": 2, "replicas": 2}, "repeat bit for bit"),
        ({"warm_mib": 5}, "memory_mib is null"),
        ({"max_job_mib": 0}, "max_job_mib"),
        ({"name": "shared", "cache_store": "targets"}, "leave out cache_store"),
        ({"name": "shared", "hosts": 2}, "leave out hosts"),
        ({"name": "sha red"}, "name"),
        ({"name": "shared", "precision": "bfloat16"}, "leave out precision"),
        ({"precision": "float16"}, "'float16' needs a GPU, and gpus_per_host is 0"),
        ({"compile": True, "memory_mib": 100}, "compiled at each visit"),
        ({"hostss": 2}, "did you mean 'hosts'"),
    ],
)
def test_what_contradicts_itself_is_refused(content, text):
    with pytest.raises(ConfigError, match=text):
        check_as(PoolSource, {"type": "pool", **content}, "test")


def test_a_named_pool_brings_its_own_hosts():
    # As in a resolved configuration, in which every key stands.
    resolved = PoolSource(name="shared", weight=2).model_dump()
    assert PoolSource(**resolved).name == "shared"


def test_check_adds_up_the_weights(tiny_root):
    found = check(pool(tiny_root, hosts={"hosts": 2, "memory_mib": 0.01}), tiny_root)
    assert found.ok
    [note] = found.notes
    assert "3 teachers on 2 hosts, each on 1" in note
    assert "0.01 MiB are loaded at a time (memory_mib)" in note


def test_check_names_teachers_that_are_not_there(tiny_root):
    found = check(pool(tiny_root, teachers={"list": ["teachers/t0", "teachers/t9"]}), tiny_root)
    assert not found.ok
    assert "t9" in found.problems[0]


def test_paths_of_hosts_begin_at_the_root(tmp_path):
    hosts = HostSettings(cache_store="targets", cache_mib=3)
    assert hosts.at(tmp_path).cache_store == str(tmp_path / "targets")
    assert hosts.at(tmp_path).cache_mib == 3
    assert HostSettings().at(tmp_path) == HostSettings()


def test_a_store_that_is_not_there_is_a_problem_of_a_pool(tiny_root):
    found = check(pool(tiny_root, hosts={"cache_store": "nowhere"}), tiny_root)
    [problem] = found.problems
    assert "nowhere" in problem


def caches(root, **source):
    config = tiny.distill_config(
        "checked", "teachers.txt", teachers__source={"type": "pool", **source}
    )
    found = check(config, root)
    assert found.ok, found.problems
    return [note for note in found.notes if "cache" in note]


def test_check_says_what_caches_would_take_and_whether_it_fits(tiny_root):
    [outputs] = caches(tiny_root, cache_mib=100, hosts=2)
    assert "what 2 teachers of a host say about data/train.parquet takes" in outputs
    assert "which fits into 100 MiB" in outputs
    [outputs] = caches(tiny_root, cache_mib=0.01)
    assert re.search(r"what 3 teachers.*does not fit into 0\.01 MiB \(\d+% of it does\)", outputs)
    assert "what is fused of it takes" in outputs
    assert "(fused_cache_mib)" in outputs
    outputs, fused = caches(tiny_root, cache_mib=0.01, fused_cache_mib=1)
    assert "fused of it" not in outputs
    assert "what a host fuses of data/train.parquet" in fused
    assert "which fits into 1 MiB" in fused
    assert caches(tiny_root) == []
    [named] = caches(tiny_root, name="shared")
    assert "what all 3 teachers say (cache_mib, all hosts of the pool 'shared' together)" in named


def test_check_says_that_rollouts_are_new_prefixes(tiny_root):
    config = tiny.distill_config(
        "checked", "teachers.txt",
        teachers__source={"type": "pool", "cache_mib": 1},
        teachers__strategy={"type": "average"},
        distillation__selector={"type": "always"},
        distillation__ctc_weight=0,
    )  # fmt: skip
    found = check(config, tiny_root)
    assert any("take as much again in every epoch" in note for note in found.notes)


def test_check_says_whether_a_store_is_of_this_data_and_these_teachers(tiny_root, tmp_path):
    infos = [load_system(tiny_root / "teachers" / f"t{n}") for n in range(2)]
    store = TargetStore.create(tmp_path / "store", [info_of(system, 0) for system in infos])
    rows = read_manifest(tiny_root / "data" / "train.parquet")
    store.plan("train", rows, 8, column="phones")
    [note] = caches(tiny_root, cache_store=str(store.folder))
    assert "was made of data/train.parquet, and knows 2 of the 3 teachers" in note
    other = TargetStore.create(tmp_path / "other", [info_of(system, 0) for system in infos])
    other.plan("train", rows[:5], 8, column="phones")
    [note] = caches(tiny_root, cache_store=str(other.folder))
    assert "was made of other data than data/train.parquet" in note
    config = tiny.distill_config(
        "checked", "teachers.txt",
        teachers__source={"type": "pool", "cache_store": "nowhere"},
    )  # fmt: skip
    found = check(config, tiny_root)
    assert any("nowhere" in problem for problem in found.problems)
