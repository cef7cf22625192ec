"""What is remembered of rollouts, for how long, and how it travels."""

import json

import numpy as np
import pytest

from kd_ray.config.imitation import Both, Rollout
from kd_ray.core.contracts import Labels
from kd_ray.core.diagnostics import age_sums
from kd_ray.core.imitation import plan_items, with_older_rollouts
from kd_ray.students.rollout_memory import (
    RolloutMemory,
    Written,
    gather_in_flight,
    in_flight_from_json,
    rollouts_from_json,
    rollouts_to_json,
)


def memory_of(**config):
    memory = RolloutMemory.of(Rollout(**config), {})
    assert memory is not None
    return memory


def test_without_either_switch_nothing_is_remembered():
    assert RolloutMemory.of(Rollout(), {"a": [[1, [4]]]}) is None


@pytest.mark.parametrize(("update", "young"), [(5, True), (8, True), (9, False)])
def test_a_rollout_is_used_again_up_to_its_age(update, young):
    memory = memory_of(reuse_updates=3)
    memory.add(5, {"a": Written([7], 5)})
    assert memory.reusable("a", update) == (Written([7], 5) if young else None)
    assert memory.reusable("b", update) is None


def test_what_nobody_will_read_again_is_forgotten():
    memory = memory_of(reuse_updates=3)
    memory.add(5, {"a": Written([7], 5)})
    for update in (6, 7):
        memory.add(update, {})
        assert "a" in memory.stored
    memory.add(8, {})
    assert memory.stored == {}


def test_the_newest_take_the_place_of_the_oldest():
    memory = memory_of(aggregate=True, max_aggregated=2)
    for update in (1, 4, 9):
        own = Written([update], update)
        read = memory.prefixes("a", own)
        memory.add(update, {"a": own})
        assert [each.update for each in read] == {1: [1], 4: [1, 4], 9: [4, 9]}[update]
    assert memory.reusable("a", 9) is None, "aggregating alone reuses nothing"
    assert memory.prefixes("a", memory.stored["a"][-1]) == memory.stored["a"], "its own counts once"


def test_memories_come_out_of_json_as_they_went_in():
    stored = {"b": [Written([3, 4], 1), Written([], 2)], "a": [Written([5], 2)]}
    content = json.loads(json.dumps(rollouts_to_json(stored)))
    assert list(content) == ["a", "b"]
    assert rollouts_from_json(content) == stored


def test_in_flight_every_workers_rollouts_of_an_update_are_kept():
    mine = {"4": {"a": [Written([1], 4)]}, "5": {}}
    theirs = {"4": {"b": [Written([2], 3), Written([2, 2], 4)]}, "5": {"c": [Written([9], 5)]}}

    class Pair:
        rank, world = 0, 2

        def gather(self, values):
            other = {f"{u} {n}": (u, n, r[n]) for u, r in theirs.items() for n in r}
            return {**values, **other}

    gathered = in_flight_from_json(json.loads(json.dumps(gather_in_flight(mine, Pair()))))
    assert gathered == {"4": mine["4"] | theirs["4"], "5": theirs["5"]}


def test_older_rollouts_weigh_what_the_newest_weighs():
    data = Labels.of([[1, 1], [2], [3]])
    items = plan_items(
        Both(), data, {0: [4], 1: [5], 2: [6]}, beta=0.25, learns_gold=True
    )  # fmt: skip
    more = with_older_rollouts(items, {1: [[7], [8, 8]], 0: []})
    assert len(more) == len(items) + 2
    np.testing.assert_array_equal(more.utterance[-2:], [1, 1])
    assert [string.tolist() for string in more.prefix.strings()[-2:]] == [[7], [8, 8]]
    np.testing.assert_array_equal(more.kd_weight[-2:], [0.75, 0.75])
    np.testing.assert_array_equal(more.gold_weight[-2:], [0, 0])
    assert more.asked[-2:].all()
    assert more.on_policy[-2:].all()
    before = more.select(np.arange(len(items)))
    np.testing.assert_array_equal(before.prefix.lengths, items.prefix.lengths)
    np.testing.assert_array_equal(before.gold_weight, items.gold_weight)
    # A sentence that is read along its data prefix has no older rollouts either.
    alone = plan_items(Both(), data, {}, beta=1.0)
    assert with_older_rollouts(alone, {0: [[7]]}) is alone


def test_ages_are_means_over_rollouts_and_reuse_a_share_of_sentences():
    figures = age_sums([[9, 3], [4, 0], [6]]).figures()
    assert figures["rollout_age_updates"] == pytest.approx(22 / 5)
    assert figures["rollouts_per_sentence"] == pytest.approx(5 / 3)
    assert figures["rollout_reused_share"] == pytest.approx(2 / 3)
