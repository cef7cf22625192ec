"""Numbers of the SpeechBrain recipe: met in compatibility mode; its bugs are not repeated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch

from kd_ray.config.strategies import Average, Best, Weighted
from kd_ray.config.teachers import Distillation
from kd_ray.core.contracts import Fusion, Labels, Signal, TeacherOutput
from kd_ray.core.criteria import DistillationCriterion
from kd_ray.core.losses import (
    ctc_on_strings,
    token_cross_entropy,
    token_nll,
    token_tensors,
    with_eos,
)
from kd_ray.core.scores import edit_errors
from kd_ray.core.strategies import fuse
from kd_ray.core.targets import TokenTarget, pad_labels

RECIPE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "asr_strategies.json").read_text()
)
EXPECTED = RECIPE["expected"]
BLANK = EOS = RECIPE["blank"]
FRAMES = np.array(RECIPE["frames"])
REFERENCES = Labels.of(RECIPE["references"])
STRATEGIES = {"average": Average(), "best": Best(), "weighted": Weighted()}
TOLERANCE = 1e-5

every_error_set = pytest.mark.parametrize("name", EXPECTED["error_sets"])
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_teacher = pytest.mark.parametrize("index", range(3))


def student(head: str) -> torch.Tensor:
    return torch.tensor(RECIPE["student"][head]).requires_grad_()


def own_strings(index: int) -> list[list[int]]:
    """Collapsed best paths of the teacher's own frames."""
    paths = RECIPE["teachers"][index]["ctc_logits"]
    return [oracles.ctc_greedy(path, int(n), BLANK) for path, n in zip(paths, FRAMES, strict=True)]


def log_probs(index: int) -> np.ndarray:
    return torch.tensor(RECIPE["teachers"][index]["decoder_logits"]).log_softmax(-1).numpy()


def outputs(error_set: str = "decoded") -> list[TeacherOutput]:
    errors = EXPECTED["error_sets"][error_set]
    return [
        TeacherOutput(
            teacher=index,
            log_probs=log_probs(index),
            positions=REFERENCES.lengths + 1,
            strings=tuple(np.array(string, dtype=np.int64) for string in own_strings(index)),
            frames=FRAMES,
            ctc_errors=np.array(errors["ctc_errors"][index]),
            decoder_errors=np.array(errors["decoder_errors"][index]),
            reference_lengths=np.array(errors["reference_lengths"]),
            confidence=np.zeros(2),
        )
        for index in range(3)
    ]


def signal(strategy: str, error_set: str = "decoded", temperature: float = 1.0) -> Signal:
    fusion = Fusion(STRATEGIES[strategy], temperature=temperature, compatibility="reference")
    return fuse(outputs(error_set), fusion, 3).signal(("a", "b"))


def kd_ctc(labels, frames=FRAMES, logits=None):
    logits = student("ctc_logits") if logits is None else logits
    loss = ctc_on_strings(logits, frames, labels, blank=BLANK, empty="keep", too_long="zero")
    return loss.mean.item()


@every_teacher
def test_teachers_write_the_strings_and_errors_of_the_recipe(index):
    expected = EXPECTED["teachers"][index]["label_strings"]
    assert own_strings(index) == expected == EXPECTED["greedy"]["ctc"][index]
    decoded = EXPECTED["error_sets"]["decoded"]
    assert edit_errors(RECIPE["references"], expected).tolist() == decoded["ctc_errors"][index]
    written = []
    for positions, length in zip(log_probs(index), REFERENCES.lengths + 1, strict=True):
        best = [oracles.argmax(row) for row in positions[:length]]
        written.append(best[: best.index(EOS)] if EOS in best else best)
    assert written == EXPECTED["greedy"]["decoder"][index]
    assert edit_errors(RECIPE["references"], written).tolist() == decoded["decoder_errors"][index]


@every_teacher
def test_losses_against_each_teacher_alone(index):
    expected = EXPECTED["teachers"][index]
    alone = fuse([outputs()[index]], Fusion(Average()), 3)
    loss = ctc_on_strings(
        student("ctc_logits"),
        FRAMES,
        alone.labels,
        blank=BLANK,
        reduction="per_label",
        empty="keep",
    )
    assert loss.rows.tolist() == pytest.approx(expected["nll_of_strings"], abs=TOLERANCE)
    assert kd_ctc(alone.labels) == pytest.approx(expected["kd_ctc"], abs=TOLERANCE)
    cross = token_cross_entropy(student("decoder_logits"), token_tensors(alone.tokens))
    assert cross.mean.item() == pytest.approx(expected["kd_att"], abs=TOLERANCE)
    rows = [sum(row) for row in expected["cross_entropy_of_positions"]]
    assert cross.rows.tolist() == pytest.approx(rows, abs=TOLERANCE)


@every_teacher
@pytest.mark.parametrize("student_temperature", [1, 2])
def test_losses_against_each_teacher_at_temperature_2(index, student_temperature):
    expected = EXPECTED["temperature_2"]
    soft = fuse([outputs()[index]], Fusion(Average(), temperature=2.0), 3)
    loss = token_cross_entropy(
        student("decoder_logits"), token_tensors(soft.tokens), temperature=student_temperature
    )
    key = f"kd_att_student_at_{student_temperature}"
    assert loss.mean.item() == pytest.approx(expected[key][index], abs=TOLERANCE)
    assert kd_ctc(soft.labels) == pytest.approx(expected["kd_ctc"][index], abs=TOLERANCE)


def test_supervised_losses():
    expected = EXPECTED["supervised"]
    criterion = DistillationCriterion(
        Distillation(alpha=0, compatibility="reference"), blank=BLANK, eos=EOS
    )
    losses = criterion.losses(
        ctc_logits=student("ctc_logits"),
        frames=FRAMES,
        decoder_logits=student("decoder_logits"),
        references=REFERENCES,
        signal=None,
    )
    assert losses["sup_ctc"].mean.item() == pytest.approx(expected["ctc"], abs=TOLERANCE)
    assert losses["sup_att"].mean.item() == pytest.approx(expected["nll_smoothed"], abs=TOLERANCE)
    sharp = token_nll(student("decoder_logits"), with_eos(REFERENCES, EOS))
    assert sharp.mean.item() == pytest.approx(expected["nll"], abs=TOLERANCE)


@every_error_set
def test_weights_of_the_recipe(name):
    expected = EXPECTED["error_sets"][name]
    weighted, best = signal("weighted", name), signal("best", name)
    for utterance in range(2):
        for found, key in (
            (weighted.weights_labels, "label_weights"),
            (best.weights_labels, "label_weights"),
            (weighted.weights_tokens, "token_weights"),
        ):
            assert found[:, utterance] == pytest.approx(expected[key], abs=1e-7)
    chosen = best.weights_tokens.argmax(axis=0).tolist()
    assert chosen == expected["best_teacher_of_each_utterance"]


@every_error_set
@every_strategy
def test_fused_losses_of_the_recipe(name, strategy):
    expected = EXPECTED["error_sets"][name]
    fused = signal(strategy, name)
    assert kd_ctc(fused.labels) == pytest.approx(expected["kd_ctc"][strategy], abs=TOLERANCE)
    loss = token_cross_entropy(student("decoder_logits"), token_tensors(fused.tokens))
    assert loss.mean.item() == pytest.approx(expected["kd_att"][strategy], abs=TOLERANCE)


def total_of(case: dict[str, Any], error_set: str, compatibility: str):
    config = Distillation(
        alpha=case["alpha"],
        ctc_weight=RECIPE["ctc_weight"],
        temperature=case["temperature"],
        label_smoothing=RECIPE["label_smoothing"],
        compatibility=compatibility,
    )
    criterion = DistillationCriterion(config, blank=BLANK, eos=EOS)
    about = {
        "references": REFERENCES,
        "signal": signal(case["strategy"], error_set, case["temperature"]),
        "frames": FRAMES,
    }
    ctc, decoder = student("ctc_logits"), student("decoder_logits")
    losses = criterion.losses(ctc_logits=ctc, decoder_logits=decoder, **about)
    total = criterion.total(losses, criterion.counts(**about))
    total.backward()
    return total, ctc.grad.norm().item(), decoder.grad.norm().item()


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(
            name, case, id=f"{name}-{case['strategy']}-{case['alpha']}-{case['temperature']}"
        )
        for name, errors in EXPECTED["error_sets"].items()
        for case in errors["totals"]
    ],
)
def test_totals_and_gradients_of_the_recipe(name, case):
    total, ctc_norm, decoder_norm = total_of(case, name, "reference")
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(case["total"], abs=TOLERANCE)
    assert ctc_norm == pytest.approx(case["ctc_gradient_norm"], abs=TOLERANCE)
    assert decoder_norm == pytest.approx(case["decoder_gradient_norm"], abs=TOLERANCE)


def test_one_sided_temperature_is_not_repeated_by_default():
    cases = EXPECTED["error_sets"]["decoded"]["totals"]
    for case in cases:
        if case["temperature"] == 2.0:
            total, _, _ = total_of(case, "decoded", "none")
            assert abs(total.item() - case["total"]) > 0.01


def test_cross_entropy_to_the_mean_is_the_mean_of_cross_entropies():
    average = signal("average").tokens
    found = token_cross_entropy(student("decoder_logits"), token_tensors(average)).mean.item()
    each = [
        token_cross_entropy(
            student("decoder_logits"),
            token_tensors(TokenTarget(log_probs(index), REFERENCES.lengths + 1)),
        ).mean.item()
        for index in range(3)
    ]
    assert found == pytest.approx(EXPECTED["cross_entropy_to_mean"], abs=TOLERANCE)
    assert found == pytest.approx(sum(each) / 3, abs=1e-6)


@pytest.mark.parametrize(
    "case",
    EXPECTED["student_of_other_length"],
    ids=lambda case: f"{case['num_frames']}_frames_teacher_{case['teacher']}",
)
def test_teacher_strings_come_from_the_teachers_own_length(case):
    # The recipe cut teachers' paths at the *student's* length. Where that reads padding, it trains
    # on labels nobody spoke; here the strings stay, and so the loss differs.
    ctc = student("ctc_logits").detach().log_softmax(-1)
    ctc = torch.cat([ctc, ctc[:, -1:]], dim=1)[:, : case["num_frames"]]
    alone = fuse([outputs()[case["teacher"]]], Fusion(Average(), compatibility="reference"), 3)
    strings = own_strings(case["teacher"])
    labels, lengths = pad_labels(strings)
    np.testing.assert_array_equal(alone.labels.labels, labels)
    np.testing.assert_array_equal(alone.labels.lengths, lengths)
    found = kd_ctc(alone.labels, np.array(case["student_frames"]), ctc)
    if case["strings_the_recipe_used"] == strings:
        assert found == pytest.approx(case["kd_ctc"], abs=TOLERANCE)
    else:
        assert abs(found - case["kd_ctc"]) > 0.1


def test_some_of_those_cases_are_negative():
    cases = EXPECTED["student_of_other_length"]
    differ = [case["strings_the_recipe_used"] != own_strings(case["teacher"]) for case in cases]
    assert differ == [False, False, False, True, False, True]
