"""Who lives where in a pool, what changes between two files, and who knows of it; without Ray."""

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from doubles import load_fake_teachers
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.cluster.pool.address import HostAddress, PoolAddress
from kd_ray.cluster.pool.changes import PoolChangeError
from kd_ray.cluster.pool.jobs import JobBook
from kd_ray.cluster.pool.plan import PoolSpec, first_plan, next_plan, weight_bytes
from kd_ray.cluster.pool.scaler import PoolScaler, copies_of, queued_seconds
from kd_ray.cluster.pool.update import updated_plan
from kd_ray.cluster.pool.views import PoolError, view_after, view_of
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import HostSettings
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.contracts import PROTOCOL_VERSION, TeachersInfo
from kd_ray.teachers.batching import BatchStatistics
from kd_ray.teachers.costs import JobCost
from kd_ray.teachers.host_state import HostStatus


def plan_of(teachers=4, hosts=2, replicas=1):
    folders = [f"fakes/{seed}" for seed in range(1, teachers + 1)]
    settings = HostSettings(hosts=hosts, replicas=replicas)
    return first_plan("p-host-", folders, settings, [1] * teachers), settings


def same_sizes(plan, more=0):
    return dict.fromkeys([*plan.teachers, *range(plan.next_teacher, plan.next_teacher + more)], 1)


def test_a_new_pool_deals_its_teachers_out():
    plan, _ = plan_of()
    assert plan.hosts == {"p-host-0": (0, 2), "p-host-1": (1, 3)}
    assert [str(folder) for folder in plan.folders("p-host-1").values()] == ["fakes/2", "fakes/4"]
    few, _ = plan_of(teachers=1, hosts=3)
    assert few.hosts == {"p-host-0": (0,)}
    twice, _ = plan_of(teachers=2, hosts=2, replicas=2)
    assert twice.hosts == {"p-host-0": (0, 1), "p-host-1": (0, 1)}


def test_a_teacher_larger_than_a_host_is_placed_all_the_same():
    plan = first_plan("h", ["a", "b"], HostSettings(hosts=2, memory_mib=1), [1 << 30, 1])
    assert sorted(plan.hosts.values()) == [(0,), (1,)]


def test_weights_are_measured_in_run_and_checkpoint_folders(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model.safetensors").write_bytes(b"12345")
    assert weight_bytes(tmp_path / "run") == weight_bytes(tmp_path / "run" / "model") == 5
    assert weight_bytes("fakes/1") == 1


def test_who_replaces_another_begins_on_its_hosts_and_numbers_are_never_given_twice():
    plan, settings = plan_of()
    after = next_plan(plan, settings, same_sizes(plan, 2), add=["x"], replace={1: "again/2"})
    assert after.teachers == {0: "fakes/1", 2: "fakes/3", 3: "fakes/4", 4: "x", 5: "again/2"}
    assert 5 in after.hosts["p-host-1"]
    assert set(after.hosts["p-host-0"]) >= {0, 2}
    assert after.current(1) == 5
    assert after.current(0) == 0
    assert after.version == 1
    again = next_plan(after, settings, same_sizes(after, 1), replace={5: "y"}, remove=[4])
    assert again.current(1) == 6
    assert sorted(again.teachers) == [0, 2, 3, 6]
    later = next_plan(again, settings, same_sizes(again, 1), add=["z"])
    assert later.teachers[7] == "z"
    with pytest.raises(ValueError, match="no teachers 9; it has 0, 1, 2, 3"):
        next_plan(plan, settings, same_sizes(plan), remove=[9])
    with pytest.raises(ValueError, match="at least one teacher and one host"):
        next_plan(plan, settings, same_sizes(plan), remove=list(plan.teachers))


def test_hosts_come_and_go_and_nothing_moves_without_need():
    plan, settings = plan_of(teachers=6, hosts=2)
    grown = next_plan(plan, settings, same_sizes(plan), more_hosts=1)
    assert list(grown.hosts) == ["p-host-0", "p-host-1", "p-host-2"]
    assert sorted(index for held in grown.hosts.values() for index in held) == list(range(6))
    assert all(len(held) == 2 for held in grown.hosts.values())
    moved = [i for name in plan.hosts for i in plan.hosts[name] if i not in grown.hosts[name]]
    assert len(moved) == 2
    back = next_plan(grown, settings, same_sizes(grown), without_hosts=["p-host-0"])
    assert list(back.hosts) == ["p-host-1", "p-host-2"]
    assert all(i in back.hosts["p-host-1"] for i in grown.hosts["p-host-1"])
    fresh = next_plan(back, settings, same_sizes(back), more_hosts=2, without_hosts=back.hosts)
    assert list(fresh.hosts) == ["p-host-3", "p-host-4"]


@given(st.lists(st.sampled_from(["grow", "shrink", "add", "remove", "replace"]), max_size=12))
def test_every_teacher_always_lives_somewhere_and_no_host_has_strangers(steps):
    plan, settings = plan_of(teachers=5, hosts=2, replicas=2)
    for step in steps:
        first, host = min(plan.teachers), next(iter(plan.hosts))
        sizes = same_sizes(plan, 1)
        if step == "grow" and len(plan.hosts) < 5:
            plan = next_plan(plan, settings, sizes, more_hosts=1)
        elif step == "shrink" and len(plan.hosts) > 1:
            plan = next_plan(plan, settings, sizes, without_hosts=[host])
        elif step == "add":
            plan = next_plan(plan, settings, sizes, add=["new"])
        elif step == "remove" and len(plan.teachers) > 1:
            plan = next_plan(plan, settings, sizes, remove=[first])
        elif step == "replace":
            plan = next_plan(plan, settings, sizes, replace={first: "other"})
        held = copies_of(plan)
        assert set(held) == set(plan.teachers)
        assert set(held.values()) == {min(2, len(plan.hosts))}


def spec(folders, digests=(), **changes):
    config = {"command": "pool", "name": "p", "teachers": {"list": "unused"}, **changes}
    return PoolSpec(PoolConfig.model_validate(config), tuple(folders), digests=tuple(digests))


FIRST = ["fakes/1", "fakes/2", "fakes/3"]


def test_an_update_is_the_difference_of_two_files():
    before = spec(FIRST, hosts={"hosts": 2})
    plan = first_plan("h", FIRST, before.config.hosts, [1, 1, 1])
    now = spec(["fakes/3", "again/1", "fakes/4"], hosts={"hosts": 2})
    update, after = updated_plan(before, now, plan, fresh_hosts=False)
    assert (update.added, update.removed) == (("fakes/4",), ("fakes/2",))
    assert (update.replaced, update.kept) == ((("fakes/1", "again/1"),), 1)
    assert sorted(after.teachers.values()) == ["again/1", "fakes/3", "fakes/4"]
    nothing, same = updated_plan(before, spec(FIRST, hosts={"hosts": 2}), plan, fresh_hosts=False)
    assert nothing.kept == 3
    assert same is plan
    with pytest.raises(PoolChangeError, match=r"other settings.*--replace"):
        updated_plan(before, spec(FIRST, hosts={"hosts": 3}), plan, fresh_hosts=False)


def test_new_weights_in_the_same_folder_are_another_teacher():
    before = spec(FIRST, "abc")
    plan = first_plan("h", FIRST, before.config.hosts, [1, 1, 1])
    update, after = updated_plan(before, spec(FIRST, "abx"), plan, fresh_hosts=False)
    assert update.replaced == (("fakes/3", "fakes/3"),)
    assert update.kept == 2
    assert after.current(2) == 3
    assert after.teachers[3] == "fakes/3"


def test_a_replaced_pool_has_new_hosts_alone():
    before = spec(FIRST, hosts={"hosts": 2})
    plan = first_plan("h", FIRST, before.config.hosts, [1, 1, 1])
    now = spec(FIRST, hosts={"hosts": 1, "cache_mib": 1})
    update, after = updated_plan(before, now, plan, fresh_hosts=True)
    assert (update.kept, update.hosts) == (3, 1)
    assert after.hosts == {"h2": (0, 1, 2)}


def address(teachers, *, version=0, replaced=None, protocol=PROTOCOL_VERSION):
    """Index -> seed."""
    fakes = [
        dataclasses.replace(load_fake_teachers([_folder(seed)], "cpu")[0].info, index=index)
        for index, seed in teachers.items()
    ]
    return PoolAddress(
        namespace="n",
        hosts=(HostAddress("h0", tuple(teachers), 1, "node"),),
        info=TeachersInfo(teachers=tuple(fakes), source="pool", protocol=protocol),
        settings=PoolSettings(),
        version=version,
        replaced=replaced or {},
    )


def _folder(seed):
    return Path(f"fakes/{seed}")


SECTION = PoolSettings(name="p")


def test_a_job_has_its_own_teachers_in_its_own_order():
    pool = address({0: 1, 2: 3, 5: 6})
    everyone = view_of(pool, SECTION, None)
    assert everyone.places == (0, 2, 5)
    assert [info.index for info in everyone.info.teachers] == [0, 1, 2]
    some = view_of(pool, SECTION, ["digest-6", "digest-1"])
    assert some.places == (5, 0)
    assert some.numbers([0, 5, 2]) == [1, 0]
    with pytest.raises(PoolError, match=r"lacks 1 of the 2 teachers.*digest-9"):
        view_of(pool, SECTION, ["digest-6", "digest-9"])
    with pytest.raises(PoolError, match=f"speaks protocol 1 .*this job {PROTOCOL_VERSION}"):
        view_of(address({0: 1}, protocol=1), SECTION, None)


def test_a_running_job_follows_replacements_and_misses_who_was_removed():
    mine = view_of(address({0: 1, 1: 2, 2: 3}), SECTION, ["digest-3", "digest-1", "digest-2"])
    replaced, removed = [], []
    now = address({1: 2, 3: 11, 4: 8}, version=2, replaced={0: 3})
    after = view_after(mine, now, lambda *seen: replaced.append(seen), removed.append)
    assert after.places == (2, 3, 1)
    assert after.version == 2
    assert [info.name for info in after.info.teachers] == ["fake-3", "fake-11", "fake-2"]
    assert [(number, info.digest) for number, info in replaced] == [(1, "digest-11")]
    assert removed == [0]
    # Told once.
    later = address({1: 2, 3: 11}, version=3, replaced={0: 3})
    assert view_after(after, later, lambda *_: 1 / 0, lambda _: 1 / 0).places == (2, 3, 1)


def test_a_running_job_is_told_of_another_precision():
    """New hosts with the old teachers: other numbers."""
    mine, now = view_of(address({0: 1, 1: 2}), SECTION, None), address({0: 1, 1: 2}, version=1)
    half = tuple(dataclasses.replace(i, precision="bfloat16") for i in now.info.teachers)
    now = dataclasses.replace(now, info=dataclasses.replace(now.info, teachers=half))
    replaced = []
    after = view_after(mine, now, lambda *seen: replaced.append(seen), lambda _: 1 / 0)
    assert [info.answers_digest for _, info in replaced] == [
        "digest-1-bfloat16", "digest-2-bfloat16"
    ]  # fmt: skip
    assert after.places == (0, 1)
    view_after(after, now, lambda *_: 1 / 0, lambda _: 1 / 0)


def test_what_goes_waits_for_clients_that_live_and_do_not_know_yet():
    book = JobBook()
    book.knows("quick", 1)
    book.knows("late", 0)
    assert book.await_followers(1, 0.05, 60) == ["late"]
    threading.Timer(0.1, book.knows, ("late", 1)).start()
    started = time.monotonic()
    assert book.await_followers(1, 10, 60) == []
    assert time.monotonic() - started < 5
    book.knows("gone", 0)
    assert book.await_followers(1, 10, 0.0) == []
    book.knows("closed", 0)
    threading.Timer(0.1, book.unfollow, ("closed",)).start()
    assert book.await_followers(1, 10, 60) == []


def test_jobs_are_given_up_when_they_fall_silent_and_taken_back():
    book = JobBook()
    number = book.enter("a", 2.0, patience_s=0)
    assert book.names == ["a"]
    assert book.views[0].weight == 2.0
    time.sleep(0.02)
    assert [job.name for job in book.silent(0.01)] == ["a"]
    assert book.renew(number, "a", 2.0) is False
    assert book.renew(number, "a", 2.0) is True
    assert book.leave(number).name == "a"
    assert book.leave(number) is None
    # A sign of life that the leave has overtaken on its way.
    assert book.renew(number, "a", 2.0) is True
    assert book.names == []


def status(queued=0, busy=None, teacher_s=0.0, rows=0, expired=0):
    return HostStatus(
        teachers=(0, 1),
        quarantined={},
        open_requests=queued,
        queued_utterances=queued,
        batches=BatchStatistics(expired=expired),
        jobs={},
        costs={"j": JobCost(rows=rows, teacher_s=teacher_s)},
        errors={},
        busy_s=busy or {0: 0.0, 1: 0.0},
        cache=None,
        residency=None,
    )


def scaler(**scaling):
    section = {"max_hosts": 3, "hold_s": 0.05, "cooldown_s": 0, **scaling}
    config = spec(["a", "b"], hosts={"hosts": 1}, scaling=section).config
    return PoolScaler(config, config.scaling), first_plan("h", ["a", "b"], config.hosts, [1, 1])


def looks(one, hosts, times=3):
    for _ in range(times):
        one.look(hosts, 1)
        time.sleep(0.03)


def test_seconds_queued_are_by_what_work_took_so_far():
    assert queued_seconds(status(queued=10, teacher_s=4.0, rows=8)) == 5.0
    assert queued_seconds(status(queued=10)) == 0.0


def test_a_pool_grows_when_work_waits_and_no_further_than_it_has_teachers():
    one, plan = scaler()
    looks(one, {"h0": status(queued=100, teacher_s=1.0, rows=1)})
    wish = one.judge(plan)
    assert wish.resized
    assert "queued per host" in wish.reason
    assert sorted(wish.plan.hosts.values()) == [(0,), (1,)]
    copied, plan = scaler(max_replicas=3)
    busy = [{0: 0.0, 1: 0.0}, {0: 9.0, 1: 0.0}]
    for seconds in busy:
        looks(copied, {"h0": status(queued=100, teacher_s=1.0, rows=1, busy=seconds)}, 2)
    wish = copied.judge(plan)
    assert wish.resized
    assert copies_of(wish.plan)[0] == 2
    assert copies_of(wish.plan)[1] == 1


def test_an_idle_host_leaves_and_a_lost_one_is_no_idle_one():
    one, plan = scaler()
    two = next_plan(plan, HostSettings(hosts=1), {0: 1, 1: 1}, more_hosts=1)
    looks(one, {"h0": status(), "h1": status()})
    wish = one.judge(two)
    assert wish.resized
    assert len(wish.plan.hosts) == 1
    one.changed()
    assert one.judge(two) is None
    looks(one, {"h0": status()})
    assert one.judge(two) is None


def test_a_busy_teacher_gets_a_copy_where_there_are_hosts():
    one, plan = scaler(max_replicas=2, min_hosts=1, grow_above_s=1e9)
    two = next_plan(plan, HostSettings(hosts=1), {0: 1, 1: 1}, more_hosts=1)
    for seconds in ({0: 0.0, 1: 0.0}, {0: 9.0, 1: 0.0}):
        looks(one, {"h0": status(5, seconds, 1.0, 1), "h1": status(5, {1: 0.0}, 1.0, 1)}, 2)
    wish = one.judge(two)
    assert not wish.resized
    assert copies_of(wish.plan) == {0: 2, 1: 1}
    assert "0: 1 -> 2" in wish.reason
