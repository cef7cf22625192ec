"""The quality gate end to end: rollouts are kept where they come near the teacher's own output."""

import numpy as np
import pytest
import tiny
import torch
from tiny_runs import last_weights, run, run_until, train_lines

from kd_ray.core.contracts import Busy, Generate, TeachersGone
from kd_ray.core.sentence_rewards import gate_scores
from kd_ray.students import gate, rollouts
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

ROLLOUT = {"rollout": {"max_length": 8, "decoding": "sample"}}
STUDENT = {
    "type": "speech_to_text",
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}


@pytest.fixture(scope="module")
def experts(tiny_root):
    return tiny.make_experts(tiny_root)


def source_of(root, experts):
    return LocalSource(load_teachers([root / folder for folder in experts]))


def config_of(name, experts, *, metric="chrf", threshold=0.15, **overrides):
    selector = {"metric": metric, "threshold": threshold}
    distillation = {
        "preset": "checked_prefix",
        "selector": selector,
        **ROLLOUT,
        **overrides.pop("distillation", {}),
    }
    return tiny.distill_config(
        name, experts, model=STUDENT, distillation=distillation, teachers__reads="phones",
        teachers__strategy={"type": "average"}, training__epochs=2, **overrides,
    )  # fmt: skip


class Counting:
    """A source that counts what teachers were asked to write, and may be busy or gone."""

    def __init__(self, source, busy_while_scoring=False, gone_after=None):
        self.source = source
        self.wrote = []
        self.open_scores = 0
        self.busy_while_scoring = busy_while_scoring
        self.gone_after = gone_after
        self.refused = 0

    def ask(self, request):
        if isinstance(request, Generate):
            if self.busy_while_scoring and self.open_scores:
                self.refused += 1
                raise Busy("enough")
            if self.gone_after is not None and len(self.wrote) >= self.gone_after:
                raise TeachersGone("nobody is left")
            self.wrote += request.utterance_ids
            return self.source.ask(request)
        self.open_scores += 1
        return _Watched(self, self.source.ask(request))

    def describe(self):
        return self.source.describe()

    def close(self):
        self.source.close()


class _Watched:
    def __init__(self, source, pending):
        self.source, self.pending, self.done = source, pending, False

    def result(self, timeout_s):
        if not self.done:
            self.source.open_scores -= 1
            self.done = True
        return self.pending.result(timeout_s)

    def cancel(self):
        self.pending.cancel()


def test_good_rollouts_are_kept_and_the_teacher_writes_once_per_utterance(
    tiny_root, experts, monkeypatch
):
    seen = []
    scores = gate.Asked.scores

    def watched(self, written):
        found = scores(self, written)
        seen.append((self.gate, self.utterance_ids, written, found))
        return found

    monkeypatch.setattr(gate.Asked, "scores", watched)
    source = Counting(source_of(tiny_root, experts))
    run(config_of("checked", experts), tiny_root, source=source)
    source.close()
    # Two epochs; every utterance was rolled out in both.
    assert sorted(source.wrote) == sorted(f"train-{number}" for number in range(24))
    lines = [line for line in train_lines(tiny_root, "checked") if line["kind"] == "train"]
    assert len(lines) == len(seen) == 6
    for line, (the_gate, names, written, found) in zip(lines, seen, strict=True):
        assert set(found) == set(range(8))
        kept = sum(score >= 0.15 for score in found.values())
        assert line["replaced_share"] == pytest.approx(kept / 8)
        assert np.isfinite(line["loss"])
        for row, ids in written.items():
            mine = the_gate.tokens.decode(ids)
            [expected] = gate_scores([mine], [the_gate.texts[names[row]]], "chrf")
            assert found[row] == expected
    shares = [line["replaced_share"] for line in lines]
    assert 0 < sum(shares) < 6


def test_the_gates_are_open_at_zero_and_shut_at_one(tiny_root, experts):
    losses = {}
    for name, threshold in (("open", 0.0), ("shut", 1.0)):
        source = source_of(tiny_root, experts)
        run(config_of(f"gate-{name}", experts, metric="bleu", threshold=threshold,
                      training__max_updates=1), tiny_root, source=source)  # fmt: skip
        source.close()
        [line, *_] = train_lines(tiny_root, f"gate-{name}")
        losses[name] = line["loss"]
        assert line["replaced_share"] == (1.0 if name == "open" else 0.0)
    for name, preset in (("always", "always_student"), ("never", "word_kd")):
        config = config_of(f"gate-{name}", experts, training__max_updates=1).model_dump(mode="json")
        config["distillation"] = {**ROLLOUT, "preset": preset}
        source = source_of(tiny_root, experts)
        section = type(config_of("x", experts)).model_validate(config)
        run(section, tiny_root, source=source)
        source.close()
        losses[name] = train_lines(tiny_root, f"gate-{name}")[0]["loss"]
    assert losses["open"] == losses["always"]
    assert losses["shut"] == losses["never"]


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_resumed_run_keeps_the_same_rollouts_and_weights(tiny_root, experts, staleness):
    options = {
        "distillation": {"staleness": staleness},
        "training__checkpoint_every_updates": 2,
    }
    names = [f"{kind}-checked-{staleness}" for kind in ("whole", "resumed")]
    source = source_of(tiny_root, experts)
    run(config_of(names[0], experts, **options), tiny_root, source=source)
    run_until(3, config_of(names[1], experts, **options), tiny_root, source)
    run(config_of(names[1], experts, **options), tiny_root, source=source)
    source.close()
    first, second = (last_weights(tiny_root, name) for name in names)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_lines(tiny_root, names[0]) == train_lines(tiny_root, names[1])


def test_a_busy_source_is_relieved_of_an_answer_and_asked_again(tiny_root, experts):
    options = {"distillation": {"staleness": 2}}
    lines = {}
    for name, busy in (("idle", False), ("busy", True)):
        source = Counting(source_of(tiny_root, experts), busy_while_scoring=busy)
        run(config_of(f"gate-{name}", experts, **options), tiny_root, source=source)
        source.close()
        assert bool(source.refused) is busy
        lines[name] = train_lines(tiny_root, f"gate-{name}")
    assert lines["idle"] == lines["busy"]


def test_without_teachers_the_run_stops_with_a_checkpoint_and_goes_on_later(tiny_root, experts):
    config = config_of("gate-gone", experts)
    source = Counting(source_of(tiny_root, experts), gone_after=16)
    with pytest.raises(TeachersGone, match=r"nobody is left\n.*before update 3"):
        run(config, tiny_root, source=source)
    source.gone_after = None
    assert run(config, tiny_root, source=source)["updates"] == 6
    source.close()


def test_without_a_gate_teachers_write_nothing_and_are_asked_once_an_update(
    tiny_root, experts, monkeypatch
):
    decoded = []
    decode = rollouts.Planner._decode
    monkeypatch.setattr(
        rollouts.Planner,
        "_decode",
        lambda self, *rest: (decoded.append(1), decode(self, *rest))[1],
    )
    content = config_of("ungated", experts).model_dump(mode="json")
    content["distillation"] = {**ROLLOUT, "preset": "always_student"}
    source = Counting(source_of(tiny_root, experts))
    inner = source.source
    run(type(config_of("x", experts)).model_validate(content), tiny_root, source=source)
    assert source.wrote == []
    assert inner.counts["requests"] == len(decoded) == 6
    source.close()
