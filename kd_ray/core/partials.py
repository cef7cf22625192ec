"""Distributions of some teachers, fused as far as they can be: what hosts pass to each other.

Shapes: N teachers of the run, M teachers of a partial, K of them kept apart, B utterances (rows of
the request), U positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.contracts import CHRF_WHOLE, Fusion, TeacherOutput
from kd_ray.core.errors import PortableError
from kd_ray.core.targets import FloatArray, IntArray
from kd_ray.core.trust import Evidence, rules, trust_weights


class TeacherNaN(PortableError, ValueError):
    """Teachers answered with NaN or infinity; whoever asked should go on without `teachers`."""

    def __init__(self, teachers: tuple[int, ...]) -> None:
        super().__init__(
            f"teacher(s) {', '.join(map(str, teachers))}: NaN or infinite log-probabilities at "
            "valid positions; leave them out and fuse the others"
        )
        self.teachers = teachers


@dataclass(frozen=True, eq=False)
class Partial:
    """What some teachers say to a batch, fused as far as it can be. Picklable, read-only.

    `teachers` (M,) ascending indices. `ctc_errors`, `decoder_errors`, `chrf_errors`, `confidence`
    (M, B) and `reference_lengths` (B,) as in `TeacherOutput`. `positions` (B,) valid target
    positions. `probabilities` (B, U, V) float32: the mixture over these teachers, each position
    summing to one, zero in padding; None if no teacher sent distributions. Under geometric fusing
    it holds the weighted mean of these teachers' log-probabilities instead, moved so that the
    largest of each position is 0. `kept` is None, or under `top_m`
    (K, B): for each utterance the K = min(m, M) teachers whose distributions `probabilities`
    (K, B, U, V) then holds apart. `label_ids` (flat) and `label_lengths` (S,) are the distinct
    label strings, `choice` (M, B) which one each teacher wrote for each utterance; `choice` is
    None if no teacher sent strings.
    """

    fusion: Fusion
    num_teachers: int
    teachers: IntArray
    ctc_errors: IntArray
    decoder_errors: IntArray
    confidence: FloatArray
    reference_lengths: IntArray
    positions: IntArray
    probabilities: FloatArray | None
    kept: IntArray | None
    label_ids: IntArray
    label_lengths: IntArray
    choice: IntArray | None
    chrf_errors: IntArray | None = None


def weights_among(partial: Partial, head: Literal["tokens", "labels"]) -> NDArray[np.float64]:
    """Weights (M, B) of the partial's teachers among themselves."""
    tokens_rule, labels_rule = rules(partial.fusion, partial.num_teachers)
    rule = tokens_rule if head == "tokens" else labels_rule
    errors = partial.ctc_errors if rule.trust == "ctc_greedy" else partial.decoder_errors
    wholes = partial.reference_lengths
    if rule.trust == "teacher_forced_chrf":
        nothing = np.full_like(errors, -1)
        errors = nothing if partial.chrf_errors is None else partial.chrf_errors
        wholes = np.where(wholes < 0, -1, CHRF_WHOLE)
    evidence = Evidence(partial.teachers, errors, partial.confidence, wholes)
    return trust_weights(rule, evidence, partial.fusion.strategy.type)


def mix(
    outputs: Sequence[TeacherOutput], fusion: Fusion, weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sum of `weights` (M, B) times softened probabilities, (B, U, V); zero in padding.

    Under geometric fusing, times softened log-probabilities, the largest of each position 0.
    """
    geometric = fusion.fusing == "geometric"
    positions = outputs[0].positions
    num_positions = int(positions.max(initial=0))
    valid = valid_positions(positions, num_positions)
    mixture: NDArray[np.float64] | None = None
    broken = []
    for output, weight in zip(outputs, weights, strict=True):
        assert output.log_probs is not None
        log_probs = output.log_probs[:, :num_positions]
        if fusion.dtype == "float16":
            with np.errstate(over="ignore"):
                log_probs = log_probs.astype(np.float16)
        soft = log_probs.astype(np.float32)
        soft[~valid] = 0
        # The largest becomes 0: no overflow, and no position whose sum underflows.
        with np.errstate(invalid="ignore"):
            soft -= soft.max(axis=-1, keepdims=True)
        if fusion.temperature != 1.0:
            soft /= np.float32(fusion.temperature)
        likely = np.exp(soft, out=None if geometric else soft)
        sums = likely.sum(axis=-1, dtype=np.float64)
        if not np.isfinite(sums).all():
            broken.append(output.teacher)
            continue
        if geometric:
            # The logarithm of the sum is the same for all tokens, so it is left out.
            share = _share(np.where(valid, weight[:, None], 0.0)[..., None], soft)
        else:
            share = np.where(valid, weight[:, None] / sums, 0.0)[..., None] * soft
        if mixture is None:
            mixture = share
        else:
            mixture += share
    if broken:
        raise TeacherNaN(tuple(broken))
    assert mixture is not None
    return (_moved(mixture) if geometric else mixture).astype(np.float32)


def join(fusion: Fusion, sides: Sequence[tuple[FloatArray, FloatArray]]) -> NDArray[np.float32]:
    """Fused distributions (B, U, V) of several groups, each with the group's share (B,)."""
    parts = [_share(share[:, None, None], fused) for share, fused in sides]
    joined = np.sum(parts, axis=0)
    return (_moved(joined) if fusion.fusing == "geometric" else joined).astype(np.float32)


def _share(factor: FloatArray, values: FloatArray) -> NDArray[np.float64]:
    """`factor * values`, in which no share of minus infinity is nothing."""
    with np.errstate(invalid="ignore"):
        return np.where(factor == 0, 0.0, np.asarray(factor, dtype=np.float64) * values)


def _moved(log_means: NDArray[np.float64]) -> NDArray[np.float64]:
    """By a constant for each position, so that the largest is 0: float32 then loses little.

    Raises:
        ValueError: no token has a probability under all teachers.
    """
    largest = log_means.max(axis=-1, keepdims=True, initial=-np.inf)
    nothing = np.argwhere(np.isneginf(largest[..., 0]))
    if len(nothing):
        row, position = nothing[0].tolist()
        raise ValueError(
            f"row {row}, position {position}: no token has a probability above zero under all "
            "teachers, so their geometric mean is no distribution; use divergence forward_kl or "
            "cross_entropy, which fuse by the mixture, or teachers.dtype float32"
        )
    return np.asarray(log_means - largest)


def keep_best(
    partial: Partial, outputs: Sequence[TeacherOutput], weights: NDArray[np.float64]
) -> Partial:
    """The softened distributions of each utterance's best teachers, one by one."""
    distributions = []
    broken: list[int] = []
    for output in outputs:
        try:
            alone = np.ones((1, weights.shape[1]))
            distributions.append(mix([output], partial.fusion, alone))
        except TeacherNaN as error:
            broken.extend(error.teachers)
    if broken:
        raise TeacherNaN(tuple(broken))
    return _with_best(partial, np.stack(distributions), weights)


def _with_best(
    partial: Partial, distributions: FloatArray, weights: NDArray[np.float64]
) -> Partial:
    """Keep of `distributions` (M, B, U, V) those of teachers with any weight (M, B)."""
    most = int((weights > 0).sum(axis=0).max(initial=0))
    # Those with weight first; a softmax may underflow to weight 0, so utterances can have fewer.
    order = np.argsort(weights <= 0, axis=0, kind="stable")[:most]
    columns = np.arange(weights.shape[1])
    return replace(
        partial, kept=partial.teachers[order], probabilities=distributions[order, columns]
    )


def merge_best(union: Partial, a: Partial, b: Partial) -> Partial:
    """The best of both sides: among the best of the union, each is among the best of its side."""
    assert a.kept is not None
    assert b.kept is not None
    assert a.probabilities is not None
    assert b.probabilities is not None
    weights = weights_among(union, "tokens")
    columns = np.arange(weights.shape[1])
    kept = np.concatenate([a.kept, b.kept])
    probabilities = np.concatenate([a.probabilities, b.probabilities])
    slots = weights[np.searchsorted(union.teachers, kept), columns]
    most = int((weights > 0).sum(axis=0).max(initial=0))
    best = np.argsort(slots <= 0, axis=0, kind="stable")[:most]
    return replace(union, kept=kept[best, columns], probabilities=probabilities[best, columns])


def fused_log_probs(partial: Partial, weights: NDArray[np.float64]) -> FloatArray:
    """(B, U, V) log-probabilities of what `weights` (M, B) make of the partial's teachers.

    0 in padding.
    """
    fused = _fused(partial, weights)
    valid = valid_positions(partial.positions, fused.shape[1])
    if partial.fusion.fusing == "geometric":
        # The largest is 0: no overflow, and no sum that underflows.
        log_sums = np.log(np.exp(fused, dtype=np.float64).sum(axis=-1, keepdims=True))
        log_probs = np.asarray(fused - log_sums, dtype=np.float32)
    else:
        with np.errstate(divide="ignore"):
            log_probs = np.asarray(np.log(fused), dtype=np.float32)
    log_probs[~valid] = 0.0
    return log_probs


def _fused(partial: Partial, weights: NDArray[np.float64]) -> FloatArray:
    """(B, U, V) as `Partial.probabilities` holds it where no teachers are kept apart."""
    assert partial.probabilities is not None
    if partial.kept is None:
        return partial.probabilities
    columns = np.arange(weights.shape[1])
    slots = weights[np.searchsorted(partial.teachers, partial.kept), columns]
    if partial.fusion.fusing == "geometric":
        return join(partial.fusion, list(zip(slots, partial.probabilities, strict=True)))
    mixture: NDArray[np.float64] = np.einsum("kb,kbuv->buv", slots, partial.probabilities)
    return mixture.astype(np.float32)


def valid_positions(positions: IntArray, num_positions: int) -> NDArray[np.bool_]:
    """(B, U) true at valid positions."""
    return np.asarray(np.arange(num_positions) < np.asarray(positions)[:, None])


def check_teachers(teachers: IntArray, num_teachers: int) -> None:
    """Indices must be distinct and below N."""
    listed = teachers.tolist()
    if len(set(listed)) != len(listed) or listed[0] < 0 or listed[-1] >= num_teachers:
        raise ValueError(
            f"teacher indices must be distinct and in 0..{num_teachers - 1}, got {listed}"
        )


def same_batch(first: TeacherOutput, other: TeacherOutput) -> None:
    """Refuse to fuse outputs about different batches, prefixes or vocabularies."""
    who = f"teachers {first.teacher} and {other.teacher} cannot be fused"
    for name in ("reference_lengths", "positions"):
        mine, theirs = getattr(first, name), getattr(other, name)
        if not np.array_equal(mine, theirs):
            raise ValueError(f"{who}: {name} are {mine.tolist()} and {theirs.tolist()}")
    if len(first.strings) != len(other.strings):
        raise ValueError(
            f"{who}: they wrote {len(first.strings)} and {len(other.strings)} label strings"
        )
    if (first.chrf_errors is None) != (other.chrf_errors is None):
        raise ValueError(f"{who}: only one of them sent its chrF")
    needed = int(first.positions.max(initial=0))
    shapes = [None if o.log_probs is None else o.log_probs.shape for o in (first, other)]
    a, b = shapes
    if a is None and b is None:
        return
    if a is None or b is None:
        raise ValueError(f"{who}: only one of them sent distributions")
    if (a[0], a[2]) != (b[0], b[2]) or min(a[1], b[1]) < needed:
        raise ValueError(
            f"{who}: distributions (B, U, V) are {a} and {b}, of which "
            f"{needed} positions are needed; teachers must share one vocabulary and one prefix"
        )


def mergeable(a: Partial, b: Partial) -> None:
    """Refuse to merge partials of different batches, fusions, or with a teacher in common."""
    who = f"partials of teachers {a.teachers.tolist()} and {b.teachers.tolist()} cannot be merged"
    common = np.intersect1d(a.teachers, b.teachers)
    if len(common):
        raise ValueError(f"{who}: teacher(s) {common.tolist()} would count twice")
    if a.fusion != b.fusion or a.num_teachers != b.num_teachers:
        raise ValueError(f"{who}: fused differently ({a.fusion} and {b.fusion})")
    for name in ("reference_lengths", "positions"):
        mine, theirs = getattr(a, name), getattr(b, name)
        if not np.array_equal(mine, theirs):
            raise ValueError(f"{who}: {name} are {mine.tolist()} and {theirs.tolist()}")
    shapes = [None if p.probabilities is None else p.probabilities.shape[-3:] for p in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{who}: distributions (B, U, V) are {shapes[0]} and {shapes[1]}")
    if (a.choice is None) != (b.choice is None):
        raise ValueError(f"{who}: only one of them has label strings")
    if (a.chrf_errors is None) != (b.chrf_errors is None):
        raise ValueError(f"{who}: only one of them has the teachers' chrF")
