import math
from dataclasses import replace
from functools import partial

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import check_gradient

from kd_ray.core.contracts import Labels
from kd_ray.core.losses import (
    LossSum,
    forward_kl,
    jsd,
    reverse_kl,
    token_cross_entropy,
    token_nll,
    token_tensors,
    with_eos,
)
from kd_ray.core.targets import TokenTarget, truncate

# Shapes: B utterances, U positions, V vocabulary.
DENSE = {
    "cross_entropy": token_cross_entropy,
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "jsd_0.2": partial(jsd, beta=0.2),
}
SPARSE = {"cross_entropy": token_cross_entropy, "forward_kl": forward_kl}
every_loss = pytest.mark.parametrize("loss", DENSE.values(), ids=DENSE.keys())


def oracle(name: str, p: list[float], q: list[float]) -> float:
    if name == "cross_entropy":
        return oracles.cross_entropy(p, q)
    if name == "forward_kl":
        return oracles.kl(p, q)
    if name == "reverse_kl":
        return oracles.kl(q, p)
    return oracles.jsd(p, q, 0.2 if name == "jsd_0.2" else 0.5)


def student_logits(seed=0, lengths=(4, 2, 3), vocabulary=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths), vocabulary)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype)


def dense_target(seed=1, lengths=(4, 2, 3), vocabulary=6, temperature=1.0):
    logits = student_logits(seed, lengths, vocabulary)
    return TokenTarget((logits / temperature).log_softmax(-1).numpy(), np.array(lengths))


def oracle_sum(name, student, target, temperature):
    total = 0.0
    for i, length in enumerate(target.lengths):
        for u in range(length):
            q = oracles.softmax(student[i, u].tolist(), temperature)
            if target.ids is None:
                p = [math.exp(value) for value in target.log_probs[i, u]]
            else:
                ids = target.ids[i, u].tolist()
                p = [math.exp(v) for v in (*target.log_probs[i, u], target.log_tail[i, u])]
                tail = math.fsum(q[v] for v in range(len(q)) if v not in ids)
                q = [q[v] for v in ids] + [tail]
            total += oracle(name, p, q)
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("lengths", [(4, 2, 3), (1,), (0, 5)], ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_dense_losses_match_the_slow_reference(name, lengths, temperature):
    student, target = student_logits(0, lengths), dense_target(1, lengths)
    found = DENSE[name](student, token_tensors(target), temperature=temperature)
    expected = oracle_sum(name, student, target, temperature)
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    assert found.count == sum(lengths)
    assert found.rows.sum().item() == pytest.approx(found.sum.item(), abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_losses_match_the_slow_reference(name, k, temperature):
    student, target = student_logits(), truncate(dense_target(), k)
    found = SPARSE[name](student, token_tensors(target), temperature=temperature)
    expected = oracle_sum(name, student, target, temperature)
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)


def test_a_hand_worked_cross_entropy():
    # p = (1/2, 1/4, 1/4); q = softmax(ln 2, 0, 0) = (1/2, 1/4, 1/4).
    # CE = 1/2 ln 2 + 2 * 1/4 ln 4 = 1.5 ln 2 = entropy; KL = 0.
    p = TokenTarget(np.log([[[0.5, 0.25, 0.25]]]), np.array([1]))
    logits = torch.tensor([[[math.log(2), 0.0, 0.0]]], dtype=torch.float64)
    loss = token_cross_entropy(logits, token_tensors(p))
    assert loss.sum.item() == pytest.approx(1.5 * math.log(2), abs=1e-12)
    assert forward_kl(logits, token_tensors(p)).sum.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_of_dense_losses(name, temperature):
    student = student_logits(lengths=(2, 1), vocabulary=4)
    target = token_tensors(dense_target(lengths=(2, 1), vocabulary=4))
    check_gradient(lambda logits: DENSE[name](logits, target, temperature=temperature).sum, student)


@pytest.mark.parametrize("name", SPARSE)
def test_gradients_of_sparse_losses(name):
    student = student_logits(lengths=(2, 1), vocabulary=5).requires_grad_()
    target = token_tensors(truncate(dense_target(lengths=(2, 1), vocabulary=5), 2))
    check_gradient(lambda logits: SPARSE[name](logits, target).sum, student)


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl, jsd, partial(jsd, beta=0.9)])
def test_divergences_are_zero_at_equality_and_have_no_slope_there(loss):
    student = student_logits().requires_grad_()
    target = TokenTarget((student / 2).log_softmax(-1).detach().numpy(), np.array([4, 2, 3]))
    found = loss(student, token_tensors(target), temperature=2.0).sum
    assert found.item() == pytest.approx(0, abs=1e-12)
    found.backward()
    assert student.grad.abs().max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), beta=st.floats(0, 1), shift=st.floats(-50, 50))
def test_divergences_are_never_negative_and_ignore_a_constant_added_to_logits(seed, beta, shift):
    student, target = student_logits(seed), token_tensors(dense_target(seed + 1))
    for loss in (forward_kl, reverse_kl, partial(jsd, beta=beta)):
        found = loss(student, target).sum.item()
        assert found >= -1e-12
        assert loss(student + shift, target).sum.item() == pytest.approx(found, abs=1e-9)


def test_cross_entropy_minus_forward_kl_is_the_entropy_of_the_target():
    student = student_logits()
    for target in (dense_target(), truncate(dense_target(), 2)):
        tensors = token_tensors(target)
        entropy = 0.0
        for i, length in enumerate(target.lengths):
            for u in range(length):
                tail = [] if target.log_tail is None else [target.log_tail[i, u]]
                values = [*target.log_probs[i, u], *tail]
                entropy += oracles.entropy([math.exp(value) for value in values])
        gap = token_cross_entropy(student, tensors).sum - forward_kl(student, tensors).sum
        assert gap.item() == pytest.approx(entropy, abs=1e-9)


def test_jsd_is_symmetric_bounded_and_ends_in_the_two_kls():
    a, b = student_logits(0), student_logits(1)
    lengths = np.array([4, 2, 3])
    to_a = token_tensors(TokenTarget(a.log_softmax(-1).numpy(), lengths))
    to_b = token_tensors(TokenTarget(b.log_softmax(-1).numpy(), lengths))
    assert jsd(a, to_b).sum.item() == pytest.approx(jsd(b, to_a).sum.item(), abs=1e-12)
    assert jsd(a, to_b, beta=0.3).sum.item() == pytest.approx(
        jsd(b, to_a, beta=0.7).sum.item(), abs=1e-12
    )
    assert 0 < jsd(a, to_b).sum.item() < 9 * math.log(2)
    assert jsd(a, to_b, beta=0.0).sum.item() == forward_kl(a, to_b).sum.item()
    assert jsd(a, to_b, beta=1.0).sum.item() == reverse_kl(a, to_b).sum.item()
    # And the limits: JSD_beta / beta -> KL(p || q), JSD_beta / (1 - beta) -> KL(q || p).
    small = 1e-6
    assert jsd(a, to_b, beta=small).sum.item() / small == pytest.approx(
        forward_kl(a, to_b).sum.item(), rel=1e-3
    )
    assert jsd(a, to_b, beta=1 - small).sum.item() / small == pytest.approx(
        reverse_kl(a, to_b).sum.item(), rel=1e-3
    )


def test_high_temperature_times_its_square_matches_centred_logits():
    # Hinton et al. 2015, section 2.1: tau^2 KL -> 1 / (2 V) sum_v (z_v - t_v)^2, centred.
    temperature, vocabulary = 1e4, 6
    student, teacher = student_logits(0), student_logits(1)
    target = TokenTarget((teacher / temperature).log_softmax(-1).numpy(), np.array([4, 2, 3]))
    found = forward_kl(student, token_tensors(target), temperature=temperature)
    gap = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    keep = torch.arange(4) < torch.tensor([[4], [2], [3]])
    expected = (gap.square().sum(-1) * keep).sum() / (2 * vocabulary)
    assert found.sum.item() * temperature**2 == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("k", [6, 100])
def test_keeping_every_token_is_the_dense_loss(name, k):
    student = student_logits().requires_grad_()
    dense, sparse = token_tensors(dense_target()), token_tensors(truncate(dense_target(), k))
    a, b = SPARSE[name](student, dense), SPARSE[name](student, sparse)
    assert a.sum.item() == pytest.approx(b.sum.item(), abs=1e-12)
    gradient_a = torch.autograd.grad(a.sum, student)[0]
    gradient_b = torch.autograd.grad(b.sum, student)[0]
    np.testing.assert_allclose(gradient_a, gradient_b, atol=1e-12, rtol=0)


def test_kl_of_a_truncated_target_is_a_lower_bound():
    student, target = student_logits(), dense_target()
    full = forward_kl(student, token_tensors(target)).sum
    gaps = [full - forward_kl(student, token_tensors(truncate(target, k))).sum for k in (1, 3, 5)]
    assert gaps[0] >= gaps[1] >= gaps[2] >= -1e-12


def test_a_tiny_tail_of_the_student_is_summed_without_cancellation():
    logits = torch.tensor([[[60.0, 0.0, 0.0]]])  # float32: 1 - q(0) would be exactly zero
    target = TokenTarget(
        np.array([[[math.log(0.5)]]], dtype=np.float32),
        np.array([1]),
        np.array([[[0]]]),
        np.array([[math.log(0.5)]], dtype=np.float32),
    )
    found = token_cross_entropy(logits, token_tensors(target)).sum.item()
    assert found == pytest.approx(0.5 * (60 - math.log(2)), abs=1e-4)


def test_probabilities_of_zero_meet_infinite_logarithms_safely():
    log_probs = np.log(np.array([[[0.5, 0.5, 1e-300]]]))
    log_probs[..., 2] = -np.inf
    target = token_tensors(TokenTarget(log_probs, np.array([1])))
    student = torch.tensor([[[0.0, 1.0, -torch.inf]]], dtype=torch.float64, requires_grad=True)
    loss = token_cross_entropy(student, target).sum
    loss.backward()
    assert loss.item() == pytest.approx(-0.5 * sum(oracles.log_softmax([0.0, 1.0])))
    assert student.grad.isfinite().all()
    finite = torch.zeros(1, 1, 3, dtype=torch.float64)
    assert reverse_kl(finite, target).sum.item() == math.inf
    assert jsd(finite, target).sum.isfinite()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("loss", "sparse"),
    [(loss, False) for loss in DENSE.values()] + [(loss, True) for loss in SPARSE.values()],
    ids=[*DENSE, *(f"sparse_{name}" for name in SPARSE)],
)
def test_masked_places_leak_into_neither_value_nor_gradient(loss, sparse, value):
    target = dense_target()
    if sparse:
        target = truncate(target, 2)
    clean = student_logits().requires_grad_()
    a = loss(clean, token_tensors(target)).sum
    a.backward()
    padding = np.arange(4) >= target.lengths[:, None]
    target.log_probs[padding] = value
    if sparse:
        target.ids[padding] = 10**9
        target.log_tail[padding] = value
    dirty = student_logits()
    dirty[torch.from_numpy(padding)] = value
    dirty.requires_grad_()
    b = loss(dirty, token_tensors(target)).sum
    b.backward()
    assert a.item() == b.item()
    np.testing.assert_allclose(clean.grad, dirty.grad, atol=0, rtol=0)
    assert not dirty.grad[torch.from_numpy(padding)].any()


def test_padding_on_either_side_changes_nothing():
    target = dense_target()
    wide = np.concatenate([target.log_probs, np.full((3, 3, 6), np.nan)], axis=1)
    student = student_logits()
    wide_student = torch.cat([student, torch.full((3, 2, 6), torch.nan)], dim=1)
    expected = token_cross_entropy(student, token_tensors(target)).sum.item()
    found = token_cross_entropy(wide_student, token_tensors(TokenTarget(wide, target.lengths)))
    assert found.sum.item() == expected


def no_gradient(loss: LossSum, student: torch.Tensor) -> None:
    assert loss.sum.item() == 0
    assert loss.count == 0
    assert loss.mean.item() == 0
    loss.sum.backward()
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("width", [0, 3])
@every_loss
def test_an_empty_mask_gives_zero_and_a_usable_gradient(loss, width):
    student = torch.full((2, 3, 5), torch.nan, requires_grad=True)
    target = TokenTarget(np.full((2, width, 5), np.nan), np.array([0, 0]))
    no_gradient(loss(student, token_tensors(target)), student)


def test_half_precision_logits_are_computed_in_float32():
    student, target = student_logits(dtype=torch.bfloat16), token_tensors(dense_target())
    found = token_cross_entropy(student, target).sum
    assert found.dtype == torch.float32
    expected = token_cross_entropy(student.float(), target).sum
    assert found.item() == expected.item()


def test_read_only_targets_are_copied_without_a_warning(recwarn):
    target = dense_target()
    target.log_probs.flags.writeable = False
    target.lengths.flags.writeable = False
    token_cross_entropy(student_logits(), token_tensors(target))
    assert not recwarn.list


def test_shapes_that_do_not_fit_are_refused():
    target = token_tensors(dense_target())
    with pytest.raises(ValueError, match=r"3 rows of up to 4 positions.*3 rows of 3"):
        token_cross_entropy(student_logits()[:, :3], target)
    with pytest.raises(ValueError, match=r"3 rows of up to 4 positions.*2 rows of 4"):
        token_cross_entropy(student_logits()[:2], target)
    with pytest.raises(ValueError, match="over 6 tokens, the student's logits over 5"):
        token_cross_entropy(student_logits(vocabulary=5), target)
    sparse = truncate(dense_target(), 2)
    for loss in (reverse_kl, jsd):
        with pytest.raises(ValueError, match=f"{loss.__name__} needs .* keeps only 2"):
            loss(student_logits(), token_tensors(sparse))
    with pytest.raises(ValueError, match="needs both ids and log_tail"):
        token_cross_entropy(student_logits(), token_tensors(replace(sparse, log_tail=None)))
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        token_cross_entropy(student_logits(), target, temperature=0)
    with pytest.raises(ValueError, match=r"beta must be between 0 and 1, got 1\.5"):
        jsd(student_logits(), target, beta=1.5)


LABELS = Labels.of([[1, 2, 0, 5], [3, 3], [4]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothed_nll_matches_the_slow_reference(smoothing):
    student = student_logits()
    found = token_nll(student, LABELS, label_smoothing=smoothing)
    expected = sum(
        oracles.smoothed_nll(student[i, u].tolist(), int(label), smoothing)
        for i, string in enumerate(LABELS.strings())
        for u, label in enumerate(string)
    )
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    assert found.count == 7


def test_gradient_of_smoothed_nll():
    student = student_logits().requires_grad_()
    check_gradient(lambda logits: token_nll(logits, LABELS, label_smoothing=0.2).sum, student)


def test_smoothed_nll_is_cross_entropy_to_a_smoothed_target():
    student = student_logits()
    p = np.full((3, 4, 6), 0.1 / 6)
    for i, string in enumerate(LABELS.strings()):
        for u, label in enumerate(string):
            p[i, u, label] += 0.9
    target = token_tensors(TokenTarget(np.log(p), LABELS.lengths))
    found = token_nll(student, LABELS, label_smoothing=0.1).sum.item()
    assert found == pytest.approx(token_cross_entropy(student, target).sum.item(), abs=1e-9)


def test_padding_of_labels_counts_for_nothing_whatever_it_holds():
    student = student_logits()
    clean = token_nll(student, LABELS, label_smoothing=0.1).sum.item()
    ids = np.pad(LABELS.ids, ((0, 0), (0, 2)), constant_values=-7)
    ids[1, 2:] = 10**6
    keep = torch.arange(4) < torch.tensor([[4], [2], [1]])
    dirty = torch.where(keep[..., None], student, torch.nan).requires_grad_()
    loss = token_nll(dirty, Labels(ids, LABELS.lengths), label_smoothing=0.1)
    loss.sum.backward()
    assert loss.sum.item() == clean
    assert dirty.grad.isfinite().all()


def test_every_mask_of_lengths_counts_exactly_the_labels():
    # The reference recipe let a padded step in for lengths such as 7 of 13 (float rounding).
    for longest in (7, 13, 29):
        lengths = np.arange(longest + 1)
        labels = Labels(np.zeros((longest + 1, longest), dtype=np.int64), lengths)
        logits = torch.zeros(longest + 1, longest, 4)
        loss = token_nll(logits, labels)
        assert loss.count == lengths.sum()
        np.testing.assert_allclose(loss.rows, lengths * math.log(4), rtol=1e-6)


def test_end_symbol_is_appended_to_rows_that_have_a_reference():
    labels = Labels(np.array([[5, 6, 7], [8, 0, 0], [0, 0, 0], [9, 9, 9]]), np.array([3, 1, 0, -1]))
    ended = with_eos(labels, 2)
    assert ended.lengths.tolist() == [4, 2, 1, -1]
    assert [row.tolist() for row in ended.strings()[:3]] == [[5, 6, 7, 2], [8, 2], [2]]
    nothing = with_eos(Labels(np.zeros((2, 0), dtype=np.int64), np.array([-1, -1])), 2)
    student = torch.zeros(2, 3, 5, requires_grad=True)
    no_gradient(token_nll(student, nothing, label_smoothing=0.1), student)


def test_labels_beyond_the_logits_are_refused():
    with pytest.raises(ValueError, match="labels: 3 rows of up to 4 positions"):
        token_nll(student_logits()[:, :3], LABELS)
    with pytest.raises(ValueError, match=r"from 0 to 5, .* only from 0 to 4"):
        token_nll(student_logits(vocabulary=5), LABELS)
