"""Teachers that take turns in memory: who makes room, what fails, what it costs."""

import itertools
import logging
import pickle
import threading

import pytest
import torch

from kd_ray.core.contracts import TeacherInfo
from kd_ray.teachers.cards import TeacherCard
from kd_ray.teachers.residency import LoadFailed, Residency


def card(index, size=10, digest=None):
    info = TeacherInfo(
        index=index, name=f"t{index}", folder=f"fakes/{index}", digest=digest or f"d{index}",
        tokens_digest="t", vocabulary_size=7, blank=0, bos=1, eos=2, front_end_digest="f",
        frame_rate_hz=25.0, parameters=1,
    )  # fmt: skip
    return TeacherCard(info, size, (0, 0))


def digest_of(one, device):
    return one.info.digest


def sweep(residency, *order):
    for index in order:
        with residency.use(index) as teacher:
            assert teacher == f"d{index}"
    return residency.status


def fewest_loads(order, capacity):
    """Belady's optimum, by trying all that could be evicted."""
    states = {frozenset(): 0}
    for index in order:
        following = {}
        for loaded, loads in states.items():
            if index in loaded:
                options = [(loaded, loads)]
            elif len(loaded) < capacity:
                options = [(loaded | {index}, loads + 1)]
            else:
                options = [(loaded - {gone} | {index}, loads + 1) for gone in loaded]
            for state, cost in options:
                following[state] = min(cost, following.get(state, cost))
        states = following
    return min(states.values())


@pytest.mark.parametrize(("teachers", "capacity"), [(5, 1), (5, 2), (6, 4), (7, 6), (5, 5)])
def test_sweeps_load_as_few_as_anybody_could(teachers, capacity):
    residency = Residency([card(i) for i in range(teachers)], digest_of, max_bytes=10 * capacity)
    order = list(range(teachers)) * 6
    status = sweep(residency, *order)
    assert status.loads == fewest_loads(order, capacity)
    if capacity > 1:
        assert status.loads < len(order)  # what LRU needs
    assert status.resident_bytes <= 10 * capacity
    assert status.evictions == status.loads - len(status.resident)
    assert sum(status.loads_of.values()) == status.loads


def test_bytes_are_bounded_whatever_the_sizes():
    sizes = [30, 5, 20, 10, 25]
    residency = Residency([card(i, s) for i, s in enumerate(sizes)], digest_of, max_bytes=45)
    for index in itertools.islice(itertools.cycle(range(5)), 20):
        assert sweep(residency, index).resident_bytes <= 45
        assert residency.is_resident(index)


def test_a_teacher_larger_than_the_bound_is_loaded_alone_and_said(caplog):
    residency = Residency([card(0), card(1, 99)], digest_of, max_bytes=20)
    with caplog.at_level(logging.WARNING):
        assert sweep(residency, 0, 1).resident == (1,)
    assert "loaded alone" in caplog.text
    assert sweep(residency, 0).resident == (0,)


def test_a_teacher_in_use_is_not_dropped():
    residency = Residency([card(i) for i in range(3)], digest_of, max_bytes=20)
    with residency.use(0), residency.use(1), residency.use(2):
        assert residency.status.resident == (0, 1, 2)


def test_a_broken_teacher_fails_alone_and_is_not_tried_for_ever():
    attempts = []

    def load(one, device):
        attempts.append(one.index)
        if one.index == 1:
            raise OSError("truncated")
        return one.info.digest

    residency = Residency([card(i) for i in range(3)], load, max_bytes=30, retries=1)
    for final in (False, True, True):
        with pytest.raises(LoadFailed, match=r"teacher 1 .* OSError: truncated") as error:
            sweep(residency, 1)
        assert (error.value.index, error.value.final) == (1, final)
    assert attempts == [1, 1]
    status = sweep(residency, 0, 2)
    assert status.failed == {1: "OSError: truncated"}
    assert status.resident == (0, 2)
    residency.replace(card(1, digest="sound"))
    with pytest.raises(LoadFailed, match="truncated"):
        sweep(residency, 1)
    assert residency.status.failed == {}


def test_teachers_come_go_and_change_while_passes_run():
    residency = Residency([card(0), card(1)], digest_of, max_bytes=20)
    with pytest.raises(ValueError, match="teacher 0 is fakes/0 here"):
        residency.add(card(0))
    with residency.use(0) as old:
        residency.replace(card(0, digest="new"))
        residency.remove(1)
        with residency.use(0) as new:
            assert (old, new) == ("d0", "new")
            assert residency.status.resident_bytes == 20
    assert residency.status.resident_bytes == 10
    with pytest.raises(LoadFailed, match="no such teacher on this host"):
        sweep(residency, 1)
    residency.add(card(5))
    assert [one.index for one in residency.cards] == [0, 5]
    assert sweep(residency, 5).resident == (0, 5)


def test_a_teacher_replaced_while_it_is_loaded_is_not_served():
    started, gate = threading.Event(), threading.Event()

    def load(one, device):
        started.set()
        assert gate.wait(10)
        return one.info.digest

    residency, errors = Residency([card(0)], load, max_bytes=20), []

    def ask():
        try:
            sweep(residency, 0)
        except LoadFailed as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert started.wait(10)
    residency.replace(card(0, digest="new"))  # a status or a change does not wait for a load
    gate.set()
    thread.join(10)
    assert [(one.index, one.final) for one in errors] == [(0, False)]
    with residency.use(0) as teacher:
        assert teacher == "new"


def test_full_device_memory_costs_residents_first():
    loaded = []

    def load(one, device):
        if one.index == 3 and len(residency.status.resident) > 1:
            raise torch.OutOfMemoryError("no memory")
        loaded.append(one.index)
        return one.info.digest

    residency = Residency([card(i) for i in range(4)], load, max_bytes=99)
    assert sweep(residency, 0, 1, 2, 3).resident == (0, 3)
    assert loaded == [0, 1, 2, 3]
    assert residency.status.failed == {}


def test_a_failure_to_load_travels_between_processes():
    told = pickle.loads(pickle.dumps(LoadFailed(3, "no such file", final=True)))
    assert (told.index, told.reason, told.final) == (3, "no such file", True)
    assert str(told) == "teacher 3 cannot be loaded: no such file"
