"""Imitation end to end on the tiny corpus: a text expert scores what the student itself wrote."""

import json

import numpy as np
import pytest
import tiny
import torch
from tiny_runs import (
    assert_close,
    in_two_processes,
    join_group,
    last_weights,
    run,
    run_until,
    train_lines,
)

from kd_ray.commands.check import check
from kd_ray.core import strategies
from kd_ray.core.trust import TrustError
from kd_ray.students import rollouts, step
from kd_ray.students.collective import ProcessGroup
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

STUDENT = {
    "type": "speech_to_text",
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}
PRESETS = ("word_kd", "imitkd_optimal", "imitkd_full", "imitkd_gold_on_data", "always_student",
           "mixer")  # fmt: skip
PLAIN = {
    "training__optimizer": {"type": "sgd", "lr": 0.1},
    "training__schedule": {"type": "constant"},
    "data__augment": None,
}


@pytest.fixture(scope="module")
def experts(tiny_root):
    return tiny.make_experts(tiny_root)


def source_of(root, experts):
    return LocalSource(load_teachers([root / folder for folder in experts]))


def imitate(name, experts, preset="imitkd_full", **overrides):
    distillation = {"preset": preset, "rollout": {"max_length": 8}}
    distillation |= overrides.pop("distillation", {})
    options = {
        "model": STUDENT,
        "distillation": distillation,
        "teachers__reads": "phones",
        "teachers__strategy": {"type": "average"},
        "training__epochs": 2,
        **overrides,
    }
    return tiny.distill_config(name, experts, **options)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_says_what_it_did(tiny_root, experts, preset):
    source = source_of(tiny_root, experts)
    name = f"imitate-{preset}"
    summary = run(imitate(name, experts, preset), tiny_root, source=source)
    source.close()
    assert summary["updates"] == 6
    lines = [line for line in train_lines(tiny_root, name) if line["kind"] == "train"]
    assert all(np.isfinite(line["loss"]) for line in lines)
    if preset == "word_kd":
        assert "beta" not in lines[0]
        return
    shares = [line["replaced_share"] for line in lines]
    if preset in ("always_student", "mixer"):
        assert shares == ([1.0] if preset == "always_student" else [0.0]) * 1 + shares[1:]
    assert shares[-1] > 0.5
    if preset not in ("always_student",):
        assert lines[0]["beta"] == 1.0
        assert lines[-1]["beta"] == pytest.approx(200 ** (-5 / 6))


def test_one_update_is_one_forward_of_student_and_teacher_and_rolls_out_chosen_rows_only(
    tiny_root, experts, monkeypatch
):
    calls = {"student": 0, "rolled": [], "asked": []}
    forward, decode = step.TeacherForcing.forward, rollouts.Planner._decode

    def counted(self, *arguments):
        calls["student"] += 1
        return forward(self, *arguments)

    def rolled(self, batch, update):
        calls["rolled"].append(len(batch.utterance_ids))
        return decode(self, batch, update)

    monkeypatch.setattr(step.TeacherForcing, "forward", counted)
    monkeypatch.setattr(rollouts.Planner, "_decode", rolled)
    teachers = load_teachers([tiny_root / experts[0]])
    score = teachers[0].score
    monkeypatch.setattr(
        teachers[0],
        "score",
        lambda inputs, *rest: (calls["asked"].append(len(inputs)), score(inputs, *rest))[1],
    )
    source = LocalSource(teachers)
    config = imitate("counted", [experts[0]], distillation={"beta": {"type": "linear"}})
    run(config, tiny_root, source=source)
    source.close()
    assert calls["student"] == 6
    assert calls["asked"] == [8] * 6
    shares = [line["replaced_share"] for line in train_lines(tiny_root, "counted")
              if line["kind"] == "train"]  # fmt: skip
    assert shares[0] == 0.0
    assert calls["rolled"] == [round(8 * share) for share in shares if share]


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("killed_at", [3, 4])
def test_a_resumed_run_has_the_same_prefixes_and_weights(tiny_root, experts, staleness, killed_at):
    distillation = {"beta": {"type": "linear"}, "staleness": staleness}
    options = {"distillation": distillation, "training__checkpoint_every_updates": 2}
    names = [f"{kind}-rollouts-{staleness}-{killed_at}" for kind in ("whole", "resumed")]
    source = source_of(tiny_root, experts)
    run(imitate(names[0], experts, **options), tiny_root, source=source)
    run_until(killed_at, imitate(names[1], experts, **options), tiny_root, source)
    run(imitate(names[1], experts, **options), tiny_root, source=source)
    source.close()
    first, second = (last_weights(tiny_root, name) for name in names)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_lines(tiny_root, names[0]) == train_lines(tiny_root, names[1])


def test_rollouts_come_from_weights_as_old_as_the_configuration_says(
    tiny_root, experts, monkeypatch
):
    written = []
    decode = rollouts.Planner._decode

    def noted(self, batch, update):
        weight = next(self.model.parameters()).detach().clone()
        written.append((update, weight))
        return decode(self, batch, update)

    monkeypatch.setattr(rollouts.Planner, "_decode", noted)
    fresh = {}
    for staleness in (0, 2):
        written.clear()
        source = source_of(tiny_root, experts)
        config = imitate(
            f"stale-{staleness}", experts, "always_student", **PLAIN,
            distillation={"staleness": staleness},
        )  # fmt: skip
        run(config, tiny_root, source=source)
        source.close()
        fresh[staleness] = dict(written)
        assert sorted(fresh[staleness]) == list(range(6))
    first = fresh[2]
    # Updates 0, 1 and 2 were rolled out before any step, update 3 after the first one.
    assert all(torch.equal(first[0], first[update]) for update in (1, 2))
    assert not torch.equal(first[2], first[3])
    assert not torch.equal(fresh[0][0], fresh[0][1])


def _worker(rank, rendezvous, root, config, experts):
    join_group(rank, rendezvous)
    source = source_of(root, experts)
    run(config, root, ProcessGroup(torch.device("cpu")), source)
    source.close()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_take_the_same_imitation_steps_as_one(tiny_root, experts):
    options = {**PLAIN, "distillation": {"beta": {"type": "linear"}, "staleness": 1}}
    source = source_of(tiny_root, experts)
    run(imitate("imitate-1", experts, **options), tiny_root, source=source)
    source.close()
    two = imitate("imitate-2", experts, **options)
    in_two_processes(_worker, tiny_root, two, experts)
    assert_close(last_weights(tiny_root, "imitate-1"), last_weights(tiny_root, "imitate-2"), 1e-5)
    one, other = (train_lines(tiny_root, f"imitate-{world}") for world in (1, 2))
    for mine, theirs in zip(one, other, strict=True):
        for key in ("loss", "replaced_share", "beta", "rollout_length_ratio"):
            if key in mine:
                assert mine[key] == pytest.approx(theirs[key], abs=1e-5)


def test_the_student_is_left_in_training_mode_and_its_dropout_untouched(tiny_root, experts):
    dropout = {**STUDENT, "decoder": {**tiny.ATTENTION, "dropout": 0.3}}
    lines = {}
    for kind, switches in (("eval", {}), ("dropout", {"dropout": True})):
        source = source_of(tiny_root, experts)
        config = imitate(
            f"mode-{kind}", experts, "always_student", model=dropout,
            distillation={"rollout": {"max_length": 8, "decoding": "sample", **switches}},
        )  # fmt: skip
        run(config, tiny_root, source=source)
        source.close()
        lines[kind] = train_lines(tiny_root, f"mode-{kind}")
    assert lines["eval"] != lines["dropout"]


def table_of(root, folders, rates):
    digests = [each.info.digest for each in load_teachers([root / folder for folder in folders])]
    table = {"split": "valid", "measure": "1 - chrF++", "teachers": digests[::-1]}
    (root / "trust.json").write_text(json.dumps({**table, "error_percent": rates[::-1]}))
    return "trust.json"


def test_a_table_of_error_rates_chooses_the_expert_on_student_prefixes(tiny_root, experts):
    table = table_of(tiny_root, experts, [30.0, 10.0])
    losses = {}
    for name, asked, strategy in (
        ("table", experts, {"type": "best", "scope": "corpus", "table": table}),
        ("alone", [experts[1]], {"type": "average"}),
        ("other", [experts[0]], {"type": "average"}),
    ):
        source = source_of(tiny_root, asked)
        config = imitate(f"trusted-{name}", asked, "always_student", teachers__strategy=strategy)
        run(config, tiny_root, source=source)
        source.close()
        losses[name] = [line.get("loss") for line in train_lines(tiny_root, f"trusted-{name}")]
    assert losses["table"] == losses["alone"] != losses["other"]


def test_error_rates_along_a_rollout_are_no_trust(tiny_root, experts):
    source = source_of(tiny_root, experts)
    strategy = {"type": "weighted", "trust": "teacher_forced"}
    config = imitate("no-trust", experts, teachers__strategy=strategy)
    with pytest.raises(TrustError, match="the student's own prefix"):
        run(config, tiny_root, source=source)
    missing = imitate(
        "no-table", experts,
        teachers__strategy={"type": "best", "scope": "corpus", "table": "nowhere.json"},
    )  # fmt: skip
    with pytest.raises(TrustError, match=r"nowhere\.json is no table"):
        run(missing, tiny_root, source=source)
    source.close()


def test_along_references_experts_are_weighed_by_chrf(tiny_root, experts, monkeypatch):
    signals = []
    finish = strategies.finish
    monkeypatch.setattr(
        strategies, "finish", lambda partial: (signals.append(partial), finish(partial))[1]
    )
    source = source_of(tiny_root, experts)
    strategy = {"type": "weighted", "trust": "teacher_forced"}
    config = imitate("by-chrf", experts, "word_kd", teachers__strategy=strategy)
    summary = run(config, tiny_root, source=source)
    assert summary["ties"]["utterances"] == 48
    assert {partial.fusion.strategy.trust for partial in signals} == {"teacher_forced_chrf"}
    errors = np.concatenate([partial.chrf_errors for partial in signals], axis=1)
    assert (errors >= 0).all()
    assert summary["ties"]["share_of_ties"] == np.mean(errors[0] == errors[1])
    default = imitate("by-nothing", experts, "word_kd", teachers__strategy={"type": "weighted"})
    with pytest.raises(TrustError, match=r"CTC paths.*Ways out: trust 'teacher_forced'"):
        run(default, tiny_root, source=source)
    source.close()
    assert any("CTC paths" in problem for problem in check(default, tiny_root).problems)
