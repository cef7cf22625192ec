"""Where clients find a pool some of whose hosts are down."""

from types import SimpleNamespace

import pytest

from kd_ray.cluster.pool.address import HostArrival
from kd_ray.cluster.pool.changes import PoolChangeError, _check_places, address_of
from kd_ray.cluster.pool.hosts import HostStarter
from kd_ray.cluster.pool.plan import first_plan
from kd_ray.config.sources import HostSettings
from kd_ray.core.contracts import TeacherInfo


def info(index):
    return TeacherInfo(
        index=index, name=f"t{index}", folder=f"fakes/{index}", digest=f"digest {index}",
        tokens_digest="tokens", vocabulary_size=5, blank=0, bos=1, eos=2,
        front_end_digest="mels", frame_rate_hz=50.0, parameters=10,
    )  # fmt: skip


@pytest.fixture
def plan():
    return first_plan("pool.", ["fakes/0", "fakes/1"], HostSettings(hosts=2), [1, 1])


def arrival(plan, name):
    teachers = tuple(plan.hosts[name])
    return HostArrival(teachers, tuple(map(info, teachers)), 7, "node", None, None)


@pytest.mark.parametrize("down", [1, 2])
def test_teachers_of_hosts_that_are_down_keep_their_place(plan, down):
    names = list(plan.hosts)
    arrivals = {name: arrival(plan, name) for name in names}
    arrivals |= dict.fromkeys(names[:down])
    recognizer = info(9)
    keeper = SimpleNamespace(
        arrivals=arrivals, known={0: info(0), 1: info(1)}, recognizer=recognizer
    )
    starter = HostStarter(HostSettings(hosts=2), None, namespace="n")
    address = address_of(starter, plan, keeper)
    assert [each.name for each in address.info.teachers] == ["t0", "t1"]
    assert sorted(host.name for host in address.hosts) == sorted(names)
    assert [host.pid for host in address.hosts].count(0) == down
    if down == 2:
        assert address.info.recognizer == recognizer


def test_a_teacher_whose_host_was_lost_while_it_loaded_stops_the_change(plan):
    with pytest.raises(PoolChangeError, match="load fakes/1 was lost"):
        _check_places(plan, {0: info(0)}, [])
    _check_places(plan, {0: info(0)}, [arrival(plan, name) for name in plan.hosts])
