"""Rollouts that are read again, and rollouts that stay as further prefixes (DAgger)."""

import pytest
import tiny
import torch
from test_imitation_runs import PLAIN, imitate, source_of
from tiny_runs import assert_close, in_two_processes, join_group, last_weights, run, train_lines

from kd_ray.config.load import ConfigError
from kd_ray.students import loop, pipeline, rollouts
from kd_ray.students.collective import ProcessGroup

REUSE, AGGREGATE = {"reuse_updates": 4}, {"aggregate": True, "max_aggregated": 2}
MEMORIES = {"reuse": REUSE, "aggregate": AGGREGATE, "both": {**REUSE, **AGGREGATE}}
UPDATES_PER_EPOCH = 3


@pytest.fixture(scope="module")
def experts(tiny_root):
    return tiny.make_experts(tiny_root)


def settings(name, experts, memory, preset="imitkd_full", staleness=0, **overrides):
    beta = {"beta": {"type": "linear"}} if preset == "imitkd_full" else {}
    rollout = {"max_length": 6, **memory}
    return imitate(
        name, experts, preset, **{"training__epochs": 4, **overrides},
        distillation={**beta, "rollout": rollout, "staleness": staleness},
    )  # fmt: skip


def distil(root, experts, config, collective=None):
    source = source_of(root, experts)
    try:
        return run(config, root, collective, source)
    finally:
        source.close()


def lines_of(root, name):
    return [line for line in train_lines(root, name) if line["kind"] == "train"]


def watch(monkeypatch):
    """What each update decodes, and what it reads: ids to [(update, tokens), ...]."""
    decoded, read = {}, {}
    decode, remember = rollouts.Planner._decode, rollouts.Planner.remember

    def decoding(self, batch, update):
        written = decode(self, batch, update)
        decoded.setdefault(update, {}).update(zip(batch.utterance_ids, written, strict=True))
        return written

    def remembering(self, update, each):
        read[update] = {name: [(w.update, w.ids) for w in rows] for name, rows in each.items()}
        return remember(self, update, each)

    monkeypatch.setattr(rollouts.Planner, "_decode", decoding)
    monkeypatch.setattr(rollouts.Planner, "remember", remembering)
    return decoded, read


@pytest.mark.parametrize(("kind", "staleness"), [("reuse", 0), ("aggregate", 2), ("both", 1)])
def test_what_is_read_is_what_a_plain_account_of_all_rollouts_says(
    tiny_root, experts, monkeypatch, kind, staleness
):
    decoded, read = watch(monkeypatch)
    memory = MEMORIES[kind]
    config = settings(f"account-{kind}", experts, memory, "always_student", staleness)
    distil(tiny_root, experts, config)
    history: dict[str, list] = {}
    for update in range(4 * UPDATES_PER_EPOCH):
        assert len(read[update]) == 8
        fresh = decoded.get(update, {})
        ages = []
        for name, prefixes in read[update].items():
            before = history.setdefault(name, [])
            young = before and update - before[-1][0] <= memory.get("reuse_updates", 0)
            assert (name in fresh) != bool(young)
            if not young:
                before.append((update, fresh[name]))
            expected = before[-2:] if memory.get("aggregate") else before[-1:]
            assert prefixes == expected
            ages.append([update - made for made, _ in expected])
        line = lines_of(tiny_root, config.name)[update]
        flat = [age for each in ages for age in each]
        assert line["rollout_age_updates"] == pytest.approx(sum(flat) / len(flat))
        assert line["rollouts_per_sentence"] == len(flat) / 8
        assert line["rollout_reused_share"] == sum(each[-1] > 0 for each in ages) / 8
        assert line["replaced_share"] == 1
    reused = sum(8 - len(decoded.get(update, {})) for update in read)
    assert (reused > 0) == ("reuse_updates" in memory)


def test_reuse_saves_decoding_and_learns_from_the_old_prefix(tiny_root, experts, monkeypatch):
    decoded, _ = watch(monkeypatch)
    distil(tiny_root, experts, settings("saving", experts, {"reuse_updates": 100}))
    names = [name for each in decoded.values() for name in each]
    assert len(names) == len(set(names)), "no sentence is decoded twice"
    shares = [line.get("rollout_reused_share", 0.0) for line in lines_of(tiny_root, "saving")]
    assert max(shares) > 0.4


def test_a_reuse_shorter_than_an_epoch_is_no_reuse(tiny_root, experts):
    for name, memory in (("short", {"reuse_updates": 1}), ("none", {})):
        distil(tiny_root, experts, settings(f"epoch-{name}", experts, memory))
    first, second = (last_weights(tiny_root, f"epoch-{name}") for name in ("short", "none"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_aggregated_rollouts_are_further_items_that_teachers_score(tiny_root, experts, monkeypatch):
    seen = []
    plan = rollouts.Planner.plan

    def planned(self, batch, update, epoch):
        items, read = plan(self, batch, update, epoch)
        seen.append((update, items, read))
        return items, read

    monkeypatch.setattr(rollouts.Planner, "plan", planned)
    memory = {"aggregate": True, "max_aggregated": 3}
    config = settings("items", experts, memory, "always_student")
    distil(tiny_root, experts, config)
    for update, items, read in seen:
        count = min(3, update // UPDATES_PER_EPOCH + 1)
        assert len(items) == 8 * count
        assert items.asked.all()
        assert items.on_policy.all()
        assert (items.kd_weight == 1).all()
        strings = {}
        for row, string in zip(items.utterance.tolist(), items.prefix.strings(), strict=True):
            strings.setdefault(row, []).append(string.tolist())
        for row, prefixes in enumerate(read.values()):
            # The newest one is the first item, the older ones follow.
            assert strings[row] == [prefixes[-1].ids, *(each.ids for each in prefixes[:-1])]


@pytest.mark.parametrize(("kind", "staleness", "killed_at"), [("both", 2, 9), ("aggregate", 0, 8)])
def test_a_resumed_run_reads_the_same_rollouts_and_ends_with_the_same_weights(
    tiny_root, experts, monkeypatch, kind, staleness, killed_at
):
    memory = MEMORIES[kind]
    options = {"staleness": staleness, "training__checkpoint_every_updates": 2}
    names = [f"{run_kind}-memory-{kind}" for run_kind in ("whole", "resumed")]
    whole, resumed = (settings(name, experts, memory, **options) for name in names)
    distil(tiny_root, experts, whole)
    take_update = loop.take_update
    monkeypatch.setattr(loop, "take_update", stopping_at(killed_at, take_update))
    with pytest.raises(KeyboardInterrupt):
        distil(tiny_root, experts, resumed)
    monkeypatch.setattr(loop, "take_update", take_update)
    distil(tiny_root, experts, resumed)
    first, second = (last_weights(tiny_root, name) for name in names)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_lines(tiny_root, names[0]) == train_lines(tiny_root, names[1])


def stopping_at(index, take_update):
    def stopped(student, progress, update):
        if update.index == index:
            raise KeyboardInterrupt
        return take_update(student, progress, update)

    return stopped


def test_a_run_that_stops_for_its_teachers_reads_the_same_rollouts_again(
    tiny_root, experts, monkeypatch
):
    """The checkpoint is made before the update is taken, whose rollouts are in flight too."""
    memory = MEMORIES["both"]
    names = ["whole-gone", "resumed-gone"]
    whole, resumed = (settings(name, experts, memory, staleness=1) for name in names)
    distil(tiny_root, experts, whole)
    collect = pipeline.Pipeline.collect

    def gone(self, update, timeout_s):
        if update.index == 7:
            raise loop.TeachersGone("nobody answers")
        return collect(self, update, timeout_s)

    monkeypatch.setattr(pipeline.Pipeline, "collect", gone)
    with pytest.raises(loop.TeachersGone):
        distil(tiny_root, experts, resumed)
    monkeypatch.setattr(pipeline.Pipeline, "collect", collect)
    distil(tiny_root, experts, resumed)
    first, second = (last_weights(tiny_root, name) for name in names)
    assert all(torch.equal(first[name], second[name]) for name in first)


def _worker(rank, rendezvous, root, config, experts, stop_at):
    join_group(rank, rendezvous)
    group, take_update = ProcessGroup(torch.device("cpu")), loop.take_update
    loop.take_update = stopping_at(stop_at, take_update)
    with pytest.raises(KeyboardInterrupt):
        distil(root, experts, config, group)
    loop.take_update = take_update
    distil(root, experts, config, group)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_that_are_interrupted_read_the_rollouts_of_one(tiny_root, experts):
    options = {**PLAIN, "staleness": 1, "training__checkpoint_every_updates": 2}
    one, two = (
        settings(f"memory-{world}", experts, MEMORIES["both"], **options) for world in (1, 2)
    )
    distil(tiny_root, experts, one)
    in_two_processes(_worker, tiny_root, two, experts, 9)
    assert_close(last_weights(tiny_root, "memory-1"), last_weights(tiny_root, "memory-2"), 1e-5)
    mine, theirs = (lines_of(tiny_root, f"memory-{world}") for world in (1, 2))
    for key in ("rollout_age_updates", "rollouts_per_sentence", "rollout_reused_share"):
        assert [line.get(key) for line in mine] == [line.get(key) for line in theirs]
    assert max(line.get("rollout_reused_share", 0.0) for line in mine) > 0


def test_old_rollouts_have_no_score_to_be_judged_by(experts):
    with pytest.raises(ConfigError, match=r"rollout\.aggregate with selector 'quality'"):
        settings("judged", experts, AGGREGATE, "checked_prefix")
