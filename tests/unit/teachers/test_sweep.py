"""The order of visits, and what it saves against the order of arrival."""

import heapq
import random

import pytest

from kd_ray.teachers.sweep import Ready, Sweep


def order(sweep, *turns):
    """Teachers chosen; a turn is (teachers that are ready, newest request)."""
    return [
        sweep.next([Ready(teacher, newest) for teacher in ready], newest).teacher
        for newest, ready in enumerate(turns)
    ]


def test_teachers_come_in_turn():
    sweep = Sweep(0)
    assert order(sweep, (0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2)) == [0, 1, 2, 0]
    assert sweep.rounds == 1
    assert sweep.next([], 9) is None


def test_a_visit_takes_what_came_at_most_window_requests_later():
    sweep = Sweep(2)
    assert sweep.next([Ready(3, 4), Ready(5, 4)], 6).teacher == 3
    for arrived, goes_on in ((5, True), (6, True), (8, True), (9, False)):
        visit = sweep.next([Ready(3, arrived), Ready(5, 4)], 20)
        assert visit.teacher == (3 if goes_on else 5)
    assert "teacher 5 is next of 2" in visit.reason


def test_a_higher_priority_goes_first_and_long_waiting_counts_as_one():
    sweep = Sweep(0, overdue_s=5.0)
    assert sweep.next([Ready(0, 1), Ready(7, 1, priority=1)], 1).teacher == 7
    assert sweep.next([Ready(0, 1, waited_s=4.9), Ready(7, 2, priority=1)], 2).teacher == 7
    assert sweep.next([Ready(0, 1, waited_s=5.0), Ready(7, 3, priority=1)], 3).teacher == 0


def test_a_busy_teacher_cannot_hold_the_sweep():
    sweep, visits = Sweep(4), []
    for newest in range(200):
        # Teacher 0 always has the newest request; the others wait since the first.
        ready = [Ready(0, newest), *(Ready(t, 0) for t in range(1, 10) if t not in visits)]
        visits.append(sweep.next(ready, newest).teacher)
    assert set(visits[:15]) == set(range(10))


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="got -1 and inf"):
        Sweep(-1)


class Pages:
    """Which teachers are loaded, as a list of indices and a count of loads."""

    def __init__(self, capacity, victim):
        self.capacity, self.victim = capacity, victim
        self.loaded, self.loads = [], 0

    def use(self, teacher):
        if teacher in self.loaded:
            self.loaded.remove(teacher)
        else:
            self.loads += 1
            if len(self.loaded) == self.capacity:
                self.loaded.remove(self.victim(self.loaded, teacher))
        self.loaded.append(teacher)


def least_recent(loaded, _):
    return loaded[0]


def reached_last(loaded, coming):
    return max(loaded, key=lambda teacher: (teacher < coming, teacher))


def loads_per_window(choose, victim, *, teachers, capacity, window, requests, think_s):
    """Loads of a teacher in `window` requests, with `window` requests in flight all the time.

    A load takes 1 s, a pass 0.1 s and 0.1 s for each request; the next request follows an answer
    after `think_s` on average.
    """
    generator = random.Random(0)
    pages, waiting, left = Pages(capacity, victim), {}, {}
    clock, newest, done = 0.0, 0, 0
    coming = [generator.uniform(0, 5 * think_s) for _ in range(window)]
    heapq.heapify(coming)
    while done < requests:
        if not waiting:
            clock = max(clock, coming[0])
        while coming and coming[0] <= clock:
            heapq.heappop(coming)
            newest += 1
            left[newest] = teachers
            for teacher in range(teachers):
                waiting.setdefault(teacher, []).append(newest)
        teacher = choose([Ready(index, work[0]) for index, work in waiting.items()], newest)
        before = pages.loads
        pages.use(teacher)
        work = waiting.pop(teacher)
        clock += pages.loads - before + 0.1 + 0.1 * len(work)
        for request in work:
            left[request] -= 1
            if not left[request]:
                done += 1
                heapq.heappush(coming, clock + generator.uniform(0, 2 * think_s))
    return pages.loads / teachers / (requests / window)


def by_sweep(window):
    sweep = Sweep(window)
    return lambda ready, newest: sweep.next(ready, newest).teacher


def by_arrival(ready, newest):
    return min(ready, key=lambda each: (each.arrived, each.teacher)).teacher


@pytest.mark.parametrize(
    ("teachers", "capacity", "window", "think_s", "most", "first_come"),
    [(10, 4, 4, 1.0, 0.75, 1.0), (10, 4, 8, 5.0, 0.95, 1.3), (60, 20, 8, 2.0, 0.8, 1.0)],
)
def test_a_teacher_is_loaded_at_most_once_in_a_look_ahead_window(
    teachers, capacity, window, think_s, most, first_come
):
    setting = {
        "teachers": teachers,
        "capacity": capacity,
        "window": window,
        "requests": 40 * window,
        "think_s": think_s,
    }
    assert loads_per_window(by_sweep(window), reached_last, **setting) <= most
    assert loads_per_window(by_arrival, least_recent, **setting) >= first_come
