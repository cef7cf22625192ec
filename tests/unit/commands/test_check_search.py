"""What `kd-ray check` says about a search: resources and places of its pool, not of the base's."""

import pytest
from search_help import search_config, write_base

from kd_ray.commands.check import check


@pytest.fixture
def root(tiny_root, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    return tiny_root


def checked(root, workers=None, source=None, **changes):
    teachers = {"list": "teachers.txt", "source": source or {"type": "local"}}
    write_base(root, "checked.yaml", teachers=teachers, workers=workers or {})
    return check(search_config(base="checked.yaml", **changes), root)


def test_a_search_that_fits_has_no_problem(root):
    found = checked(root, pool={"hosts": 1, "gpus_per_host": 1})
    assert found.problems == []
    assert not any("slower" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"workers": {"gpus": 1}, "pool": {"gpus_per_host": 1}},
            "a trial takes 1 GPU and the pool 1, there are 1",
        ),
        ({"pool": {"hosts": 2, "gpus_per_host": 1}}, "the pool 2, there are 1"),
        ({"workers": {"count": 2, "gpus": 1}}, "a trial takes 2 GPU, there are 1"),
        ({"pool": {"cache_store": "nowhere"}}, "nowhere"),
    ],
)
def test_a_search_that_cannot_fit_is_a_problem(root, changes, problem):
    (found,) = checked(root, **changes).problems
    assert problem in found


def test_hosts_of_the_base_are_not_counted_where_the_search_has_a_pool(root):
    source = {"type": "pool", "hosts": 2, "gpus_per_host": 1}
    assert checked(root, source=source, pool={"hosts": 1}).problems == []
    (found,) = checked(root, source=source).problems
    assert "a trial takes 2 GPU, there are 1" in found


def test_a_machine_that_has_to_be_shared_is_noted(root):
    found = checked(root, workers={"cpus": 2}, pool={"hosts": 1})
    assert found.problems == []
    assert any("ask for 3 CPUs, this machine has 2" in note for note in found.notes)
