import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.policies.placement import (
    NOWHERE,
    HostRoom,
    PlacementError,
    changes,
    place,
    replan,
)

GIB = 1 << 30


def rooms(count, memory=16 * GIB, per_node=1):
    return [HostRoom(f"h{i}", f"n{i // per_node}", memory) for i in range(count)]


def counts(placement, hosts):
    return [len(placement.teachers_of(host.name)) for host in hosts]


sizes = st.dictionaries(st.integers(0, 40), st.integers(1, 100), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(
    sizes,
    st.lists(st.tuples(st.integers(100, 900), st.integers(0, 2)), min_size=1, max_size=6),
    st.dictionaries(st.integers(0, 40), st.integers(1, 4)),
    st.dictionaries(st.integers(0, 40), st.floats(0, 10)),
)
def test_every_copy_has_a_host_of_its_own_and_nothing_moves_without_a_reason(
    teachers, given_hosts, replicas, load
):
    hosts = [HostRoom(f"h{i}", f"n{node}", size) for i, (size, node) in enumerate(given_hosts)]
    placed = place(teachers, hosts, replicas=replicas, load=load)
    assert placed == place(teachers, hosts, replicas=replicas, load=load)
    assert set(placed.hosts) == set(teachers)
    names = {host.name for host in hosts}
    for teacher, where in placed.hosts.items():
        assert len(where) == len(set(where)) == min(replicas.get(teacher, 1), len(hosts))
        assert set(where) <= names
    again = replan(placed, teachers, hosts, replicas=replicas, load=load)
    assert again.hosts == placed.hosts
    assert changes(placed, again).loads == ()


@settings(max_examples=200, deadline=None)
@given(sizes, st.integers(1, 6), st.dictionaries(st.integers(0, 40), st.floats(0.01, 10)))
def test_levels_stay_within_a_tenth_or_one_teacher_of_what_is_fair(teachers, count, load):
    hosts = rooms(count)
    placed = place(teachers, hosts, load=load)
    everything, work = sum(teachers.values()), sum(load.get(index, 1.0) for index in teachers)
    share = {
        index: (size / everything + load.get(index, 1.0) / work) / 2 * count
        for index, size in teachers.items()
    }
    for host in hosts:
        level = sum(share[index] for index in placed.teachers_of(host.name))
        assert level <= 1 + max(0.1, *share.values()) + 1e-6


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 6))
def test_what_fits_twice_over_never_takes_turns(teachers, count):
    memory = max(2 * sum(teachers.values()) // count, 4 * max(teachers.values())) + 1
    assert place(teachers, rooms(count, memory)).notes == ()


def test_copies_lie_on_different_nodes():
    hosts = rooms(4, per_node=2)
    placed = place(dict.fromkeys(range(6), GIB), hosts, replicas=dict.fromkeys(range(6), 2))
    nodes = {host.name: host.node for host in hosts}
    assert all({nodes[name] for name in where} == {"n0", "n1"} for where in placed.hosts.values())
    assert counts(placed, hosts) == [3, 3, 3, 3]


def test_a_host_with_twice_the_memory_and_compute_gets_twice_the_teachers():
    hosts = [HostRoom("large", "a", 20, 2.0), HostRoom("small", "b", 10, 1.0)]
    assert counts(place(dict.fromkeys(range(9), 1), hosts), hosts) == [6, 3]


def test_hot_teachers_are_kept_apart():
    placed = place(dict.fromkeys(range(8), 1), rooms(2), load={0: 10, 1: 10})
    assert placed.hosts[0] != placed.hosts[1]


@pytest.mark.parametrize(
    ("before", "after", "loads", "drops"),
    [(4, 4, 0, 0), (4, 5, 54, 54), (5, 4, 60, 0), (4, 2, 150, 0)],
    ids=["unchanged", "host added", "host lost", "two hosts lost"],
)
def test_a_change_of_hosts_moves_what_must_move(before, after, loads, drops):
    teachers = dict.fromkeys(range(300), GIB // 100)
    old, hosts = place(teachers, rooms(before)), rooms(after)
    new = replan(old, teachers, hosts)
    move = changes(old, new)
    gone = [entry for entry in move.drops if entry[1] not in {host.name for host in hosts}]
    # A host that comes takes nine tenths of its fair share, so that 60 would be the most.
    assert len(move.loads) == pytest.approx(loads, abs=1)
    assert len(move.drops) - len(gone) == pytest.approx(drops, abs=1)
    spread = counts(new, hosts)
    assert max(spread) - min(spread) <= 0.2 * 300 / after
    assert f"{len(move.loads)} loads" in move.reason


def test_adding_removing_and_replacing_a_teacher_moves_no_other():
    teachers, hosts = dict.fromkeys(range(40), 100), rooms(4, memory=1200)
    old = place(teachers, hosts)
    more = replan(old, teachers | {40: 100}, hosts)
    assert [teacher for teacher, _ in changes(old, more).loads] == [40]
    fewer = replan(old, {k: v for k, v in teachers.items() if k != 7}, hosts)
    assert changes(old, fewer).loads == ()
    assert changes(old, fewer).drops == ((7, old.hosts[7][0]),)
    replaced = replan(old, teachers | {7: 150}, hosts)
    assert changes(old, replaced).loads == ()


def test_a_replacement_that_no_longer_fits_pushes_as_few_out_as_needed():
    teachers, hosts = dict.fromkeys(range(40), 100), rooms(4, memory=1100)
    old = place(teachers, hosts)
    new = replan(old, teachers | {7: 250}, hosts)
    assert len(changes(old, new).loads) == 1
    assert new.notes == ()


def test_a_copy_more_and_a_copy_less_leave_the_others_where_they_are():
    teachers, hosts = dict.fromkeys(range(8), 10), rooms(4, per_node=2)
    one = place(teachers, hosts)
    two = replan(one, teachers, hosts, replicas={3: 2})
    assert [teacher for teacher, _ in changes(one, two).loads] == [3]
    assert changes(one, two).drops == ()
    back = replan(two, teachers, hosts)
    assert changes(two, back).loads == ()
    assert len(back.hosts[3]) == 1


def test_more_than_fits_is_placed_and_said_with_figures():
    placed = place(dict.fromkeys(range(10), GIB), rooms(2, memory=2 * GIB))
    assert placed.notes == (
        "host h0: 5 teachers of 5.00 GiB share 2.00 GiB by turns (paging)",
        "host h1: 5 teachers of 5.00 GiB share 2.00 GiB by turns (paging)",
    )
    assert "10 teachers (10 copies, 10.00 GiB) on 2 hosts (4.00 GiB)" in placed.reason


def test_more_copies_than_hosts_are_left_away_and_said():
    placed = place({0: 1}, rooms(2), replicas={0: 5})
    assert placed.hosts == {0: ("h0", "h1")}
    assert placed.notes == ("teacher 0: 5 copies were asked, 2 hosts are there",)


@pytest.mark.parametrize(
    ("teachers", "hosts", "replicas", "message"),
    [
        ({0: 1}, [], {}, "1 teachers are to be placed and there are no hosts"),
        ({0: 1}, [*rooms(1), *rooms(1)], {}, "two hosts are called h0"),
        ({3: 3 * GIB}, rooms(2, 2 * GIB), {}, "teacher 3 has 3.00 GiB .* h0, 2.00 GiB"),
        ({3: 1}, rooms(1), {3: 0}, "teacher 3 is to have 0 copies"),
        ({3: 1}, [HostRoom("h", "n", 1, 0.0)], {}, "host h has 1 bytes .* compute 0"),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(teachers, hosts, replicas, message):
    with pytest.raises(PlacementError, match=message):
        replan(NOWHERE, teachers, hosts, replicas=replicas)
