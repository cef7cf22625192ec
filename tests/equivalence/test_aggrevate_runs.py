"""AggreVaTe end to end on the tiny corpus: actions are tried, an expert completes the sentences."""

import types

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_runs import (
    assert_close,
    in_two_processes,
    join_group,
    last_weights,
    run,
    run_until,
    train_lines,
)

from kd_ray.config.imitation import Aggrevate
from kd_ray.config.teachers import Distillation
from kd_ray.core.contracts import Generate, Score
from kd_ray.core.sentence_rewards import sentence_rewards
from kd_ray.models.checkpoint import CheckpointError
from kd_ray.speech.tokens import Tokens
from kd_ray.students import explorer, loop
from kd_ray.students.collective import ProcessGroup
from kd_ray.students.replay import replay_update
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

STUDENT = {
    "type": "speech_to_text",
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}
PRESETS = ("aggrevate", "aggrevate_policy_gradient")


@pytest.fixture(scope="module")
def experts(tiny_root):
    return tiny.make_experts(tiny_root)


class Noting(LocalSource):
    """A local source that remembers what it was asked."""

    def ask(self, request):
        self.asked.append(request)
        return super().ask(request)


@pytest.fixture
def source(tiny_root, experts):
    source = Noting(load_teachers([tiny_root / folder for folder in experts]))
    source.asked = []
    yield source
    source.close()


def config_of(name, experts, preset="aggrevate", section=None, **overrides):
    distillation = {
        "preset": preset,
        "rollout": {"max_length": 6, "decoding": "sample"},
        # chrF rewards parts of sentences: random teachers seldom write a whole pair of phones.
        "aggrevate": {"reward": "chrf", "random_action_share": 0.5, **(section or {})},
    }
    options = {"training__epochs": 2, "distillation": distillation, **overrides}
    return tiny.distill_config(
        name, experts, model=STUDENT, teachers__reads="phones",
        teachers__strategy={"type": "average"}, **options,
    )  # fmt: skip


def updates_of(root, name):
    return [line for line in train_lines(root, name) if line["kind"] == "train"]


@pytest.mark.parametrize("preset", PRESETS)
def test_actions_are_tried_completed_judged_and_learned(tiny_root, experts, source, preset):
    summary = run(config_of(preset, experts, preset), tiny_root, source=source)
    assert summary["updates"] == 6
    lines = updates_of(tiny_root, preset)
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all(line["loss"] == pytest.approx(line["aggrevate"]) for line in lines)
    for line in lines:
        # No counting action, no gradient; and the other way round.
        assert (line["grad_norm"] > 0) == (line["counted_action_share"] > 0)
        assert 0 <= line["completion_reward"] <= 1
        assert "beta" not in line
    assert sum(line["counted_action_share"] for line in lines) > 0
    assert 0.2 < np.mean([line["random_action_share"] for line in lines]) < 0.8
    assert all(isinstance(request, Generate) for request in source.asked)
    asked = sum(len(request.utterance_ids) for request in source.asked)
    ended = sum(round(8 * line["end_action_share"]) for line in lines)
    assert asked == 48 - ended


@pytest.mark.parametrize(
    "section",
    [
        {"baseline": "student_completion"},
        {"action": "student_sample", "reward": "bleu"},
        {"action": "expert_argmax", "reward": "ter"},
    ],
    ids=["student_completion", "student_sample", "expert_argmax"],
)
def test_every_action_baseline_and_reward_trains(tiny_root, experts, source, section):
    name = f"aggrevate-{next(iter(section.values()))}"
    run(config_of(name, experts, section=section, training__max_updates=2), tiny_root,
        source=source)  # fmt: skip
    lines = updates_of(tiny_root, name)
    assert len(lines) == 2
    assert all(np.isfinite(line["loss"]) for line in lines)
    scores = [request for request in source.asked if isinstance(request, Score)]
    assert len(scores) == (2 if section.get("action") == "expert_argmax" else 0)


def test_judging_compares_completions_with_what_was_tried(tiny_root, experts, source, monkeypatch):
    judged = []
    judge = explorer.Explorer.judge

    def noted(self, items, batch, answer):
        found = judge(self, items, batch, answer)
        judged.append((found, batch, answer))
        return found

    monkeypatch.setattr(explorer.Explorer, "judge", noted)
    config = config_of("judged", experts, section={"random_action_share": 0.2},
                       training__max_updates=2)  # fmt: skip
    run(config, tiny_root, source=source)
    tokens = Tokens.load(tiny_root / "data/tokens.json")
    for items, batch, answer in judged:
        completions = iter(answer.best.strings.strings())
        for row, (tried, ended) in enumerate(zip(items.tried.strings(), items.ended, strict=True)):
            step = int(items.prefix.lengths[row])
            assert tried[:step].tolist() == items.prefix.strings()[row].tolist()
            assert tried[step:].tolist() == ([] if ended else [items.actions[row]])
            whole = tried if ended else next(completions)
            assert whole[: len(tried)].tolist() == tried.tolist()
            reference = tokens.decode(batch.references.strings()[row])
            rewards = sentence_rewards(
                [tokens.decode(whole), tokens.decode(tried)], [reference] * 2, "chrf"
            )
            assert items.rewards[row] == rewards[0]
            assert items.advantage[row] == rewards[0] - rewards[1]
            assert items.counts[row] == (rewards[0] > rewards[1])


def test_an_end_symbol_needs_no_completion(tiny_root, experts, source, monkeypatch):
    explore = explorer.explore

    def ending(names, rollouts, steps, logits, **settings):
        logits = torch.zeros_like(logits)
        logits[:, settings["eos"]] = 9.0
        return explore(names, rollouts, steps, logits, **{**settings, "random_action_share": 0.0})

    monkeypatch.setattr(explorer, "explore", ending)
    run(config_of("ended", experts, training__max_updates=2), tiny_root, source=source)
    assert source.asked == []
    for line in updates_of(tiny_root, "ended"):
        assert line["end_action_share"] == 1.0
        assert line["counted_action_share"] == line["loss"] == line["grad_norm"] == 0.0


def test_a_resumed_run_tries_the_same_actions(tiny_root, experts, source):
    options = {"training__checkpoint_every_updates": 2}
    names = ["whole-aggrevate", "resumed-aggrevate"]
    run(config_of(names[0], experts, **options), tiny_root, source=source)
    run_until(3, config_of(names[1], experts, **options), tiny_root, source)
    run(config_of(names[1], experts, **options), tiny_root, source=source)
    first, second = (last_weights(tiny_root, name) for name in names)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_lines(tiny_root, names[0]) == train_lines(tiny_root, names[1])


def _worker(rank, rendezvous, root, config, experts):
    join_group(rank, rendezvous)
    source = LocalSource(load_teachers([root / folder for folder in experts]))
    run(config, root, ProcessGroup(torch.device("cpu")), source)
    source.close()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["aggrevate", "checked_prefix"])
def test_two_workers_take_the_same_steps_as_one(tiny_root, experts, source, preset):
    plain = {
        "training__optimizer": {"type": "sgd", "lr": 0.1},
        "training__schedule": {"type": "constant"},
        "training__max_updates": 3,
        "data__augment": None,
    }
    if preset == "checked_prefix":
        plain["distillation"] = {
            "preset": preset,
            "selector": {"metric": "chrf", "threshold": 0.15},
            "rollout": {"max_length": 6, "decoding": "sample"},
        }
    one, two = (config_of(f"{preset}-workers-{n}", experts, **plain) for n in (1, 2))
    run(one, tiny_root, source=source)
    in_two_processes(_worker, tiny_root, two, experts)
    assert_close(last_weights(tiny_root, one.name), last_weights(tiny_root, two.name), 1e-5)
    kept = ("loss", "replaced_share", "counted_action_share", "completion_reward")
    for mine, theirs in zip(updates_of(tiny_root, one.name), updates_of(tiny_root, two.name),
                            strict=True):  # fmt: skip
        for key in kept:
            assert mine.get(key) == pytest.approx(theirs.get(key), abs=1e-5)


def test_an_update_that_went_wrong_can_be_taken_again(tiny_root, experts, source, monkeypatch):
    monkeypatch.setattr(loop, "math", types.SimpleNamespace(isfinite=lambda value: False))
    run(config_of("wrong", experts, training__max_updates=1), tiny_root, source=source)
    replay = replay_update(tiny_root / "runs/wrong/failed_updates/update-00000001")
    assert replay.loss == replay.recorded_loss > 0
    assert replay.grad_norm == pytest.approx(replay.recorded_grad_norm)
    assert set(next(iter(replay.utterances.values()))) == {"aggrevate"}


def test_a_student_starts_from_another_runs_weights(tiny_root, experts, source):
    run(config_of("aggrevate-first", experts, training__max_updates=2), tiny_root, source=source)
    warm = {"training__init_from": "runs/aggrevate-first", "training__max_updates": 1,
            "training__optimizer": {"type": "sgd", "lr": 1e-30, "weight_decay": 0.0}}  # fmt: skip
    run(config_of("aggrevate-warm", experts, **warm), tiny_root, source=source)
    start = load_file(tiny_root / "runs/aggrevate-first/model/model.safetensors")
    end = last_weights(tiny_root, "aggrevate-warm")
    assert_close(start, end, 1e-12)
    other = {**STUDENT, "decoder": {**tiny.ATTENTION, "size": 8}}
    config = config_of("aggrevate-other", experts, **warm).model_copy(
        update={"model": type(config_of("x", experts).model).model_validate(other)}
    )
    with pytest.raises(CheckpointError, match=r"decoder\.size: model has 16, the model 8"):
        run(config, tiny_root, source=source)
    Tokens.train(["a b d e f g i k x"], "phones").save(tiny_root / "data/more.json")
    config = config_of("aggrevate-spelt", experts, **warm, data__tokens="data/more.json")
    with pytest.raises(CheckpointError, match="tokens: those of the folder"):
        run(config, tiny_root, source=None)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"preset": "aggrevate", "aggrevate": {"loss": "policy_gradient"}}, "means 'regression'"),
        ({"preset": "imitkd_full", "aggrevate": {}}, "other presets have no section"),
        ({"aggrevate": {}}, "other presets have no section"),
        ({"preset": "aggrevate", "staleness": 1}, "staleness 1 instead of 0"),
        ({"preset": "aggrevate", "ctc_weight": 0.3}, r"ctc_weight 0\.3 instead of 0"),
        ({"preset": "aggrevate", "alpha": 0.5}, "alpha"),
    ],
)
def test_settings_that_it_does_not_read_are_refused(section, words):
    with pytest.raises(ValueError, match=words):
        Distillation.model_validate(section)


def test_the_preset_says_which_loss():
    assert Distillation(preset="aggrevate").aggrevate == Aggrevate()
    gradient = Distillation.model_validate(
        {"preset": "aggrevate_policy_gradient", "aggrevate": {"reward": "ter"}}
    )
    assert gradient.aggrevate == Aggrevate(loss="policy_gradient", reward="ter")


def test_teachers_in_a_store_cannot_complete(experts):
    with pytest.raises(ValueError, match="presets of aggrevate need teachers that write"):
        config_of("stored", experts, teachers__source={"type": "store", "path": "x"})
