from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.strategies import Average
from kd_ray.config.teachers import Distillation
from kd_ray.config.training import Supervised
from kd_ray.core.contracts import Fusion, Labels
from kd_ray.core.criteria import DistillationCriterion, SupervisedCriterion
from kd_ray.core.strategies import fuse

BLANK, EOS, VOCABULARY = 0, 2, 5
FRAMES = np.array([9, 5, 7])
REFERENCES = Labels.of([[1, 3, 4], [3], [4, 4]])


def logits(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ctc = torch.randn(3, 9, VOCABULARY, generator=generator, dtype=torch.float64)
    decoder = torch.randn(3, 4, VOCABULARY, generator=generator, dtype=torch.float64)
    return ctc.requires_grad_(), decoder.requires_grad_()


def signal_of(temperature: float = 1.0, seed: int = 0):
    outputs = example_outputs(seed, teachers=3, positions=(4, 2, 3), vocabulary=VOCABULARY)
    return fuse(outputs, Fusion(Average(), temperature=temperature), 3).signal(("a", "b", "c"))


def rows_of(references: Labels, rows: list[int]) -> Labels:
    return Labels(references.ids[rows], references.lengths[rows])


def without(references: Labels, rows: list[int]) -> Labels:
    lengths = references.lengths.copy()
    lengths[rows] = -1
    return Labels(references.ids, lengths)


def run(criterion, references=REFERENCES, signal=None, frames=FRAMES, seed=0):
    ctc, decoder = logits(seed)
    losses = criterion.losses(
        ctc_logits=ctc, frames=frames, decoder_logits=decoder, references=references, signal=signal
    )
    counts = criterion.counts(references=references, signal=signal, frames=frames)
    return criterion.total(losses, counts), losses, counts, (ctc, decoder)


def supervised_oracle(ctc_weight: float, smoothing: float) -> float:
    ctc, decoder = logits()
    ctc_sum = att_sum = 0.0
    for i, string in enumerate(REFERENCES.strings()):
        labels = string.tolist()
        nll = oracles.ctc_nll(ctc[i].tolist(), int(FRAMES[i]), labels, BLANK)
        ctc_sum += nll / len(labels)
        for u, label in enumerate([*labels, EOS]):
            att_sum += oracles.smoothed_nll(decoder[i, u].tolist(), label, smoothing)
    return ctc_weight * ctc_sum / 3 + (1 - ctc_weight) * att_sum / 9


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
def test_supervised_total_matches_the_slow_reference(ctc_weight):
    criterion = SupervisedCriterion(
        Supervised(ctc_weight=ctc_weight, label_smoothing=0.1), blank=BLANK, eos=EOS
    )
    total, _, counts, _ = run(criterion)
    assert total.item() == pytest.approx(supervised_oracle(ctc_weight, 0.1), abs=1e-9)
    assert criterion.wanted == frozenset()
    assert counts == {
        part: count for part, count in (("sup_ctc", 3), ("sup_att", 9)) if part in criterion.weights
    }


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.7, 1.0), (0.25, 2.0)])
def test_distillation_total_matches_the_slow_reference(alpha, temperature):
    config = Distillation(alpha=alpha, ctc_weight=0.3, temperature=temperature)
    signal = signal_of(temperature)
    total, _, _, _ = run(DistillationCriterion(config, blank=BLANK, eos=EOS), signal=signal)
    ctc, decoder = logits()
    # The first row's strings may be empty: skipped, the others take their weight.
    kd_ctc, utterances = 0.0, 0
    for i in range(3):
        chosen = [
            (signal.labels.labels[s, : signal.labels.lengths[s]].tolist(), signal.labels.weights[s])
            for s in np.flatnonzero(signal.labels.utterance == i)
            if signal.labels.lengths[s] > 0
        ]
        mass = sum(weight for _, weight in chosen)
        utterances += bool(chosen)
        for string, weight in chosen:
            nll = oracles.ctc_nll(ctc[i].tolist(), int(FRAMES[i]), string, BLANK)
            kd_ctc += weight / mass * nll / len(string)
    kd_att = sum(
        oracles.cross_entropy(
            np.exp(signal.tokens.log_probs[i, u].astype(float)).tolist(),
            oracles.softmax(decoder[i, u].tolist(), temperature),
        )
        for i, positions in enumerate([4, 2, 3])
        for u in range(positions)
    )
    distilled = 0.3 * kd_ctc / utterances + 0.7 * temperature**2 * kd_att / 9
    expected = alpha * distilled + (1 - alpha) * supervised_oracle(0.3, 0.1)
    assert total.item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    unlabelled=st.sets(st.integers(0, 2)),
    frames=st.tuples(*[st.integers(0, 9)] * 3),
    reduction=st.sampled_from(["per_utterance", "per_label"]),
    empty=st.sampled_from(["skip", "keep"]),
    compatibility=st.sampled_from(["none", "reference"]),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_counts_before_the_forward_pass_are_those_of_the_losses(
    seed, unlabelled, frames, reduction, empty, compatibility, alpha
):
    config = Distillation(
        alpha=alpha, ctc_reduction=reduction, empty_strings=empty, compatibility=compatibility
    )
    criterion = DistillationCriterion(config, blank=BLANK, eos=EOS)
    references = without(REFERENCES, list(unlabelled))
    total, losses, counts, _ = run(
        criterion, references, signal_of(seed=seed), np.array(frames), seed
    )
    assert set(counts) == set(criterion.weights)
    assert counts == {part: losses[part].count for part in counts}
    assert total.isfinite()


def test_parts_of_weight_zero_are_neither_computed_nor_asked_for():
    only_ctc = DistillationCriterion(Distillation(alpha=1, ctc_weight=1), blank=BLANK, eos=EOS)
    assert only_ctc.wanted == {"labels"}
    losses = only_ctc.losses(
        ctc_logits=logits()[0],
        frames=FRAMES,
        decoder_logits=None,
        references=None,
        signal=replace(signal_of(), tokens=None),
    )
    assert set(losses) == {"kd_ctc"}
    only_references = DistillationCriterion(Distillation(alpha=0), blank=BLANK, eos=EOS)
    assert only_references.wanted == frozenset()
    total, _, _, _ = run(only_references, signal=None)
    assert total.item() == pytest.approx(supervised_oracle(0.3, 0.1), abs=1e-9)


def test_temperature_has_no_factor_on_the_ctc_part():
    soft = DistillationCriterion(Distillation(temperature=3.0), blank=BLANK, eos=EOS)
    plain = DistillationCriterion(Distillation(), blank=BLANK, eos=EOS)
    recipe = DistillationCriterion(
        Distillation(temperature=3.0, compatibility="reference"), blank=BLANK, eos=EOS
    )
    assert soft.weights["kd_ctc"] == plain.weights["kd_ctc"]
    assert soft.weights["kd_att"] == pytest.approx(9 * plain.weights["kd_att"])
    assert recipe.weights["kd_ctc"] == pytest.approx(9 * plain.weights["kd_ctc"])


@pytest.mark.parametrize("split", [[[0], [1, 2]], [[0], [1], [2]], [[0, 1, 2], []]], ids=str)
def test_any_split_into_micro_batches_gives_the_same_loss_and_gradient(split):
    criterion = DistillationCriterion(Distillation(alpha=0.6), blank=BLANK, eos=EOS)
    references, outputs = without(REFERENCES, [1]), example_outputs(0, vocabulary=VOCABULARY)
    whole, _, counts, (ctc, decoder) = run(criterion, references, signal_of())
    whole.backward()
    pieces, piece_counts, (ctc_2, decoder_2) = [], [], logits()
    for rows in split:
        part = [
            replace(
                output,
                log_probs=output.log_probs[rows],
                strings=tuple(output.strings[row] for row in rows),
                **{
                    name: getattr(output, name)[rows]
                    for name in (
                        "positions",
                        "frames",
                        "ctc_errors",
                        "decoder_errors",
                        "reference_lengths",
                    )
                },
            )
            for output in outputs
        ]
        about = {
            "references": rows_of(references, rows),
            "signal": fuse(part, Fusion(Average()), 3).signal(("x",) * len(rows)),
            "frames": FRAMES[rows],
        }
        piece_counts.append(criterion.counts(**about))
        pieces.append(
            criterion.losses(ctc_logits=ctc_2[rows], decoder_logits=decoder_2[rows], **about)
        )
    summed = {part: sum(piece[part] for piece in piece_counts) for part in counts}
    assert summed == counts
    total = sum(criterion.total(losses, summed) for losses in pieces)
    total.backward()
    assert total.item() == pytest.approx(whole.item(), abs=1e-9)
    np.testing.assert_allclose(ctc.grad, ctc_2.grad, atol=1e-9, rtol=0)
    np.testing.assert_allclose(decoder.grad, decoder_2.grad, atol=1e-9, rtol=0)


def test_rows_without_a_reference_have_alpha_one():
    alpha, signal = 0.25, signal_of()
    criterion = DistillationCriterion(Distillation(alpha=alpha), blank=BLANK, eos=EOS)
    total, losses, _, _ = run(criterion, without(REFERENCES, [0, 2]), signal)
    kd_ctc, kd_att = losses["kd_ctc"], losses["kd_att"]
    share = torch.tensor([1.0, alpha, 1.0], dtype=torch.float64)
    expected = (
        0.3 * (share * kd_ctc.rows).sum() / kd_ctc.count
        + 0.7 * (share * kd_att.rows).sum() / kd_att.count
        + (1 - alpha) * (0.3 * losses["sup_ctc"].mean + 0.7 * losses["sup_att"].mean)
    )
    assert total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert losses["sup_ctc"].count == 1
    assert losses["sup_att"].count == 2


def test_without_any_reference_alpha_makes_no_difference():
    signal = signal_of()
    totals = [
        run(DistillationCriterion(Distillation(alpha=alpha), blank=BLANK, eos=EOS), None, signal)[0]
        for alpha in (1.0, 0.5)
    ]
    assert totals[0].item() == pytest.approx(totals[1].item(), abs=1e-12)


def test_a_batch_that_counts_nothing_gives_zero_and_a_usable_gradient():
    criterion = DistillationCriterion(Distillation(), blank=BLANK, eos=EOS)
    empty = {
        "references": rows_of(REFERENCES, []),
        "signal": replace(
            signal_of(),
            tokens=replace(
                signal_of().tokens, log_probs=np.zeros((0, 0, 5)), lengths=np.zeros(0, dtype=int)
            ),
            labels=replace(
                signal_of().labels,
                labels=np.zeros((0, 0), dtype=int),
                lengths=np.zeros(0, dtype=int),
                utterance=np.zeros(0, dtype=int),
                weights=np.zeros(0),
            ),
        ),
        "frames": np.zeros(0, dtype=int),
    }
    ctc = torch.zeros(0, 4, 5, requires_grad=True)
    decoder = torch.zeros(0, 1, 5, requires_grad=True)
    losses = criterion.losses(ctc_logits=ctc, decoder_logits=decoder, **empty)
    total = criterion.total(losses, criterion.counts(**empty))
    total.backward()
    assert total.item() == 0
    assert ctc.grad is not None
    assert decoder.grad is not None


def test_what_is_missing_is_named():
    criterion = DistillationCriterion(Distillation(), blank=BLANK, eos=EOS)
    about = {"references": REFERENCES, "frames": FRAMES}
    with pytest.raises(ValueError, match=r"no label strings.*'labels'"):
        criterion.counts(signal=None, **about)
    with pytest.raises(ValueError, match=r"no token distributions.*'tokens'"):
        criterion.counts(signal=replace(signal_of(), tokens=None), **about)
    with pytest.raises(ValueError, match="CTC head, and no logits"):
        criterion.losses(ctc_logits=None, decoder_logits=logits()[1], signal=signal_of(), **about)
    longer = Labels.of([[1, 3, 4], [3, 3], [4, 4]])
    with pytest.raises(ValueError, match=r"row 1: teachers scored 2 positions, .* have 3"):
        run(criterion, longer, signal_of())
