"""Which worker gets which batch."""

import random

from kd_ray.cluster.dealing import Dealing


def test_a_short_split_is_spread_over_all_workers_though_they_join_one_by_one():
    dealing = Dealing(batches=3, workers=3)
    assert dealing.deal() == []
    dealing.join(1)
    assert dealing.deal() == [(1, 0)]
    assert dealing.deal() == []
    dealing.join(0)
    assert dealing.deal() == [(0, 1)]
    assert dealing.done(1, 0)
    # There is one left for whoever comes first.
    assert dealing.deal() == [(1, 2)]
    dealing.join(2)
    assert dealing.deal() == []


def test_a_worker_has_a_second_batch_while_it_works():
    dealing = Dealing(batches=8, workers=2)
    dealing.join(0)
    assert dealing.deal() == [(0, 0), (0, 1)]
    dealing.join(1)
    assert dealing.deal() == [(1, 2), (1, 3)]
    assert dealing.done(0, 0)
    assert dealing.deal() == [(0, 4)]


def test_what_a_lost_worker_has_is_given_to_idle_ones_once():
    dealing = Dealing(batches=4, workers=3)
    for worker in range(3):
        dealing.join(worker)
    assert dealing.deal() == [(0, 0), (1, 1), (2, 2), (0, 3)]
    assert dealing.copies() == []
    assert dealing.done(1, 1)
    assert dealing.done(2, 2)
    # Worker 0 is gone.
    assert dealing.copies() == [(1, 0), (2, 3)]
    assert dealing.copies() == []
    assert dealing.done(1, 0)
    assert dealing.done(2, 3)
    assert dealing.is_over
    # It comes back after all.
    assert not dealing.done(0, 0)


def test_each_batch_is_first_done_once_whatever_happens():
    for seed in range(200):
        chance = random.Random(seed)
        batches, workers = chance.randint(1, 12), chance.randint(1, 4)
        dealing = Dealing(batches, workers)
        absent, running, first = list(range(workers)), [], []
        # At least one worker joins and works; the others may be lost.
        lost = set(chance.sample(range(workers), chance.randint(0, workers - 1)))
        for _ in range(1000):
            if dealing.is_over:
                break
            able = [each for each in running if each[0] not in lost]
            if absent and (not able or chance.random() < 0.3):
                dealing.join(absent.pop())
            elif able:
                done = chance.choice(able)
                running.remove(done)
                if dealing.done(*done):
                    first.append(done[1])
            else:
                dealt = dealing.copies()
                assert dealt, "nobody works, and nothing is left to do"
                running += dealt
            running += dealing.deal()
        assert sorted(first) == list(range(batches))
