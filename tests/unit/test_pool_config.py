"""Configurations of pools: what is refused, and what `kd-ray check` finds in them."""

import pytest

from kd_ray.commands.check import check
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource


def pool(root, **changes):
    content = {"command": "pool", "name": "p", "teachers": {"list": ["teachers/t*"]}, **changes}
    return check_as(PoolConfig, content, "test")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"replicas": 3, "hosts": 2}, "replicas is 3 and hosts is 2"),
        ({"batching": "per_request", "cache_mib": 5}, "repeat bit for bit"),
        ({"batching": "per_request", "hosts": 2, "replicas": 2}, "repeat bit for bit"),
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
