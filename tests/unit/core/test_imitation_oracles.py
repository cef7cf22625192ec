"""The engine's presets against numbers that were computed without it (data/imitation.json)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_ray.config.imitation import ExponentialBeta, LinearBeta, ReverseSigmoidBeta
from kd_ray.config.teachers import Distillation
from kd_ray.config.training import Supervised
from kd_ray.core.contracts import Labels, Signal
from kd_ray.core.criteria import DistillationCriterion, SupervisedCriterion
from kd_ray.core.imitation import plan_items
from kd_ray.core.losses import forward_kl, token_cross_entropy, token_tensors
from kd_ray.core.schedules import Progress, beta_at
from kd_ray.core.targets import TokenTarget, likeliest, take_rows, truncate

ORACLE = json.loads((Path(__file__).parent / "data/imitation.json").read_text())
EXPECTED, WRONG, EOS = ORACLE["expected"], ORACLE["wrong"], ORACLE["eos"]
REFERENCES = Labels.of(ORACLE["references"])
FRAMES = np.array([9, 9])


def student(rows=(0, 1)):
    logits = torch.tensor(ORACLE["student_logits"], dtype=torch.float64)
    return logits[list(rows)].requires_grad_()


def signal_of(items, temperature=1.0, top_k=None):
    """What teachers say to the asked items; the fixture's models are causal."""
    logits = torch.tensor(ORACLE["teacher_logits"], dtype=torch.float64)
    target = TokenTarget(
        torch.log_softmax(logits / temperature, -1).numpy()[items.utterance],
        items.positions,
    )
    target = take_rows(target, items.asked_rows)
    if top_k is not None:
        target = truncate(target, top_k)
    rows = len(target.lengths)
    none = np.zeros((1, rows), dtype=int)
    return Signal(
        utterance_ids=("x",) * rows,
        tokens=target,
        labels=None,
        weights_tokens=np.ones((1, rows)),
        weights_labels=np.ones((1, rows)),
        ctc_errors=none,
        decoder_errors=none,
        reference_lengths=none[0],
        answered=(0,),
        num_teachers=1,
    )


def run(rollouts=None, beta=1.0, *, sparse=None, logits=None, data=REFERENCES, **settings):
    """Loss part `kd_att`, total and logits of a criterion on the fixture."""
    config = Distillation(**settings)
    items = plan_items(
        config.selector, data, rollouts or {}, beta=beta, ask_on_data=config.data_target != "own"
    )
    logits = student(items.utterance) if logits is None else logits
    criterion = DistillationCriterion(config, blank=1, eos=EOS)
    about = {
        "references": data,
        "signal": signal_of(items, config.temperature, sparse),
        "frames": FRAMES,
        "items": items,
    }
    losses = criterion.losses(ctc_logits=None, decoder_logits=logits, **about)
    counts = criterion.counts(**about)
    assert counts == {part: losses[part].count for part in counts}
    return losses["kd_att"], criterion.total(losses, counts), logits


def check(loss, expected):
    assert loss.sum.item() == pytest.approx(expected["sum"], abs=1e-9)
    np.testing.assert_allclose(loss.rows.detach(), expected["rows"], atol=1e-9)
    assert loss.mean.item() == pytest.approx(expected["mean"], abs=1e-9)
    assert loss.mean.item() / math.log(2) == pytest.approx(expected["mean_bits"], abs=1e-9)
    by_row = loss.rows.detach().numpy() / np.array([4, 2])
    assert by_row.mean() == pytest.approx(expected["mean_of_row_means"], abs=1e-9)
    np.testing.assert_allclose(np.sum(expected["positions"], axis=1), expected["rows"], atol=1e-9)


def reference_rollouts():
    """Rollouts that equal the references: on-policy targets on the fixture's positions."""
    return dict(enumerate(ORACLE["references"]))


@pytest.mark.parametrize("preset", ["word_kd", "word_kd_audio", "kd_transcripts"])
def test_word_kd_is_the_cross_entropy_with_the_teacher(preset):
    loss, total, _ = run(preset=preset)
    check(loss, EXPECTED["full"])
    assert total.item() == pytest.approx(EXPECTED["full"]["mean"], abs=1e-9)


@pytest.mark.parametrize(
    "preset", ["imitkd_full", "imitkd_audio", "imitkd_transcripts", "cascade_nmt"]
)
@pytest.mark.parametrize("rollouts", [{}, reference_rollouts()], ids=["data", "rollout"])
def test_imitkd_full_is_the_same_on_both_kinds_of_prefix(preset, rollouts):
    check(run(rollouts, preset=preset)[0], EXPECTED["full"])


def test_always_student_and_checked_prefix_learn_distributions():
    check(run(reference_rollouts(), preset="always_student")[0], EXPECTED["full"])
    config = Distillation(preset="checked_prefix")
    items = plan_items(config.selector, REFERENCES, reference_rollouts(), scores={0: 0.3, 1: 0.29})
    assert items.on_policy.tolist() == [True, False]


@pytest.mark.parametrize("rollouts", [{}, reference_rollouts()], ids=["data", "rollout"])
def test_imitkd_optimal_is_the_nll_of_the_teachers_argmax(rollouts):
    loss, _, _ = run(rollouts, preset="imitkd_optimal")
    check(loss, EXPECTED["optimal"])


@pytest.mark.parametrize("preset", ["nll", "seq_kd", "seq_inter"])
def test_nll_presets_learn_the_data_prefix_alone(preset):
    config = Distillation(preset=preset, label_smoothing=0.0)
    criterion = DistillationCriterion(config, blank=1, eos=EOS)
    assert criterion.wanted == frozenset()
    items = plan_items(config.selector, REFERENCES, {}, learns_gold=True, ask_on_data=False)
    assert not items.asked.any()
    for given in (None, items):
        about = {"references": REFERENCES, "signal": None, "frames": FRAMES, "items": given}
        losses = criterion.losses(ctc_logits=None, decoder_logits=student(), **about)
        check(losses["sup_att"], EXPECTED["nll"])
        total = criterion.total(losses, criterion.counts(**about))
        assert total.item() == pytest.approx(EXPECTED["nll"]["mean"], abs=1e-9)


def test_smoothing_spreads_over_the_label_too_unlike_fairseqs():
    def smoothed(smoothing):
        criterion = SupervisedCriterion(
            Supervised(ctc_weight=0, label_smoothing=smoothing), blank=1, eos=EOS
        )
        losses = criterion.losses(
            ctc_logits=None, frames=FRAMES, decoder_logits=student(), references=REFERENCES
        )
        return losses["sup_att"].sum.item()

    # fairseq spreads 0.1 over the 5 other tokens; over all 6 that is 0.1 * 6 / 5.
    assert smoothed(0.12) == pytest.approx(EXPECTED["fairseq_smoothed_nll_sum"], abs=1e-9)
    assert abs(smoothed(0.1) - EXPECTED["fairseq_smoothed_nll_sum"]) > 0.01


def test_forward_kl_is_the_cross_entropy_less_the_teachers_entropy():
    loss, _, _ = run(preset="imitkd_full", divergence="forward_kl")
    check(loss, EXPECTED["forward_kl"])
    entropy = EXPECTED["full"]["sum"] - EXPECTED["forward_kl"]["sum"]
    assert entropy == pytest.approx(EXPECTED["entropy"]["sum"], abs=1e-9)


def test_temperature_softens_both_sides_and_has_its_factor_once():
    loss, total, _ = run(preset="word_kd", divergence="forward_kl", temperature=2.0)
    assert loss.sum.item() == pytest.approx(EXPECTED["forward_kl_tau_2_sum"], abs=1e-9)
    expected = EXPECTED["forward_kl_tau_2_sum_times_4"]
    assert total.item() * loss.count == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sparse", [None, 3], ids=["dense", "sparse"])
@pytest.mark.parametrize("divergence", ["cross_entropy", "forward_kl"])
def test_top_k_is_renormalised(sparse, divergence):
    loss, _, _ = run(preset="imitkd_full", top_k=2, sparse=sparse, divergence=divergence)
    expected = EXPECTED["full_top_2_sum"]
    if divergence == "forward_kl":
        logits = np.sort(np.array(ORACLE["teacher_logits"]), axis=-1)[..., -2:]
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected += sum((row * np.log(row)).sum() for row in (p[0], p[1, :2]))
    assert loss.sum.item() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="top_k is 2, but the signal keeps only 1"):
        run(preset="imitkd_full", top_k=2, sparse=1)


def test_every_token_of_a_small_vocabulary_kept_is_the_dense_loss():
    loss, _, _ = run(preset="imitkd_full", top_k=99)
    check(loss, EXPECTED["full"])


def test_teachers_likeliest_tokens():
    logits = torch.tensor(ORACLE["teacher_logits"], dtype=torch.float64)
    target = TokenTarget(torch.log_softmax(logits, -1).numpy(), np.array([4, 4]))
    assert likeliest(target).tolist() == EXPECTED["argmax"]
    assert likeliest(truncate(target, 2)).tolist() == EXPECTED["argmax"]


def test_gradients():
    loss, _, logits = run(preset="imitkd_full")
    loss.sum.backward()
    np.testing.assert_allclose(logits.grad[0, 0], EXPECTED["full_gradient_0_0"], atol=1e-9)
    np.testing.assert_array_equal(logits.grad[1, 3], EXPECTED["full_gradient_1_3"])
    loss, _, logits = run(preset="imitkd_optimal")
    loss.sum.backward()
    np.testing.assert_allclose(logits.grad[0, 0], EXPECTED["optimal_gradient_0_0"], atol=1e-9)


@pytest.mark.parametrize(
    ("preset", "name"), [("imitkd_full", "full"), ("imitkd_optimal", "optimal")]
)
def test_a_mixed_batch_is_divided_by_the_positions_it_has(preset, name):
    loss, total, _ = run({0: ORACLE["rollout_of_row_0"]}, preset=preset)
    mixed = EXPECTED["mixed"]
    assert loss.count == mixed["positions"]
    assert loss.sum.item() == pytest.approx(mixed[f"{name}_sum"], abs=1e-9)
    assert total.item() == pytest.approx(mixed[f"{name}_mean"], abs=1e-9)
    assert abs(total.item() - WRONG[f"mixed_{name}_by_reference_tokens"]) > 0.1


def test_padding_is_masked_by_lengths_and_nothing_else():
    full, optimal = run(preset="imitkd_full")[0], run(preset="imitkd_optimal")[0]
    for name in ("full_sum_without_mask", "full_sum_masked_by_probability"):
        assert abs(full.sum.item() - WRONG[name]) > 1
    assert abs(optimal.sum.item() - WRONG["optimal_sum_masked_by_argmax"]) > 1
    # The wrong numbers are those of wrong code: all four positions of row 1 counted.
    logits = torch.tensor(ORACLE["teacher_logits"], dtype=torch.float64)
    target = TokenTarget(torch.log_softmax(logits, -1).numpy(), np.array([4, 4]))
    unmasked = token_cross_entropy(student(), token_tensors(target))
    assert unmasked.sum.item() == pytest.approx(WRONG["full_sum_without_mask"], abs=1e-9)
    broken = student().detach().clone()
    broken[1, 2:] = torch.nan
    broken.requires_grad_()
    for settings in ({"preset": "imitkd_full"}, {"preset": "imitkd_full", "top_k": 2}):
        clean = run(**settings)[0].sum
        loss, _, _ = run(logits=broken, **settings)
        assert loss.sum.item() == clean.item()
        broken.grad = None
        loss.sum.backward()
        assert (broken.grad[1, 2:] == 0).all()


def test_mixer_weighs_both_prefixes_of_every_sentence():
    rollouts = {0: ORACLE["rollout_of_row_0"], 1: ORACLE["references"][1]}
    loss, _, _ = run(rollouts, 0.25, preset="mixer")
    assert loss.sum.item() == pytest.approx(EXPECTED["mixer_sum_at_beta_0.25"], abs=1e-9)
    assert loss.count == 0.25 * 6 + 0.75 * 5


@pytest.mark.parametrize("preset", ["imitkd_gold_on_data", "imitkd_star"])
def test_own_tokens_on_data_and_argmax_on_rollouts(preset):
    loss, _, _ = run({0: ORACLE["rollout_of_row_0"]}, preset=preset)
    assert loss.sum.item() == pytest.approx(EXPECTED["gold_on_data_sum"], abs=1e-9)


@pytest.mark.parametrize("by", ["update", "epoch"])
@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ExponentialBeta, "exponential_200"),
        (LinearBeta, "linear"),
        (ReverseSigmoidBeta, "reverse_sigmoid"),
    ],
)
def test_beta_schedules(config, name, by):
    for share, expected in EXPECTED["beta"][name].items():
        done = round(float(share) * 1000)
        counts = {"update": (done, 1000, 0, 1), "epoch": (0, 1, done, 1000)}[by]
        assert beta_at(config(by=by), Progress(*counts)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("base", [2, 10])
def test_beta_ends_at_one_over_the_base_with_and_without_warm_up(base):
    expected = EXPECTED["beta"][f"exponential_{base}_at_the_end"]
    for warmup in (0.0, 0.4):
        config = ExponentialBeta(base=base, warmup_share=warmup)
        assert beta_at(config, Progress(50, 50, 0, 1)) == pytest.approx(expected, abs=1e-12)
        assert beta_at(config, Progress(90, 50, 0, 1)) == pytest.approx(expected, abs=1e-12)


def test_forward_kl_by_position():
    target = signal_of(plan_items(Distillation().selector, REFERENCES, {})).tokens
    loss = forward_kl(student(), token_tensors(target))
    np.testing.assert_allclose(loss.rows.detach(), EXPECTED["forward_kl"]["rows"], atol=1e-9)
