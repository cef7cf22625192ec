"""What a student is punished for: sums over valid positions, and how many there were.

Every loss returns a `LossSum`; the caller divides once, by the count of the whole update (all
micro-batches, all ranks), so that neither workers nor padding change the result. Lengths alone say
what counts: whatever stands in masked places, NaN included, touches neither value nor gradient.
All logarithms are natural. Half-precision logits are computed in float32.

Shapes: B utterances, T student frames, U target positions, V vocabulary, K kept tokens, S strings.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.core.ctc_plan import CtcPlan, EmptyStrings, Reduction, TooLong, plan_ctc
from kd_ray.core.sparse import few_token_cross_entropy
from kd_ray.core.targets import IntArray, LabelStrings, TokenTarget


@dataclass(frozen=True, eq=False)
class LossSum:
    """A loss before its division.

    `sum` is a scalar; `rows` (B,) the same by utterance, with its gradient: for weights on rows,
    and for the dump of a batch whose loss is not finite. `count` is what the sum is divided by.
    """

    sum: Tensor
    count: float
    rows: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over this batch alone; 0 for a count of 0."""
        return self.sum / (self.count or 1.0)


@dataclass(frozen=True, eq=False)
class CtcLossSum(LossSum):
    """A CTC loss, and what was left out of it."""

    plan: CtcPlan


@dataclass(frozen=True, eq=False)
class TokenTensors:
    """A `TokenTarget` on a device; `longest` and `positions` are known without asking it.

    `closed`: sparse, and no token beyond the kept ones has any mass (`renormalise_top_k`), so that
    the losses need not look at the others one by one.
    """

    log_probs: Tensor
    lengths: Tensor
    ids: Tensor | None
    log_tail: Tensor | None
    longest: int
    positions: int
    closed: bool = False


def token_tensors(target: TokenTarget, device: torch.device | str = "cpu") -> TokenTensors:
    """Copy a token target to `device`; float16 stays float16 until the loss."""

    def move(array: np.ndarray | None) -> Tensor | None:
        # torch.tensor copies: targets are read-only views of somebody else's memory.
        return None if array is None else torch.tensor(array).to(device)

    valid = np.arange(target.log_probs.shape[1]) < np.asarray(target.lengths)[:, None]
    closed = target.log_tail is not None and bool(np.isneginf(target.log_tail[valid]).all())
    return TokenTensors(
        log_probs=torch.tensor(target.log_probs).to(device),
        lengths=torch.tensor(target.lengths, dtype=torch.int64).to(device),
        # Narrow on the wire, but torch looks up by int64.
        ids=None if target.ids is None else move(target.ids.astype(np.int64, copy=False)),
        log_tail=move(target.log_tail),
        longest=int(target.lengths.max(initial=0)),
        positions=int(target.lengths.sum()),
        closed=closed,
    )


def token_cross_entropy(
    student_logits_BUV: Tensor, target: TokenTensors, *, temperature: float = 1.0
) -> LossSum:
    """Cross-entropy `-sum_v p(v) log q(v)` between target p and softened student q.

    Summed over valid positions; counted in positions. Sparse targets are compared over K + 1
    outcomes: the kept tokens, and "any other token", whose probability under the student is summed
    exactly. Bottoms out at the target's entropy; the gradient is that of `forward_kl`.

    Args:
        student_logits_BUV: raw logits; at least as many positions as the target's longest row.
        target: log-probabilities, softened by the same temperature already.
        temperature: divides the student's logits. The caller applies the factor temperature**2
            (Hinton et al. 2015, section 2).

    Raises:
        ValueError: if shapes do not fit.
    """
    cross, keep, _ = _cross_entropy(student_logits_BUV, target, temperature)
    return _positions(cross, keep, target)


def forward_kl(
    student_logits_BUV: Tensor, target: TokenTensors, *, temperature: float = 1.0
) -> LossSum:
    """KL(target || student) = `sum_v p(v) (log p(v) - log q(v))`; otherwise `token_cross_entropy`.

    Zero where the student equals the target. For several teachers this is the divergence from
    their mixture: same gradient as the weighted mean of their divergences, smaller value.
    """
    cross, keep, log_p = _cross_entropy(student_logits_BUV, target, temperature)
    return _positions(cross + _expect(log_p, log_p), keep, target)


def reverse_kl(
    student_logits_BUV: Tensor, target: TokenTensors, *, temperature: float = 1.0
) -> LossSum:
    """KL(student || target) = `sum_v q(v) (log q(v) - log p(v))`; dense targets only.

    Infinite where the target gives no probability to a token that the student can write.

    Raises:
        ValueError: for a sparse target: nobody knows p of the tokens in its tail.
    """
    _dense_only("reverse_kl", target)
    student, keep, log_p = _align(student_logits_BUV, target, temperature)
    log_q = torch.log_softmax(student, dim=-1)
    return _positions(_expect(log_q, log_q) - _expect(log_q, log_p), keep, target)


def jsd(
    student_logits_BUV: Tensor,
    target: TokenTensors,
    *,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> LossSum:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2024, GKD, equation 1).

    `beta KL(p || m) + (1 - beta) KL(q || m)` with m = beta p + (1 - beta) q, target p, student q.
    At the ends, where that is zero throughout, its limits after rescaling are taken: `forward_kl`
    for beta 0, `reverse_kl` for beta 1. Dense targets only; symmetric and at most log 2 at 1/2.

    Raises:
        ValueError: for a sparse target, or beta outside [0, 1].
    """
    _dense_only("jsd", target)
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be between 0 and 1, got {beta}")
    if beta == 0.0:
        return forward_kl(student_logits_BUV, target, temperature=temperature)
    if beta == 1.0:
        return reverse_kl(student_logits_BUV, target, temperature=temperature)
    student, keep, log_p = _align(student_logits_BUV, target, temperature)
    log_q = torch.log_softmax(student, dim=-1)
    log_m = torch.logaddexp(log_p + float(np.log(beta)), log_q + float(np.log1p(-beta)))
    from_p = _expect(log_p, log_p) - _expect(log_p, log_m)
    from_q = _expect(log_q, log_q) - _expect(log_q, log_m)
    return _positions(beta * from_p + (1.0 - beta) * from_q, keep, target)


def token_nll(
    student_logits_BUV: Tensor, labels: Labels, *, label_smoothing: float = 0.0
) -> LossSum:
    """`(1 - e) * -log s(y) + e * mean_v -log s(v)`, summed over labels, counted in labels.

    The smoothing spreads evenly over the whole vocabulary, the label included.

    Args:
        student_logits_BUV: raw logits; at least as many positions as the longest row of labels.
        labels: what should be written, end symbol included (`with_eos`). A row of length -1 or 0
            has no reference and counts for nothing; padding may hold any ids.
        label_smoothing: e.

    Raises:
        ValueError: if there are fewer logits than labels, or ids beyond the vocabulary.
    """
    longest = int(labels.lengths.max(initial=0))
    batch, positions, vocabulary = student_logits_BUV.shape
    _fits("labels", (len(labels.lengths), longest), (batch, positions))
    keep_array = np.arange(longest) < np.asarray(labels.lengths)[:, None]
    ids_array = np.where(keep_array, labels.ids[:, :longest], 0)
    if ids_array.size and (ids_array.min() < 0 or ids_array.max() >= vocabulary):
        raise ValueError(
            f"labels reach from {ids_array.min()} to {ids_array.max()}, the student's vocabulary "
            f"only from 0 to {vocabulary - 1}; do references and model use the same tokens?"
        )
    device = student_logits_BUV.device
    keep = torch.tensor(keep_array, device=device)
    ids = torch.tensor(ids_array, device=device)
    log_s = torch.log_softmax(_masked(student_logits_BUV[:, :longest], keep), dim=-1)
    nll = -log_s.gather(-1, ids[..., None]).squeeze(-1)
    if label_smoothing:
        nll = (1.0 - label_smoothing) * nll - label_smoothing * log_s.mean(dim=-1)
    rows = torch.where(keep, nll, 0.0).sum(dim=-1)
    return LossSum(rows.sum(), float(keep_array.sum()), rows)


def with_eos(labels: Labels, eos: int) -> Labels:
    """Append the end symbol to every row; rows without a reference (length -1) stay without."""
    lengths = np.asarray(labels.lengths)
    width = int(lengths.max(initial=-1)) + 1
    ids = np.zeros((len(lengths), width), dtype=np.int64)
    ids[:, : width - 1] = labels.ids[:, : max(0, width - 1)]
    present = np.flatnonzero(lengths >= 0)
    ids[present, lengths[present]] = eos
    return Labels(ids, np.where(lengths >= 0, lengths + 1, -1))


def ctc_on_strings(
    student_ctc_logits_BTV: Tensor,
    frames: Tensor | IntArray,
    strings: LabelStrings,
    *,
    blank: int,
    reduction: Reduction = "per_utterance",
    empty: EmptyStrings = "skip",
    too_long: TooLong = "drop",
) -> CtcLossSum:
    """Connectionist temporal classification on weighted label strings, in one batched call.

    `sum_i sum_y w_iy NLL(y | x_i) / max(1, |y|)`, counted in utterances (`per_utterance`, as in
    Gao et al. 2020, arXiv 2005.09310); or `sum_i sum_y w_iy NLL(y | x_i)`, counted in weighted
    labels (`per_label`). What is left out, and how weights follow, says `plan_ctc`.

    Args:
        student_ctc_logits_BTV: raw logits.
        frames: (B,) the student's own encoder frames; logits beyond count for nothing.
        strings: label strings of all utterances, blanks removed.
        blank: id of the blank.
        reduction: see above.
        empty: `skip` empty strings, or `keep` them: minus the sum of all blank log-probabilities.
        too_long: `drop` strings that need more frames than there are, or let them be `zero`.

    Raises:
        ValueError: if shapes do not fit, or a string holds a blank or an unknown id.
    """
    batch, num_frames, vocabulary = student_ctc_logits_BTV.shape
    frames = np.asarray(frames.cpu() if isinstance(frames, Tensor) else frames, dtype=np.int64)
    _fits("frames", (len(frames), int(frames.max(initial=0))), (batch, num_frames))
    plan = plan_ctc(strings, frames, reduction=reduction, empty=empty, too_long=too_long)
    plan.check_ids(blank, vocabulary)
    device = student_ctc_logits_BTV.device
    keep = torch.tensor(np.arange(num_frames) < frames[:, None], device=device)
    log_s = torch.log_softmax(_masked(student_ctc_logits_BTV, keep), dim=-1)
    utterance = torch.tensor(plan.utterance, device=device)
    if len(plan.utterance):
        nll = F.ctc_loss(
            log_s.index_select(0, utterance).transpose(0, 1),
            torch.tensor(plan.labels, device=device),
            torch.tensor(frames[plan.utterance]),
            torch.tensor(plan.lengths),
            blank=blank,
            reduction="none",
        )
    else:
        nll = log_s.sum(dim=(1, 2))[:0]
    weighted = nll * torch.tensor(plan.factors, device=device, dtype=nll.dtype)
    rows = weighted.new_zeros(batch).index_add(0, utterance, weighted)
    return CtcLossSum(rows.sum(), plan.count, rows, plan)


def _masked(logits: Tensor, keep: Tensor) -> Tensor:
    """Zero logits where `keep` is false: their gradient is then zero, whatever they held.

    Half precision becomes float32 here: sums over a vocabulary need it.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return torch.where(keep[..., None], logits, 0.0)


def _align(
    student_logits: Tensor, target: TokenTensors, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Softened student logits, mask (B, U) and a dense target, cut to the longest row."""
    length = _check(student_logits, target, temperature)
    keep = torch.arange(length, device=student_logits.device) < target.lengths[:, None]
    student = _masked(student_logits[:, :length], keep)
    log_p = torch.where(keep[..., None], target.log_probs[:, :length].to(student.dtype), 0.0)
    return student if temperature == 1.0 else student / temperature, keep, log_p


def _check(student_logits: Tensor, target: TokenTensors, temperature: float) -> int:
    """Refuse shapes that do not fit; the target's longest row."""
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    batch, positions, vocabulary = student_logits.shape
    length = target.longest
    _fits("target", (target.log_probs.shape[0], length), (batch, positions))
    if target.ids is None and target.log_probs.shape[-1] != vocabulary:
        raise ValueError(
            f"the target is over {target.log_probs.shape[-1]} tokens, the student's logits over "
            f"{vocabulary}; do teachers and student use the same tokens?"
        )
    if (target.ids is None) != (target.log_tail is None):
        raise ValueError("a sparse target needs both ids and log_tail, a dense one neither")
    return length


def _cross_entropy(
    student_logits: Tensor, target: TokenTensors, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy (B, U), the mask, and the log-probabilities of the target's outcomes."""
    if target.ids is None:
        student, keep, log_p = _align(student_logits, target, temperature)
        return -_expect(log_p, torch.log_softmax(student, dim=-1)), keep, log_p
    length = _check(student_logits, target, temperature)
    keep = torch.arange(length, device=student_logits.device) < target.lengths[:, None]
    log_p = torch.where(keep[..., None], target.log_probs[:, :length], 0.0)
    ids = torch.where(keep[..., None], target.ids[:, :length], 0)
    log_tail = None
    # Where every token is kept, there is no other one.
    if not target.closed and ids.shape[-1] < student_logits.shape[-1]:
        assert target.log_tail is not None
        log_tail = torch.where(keep, target.log_tail[:, :length], -torch.inf)
    cross = few_token_cross_entropy(
        student_logits[:, :length], keep, ids, log_p, log_tail, temperature
    )
    if log_tail is not None:
        log_p = torch.cat([log_p, log_tail[..., None]], dim=-1)
    return cross, keep, log_p.to(cross.dtype)


def _expect(log_p: Tensor, value: Tensor) -> Tensor:
    """`sum_v p(v) value(v)`, in which a probability of zero beats an infinite value."""
    p = log_p.exp()
    return torch.where(p > 0, p * value, 0.0).sum(dim=-1)


def _positions(per_position: Tensor, keep: Tensor, target: TokenTensors) -> LossSum:
    """Sum over kept positions."""
    rows = torch.where(keep, per_position, 0.0).sum(dim=-1)
    return LossSum(rows.sum(), float(target.positions), rows)


def _fits(name: str, wanted: tuple[int, int], available: tuple[int, int]) -> None:
    """Rows must be equal, columns enough."""
    if wanted[0] != available[0] or wanted[1] > available[1]:
        raise ValueError(
            f"{name}: {wanted[0]} rows of up to {wanted[1]} positions, but the student's logits "
            f"have {available[0]} rows of {available[1]}; was the same prefix (and its end symbol) "
            "given to both?"
        )


def _dense_only(name: str, target: TokenTensors) -> None:
    if target.ids is not None:
        raise ValueError(
            f"{name} needs the target's probability of every token, and this target keeps only "
            f"{target.ids.shape[-1]}; use cross-entropy or forward KL, or dense targets"
        )
