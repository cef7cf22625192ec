"""Many teachers' outputs become one target, as mergeable partial sums.

`local` runs where teachers live, `merge` joins what two hosts made, `finish` makes the target, so
that fusion is a tree over hosts and nodes whose result does not depend on the tree.

How it merges: a `Partial` carries the small table of error counts of its teachers, from which the
weights of any union follow exactly, and the fused distribution *normalised over its own teachers*.
Each rule (average, best, weighted) gives teachers within a group weights proportional to those
they have in a larger group, so a union is `share_a * fused_a + share_b * fused_b`, where a share is
the weight that the union gives to all teachers of one side.

Shapes: N teachers of the run, M teachers that answered, B utterances, U positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.contracts import Fusion, Signal, TeacherOutput
from kd_ray.core.targets import FloatArray, IntArray, LabelStrings, TokenTarget, pad_labels
from kd_ray.core.trust import rules, trust_weights

_Array = TypeVar("_Array", FloatArray, IntArray)
_LABEL_DTYPE = np.dtype(np.int32)


class TeacherNaN(ValueError):
    """Teachers answered with NaN or infinity; whoever asked should go on without `teachers`."""

    def __init__(self, teachers: tuple[int, ...]) -> None:
        super().__init__(
            f"teacher(s) {', '.join(map(str, teachers))}: NaN or infinite log-probabilities at "
            "valid positions; leave them out and fuse the others"
        )
        self.teachers = teachers

    def __reduce__(self) -> tuple[type["TeacherNaN"], tuple[tuple[int, ...]]]:
        """Pickle by the indices: the message is not an argument."""
        return TeacherNaN, (self.teachers,)


@dataclass(frozen=True, eq=False)
class Partial:
    """What some teachers say to a batch, fused as far as it can be. Picklable, read-only.

    `teachers` (M,) ascending indices. `ctc_errors`, `decoder_errors` (M, B) and
    `reference_lengths` (B,) as in `TeacherOutput`. `positions` (B,) valid target positions.
    `probabilities` (B, U, V) float32: the mixture over these teachers, each position summing to
    one, zero in padding; None if no teacher sent distributions. `label_ids` (flat) and
    `label_lengths` (S,) are the distinct label strings, `choice` (M, B) which one each teacher
    wrote for each utterance; `choice` is None if no teacher sent strings.
    """

    fusion: Fusion
    num_teachers: int
    teachers: IntArray
    ctc_errors: IntArray
    decoder_errors: IntArray
    reference_lengths: IntArray
    positions: IntArray
    probabilities: FloatArray | None
    label_ids: IntArray
    label_lengths: IntArray
    choice: IntArray | None


@dataclass(frozen=True, eq=False)
class FusedTargets:
    """What `finish` makes; the fields are those of `Signal`."""

    tokens: TokenTarget | None
    labels: LabelStrings | None
    weights_tokens: FloatArray
    weights_labels: FloatArray
    ctc_errors: IntArray
    decoder_errors: IntArray
    reference_lengths: IntArray
    answered: tuple[int, ...]
    num_teachers: int

    def signal(
        self,
        utterance_ids: tuple[str, ...],
        *,
        teacher_s: float = 0.0,
        outputs: tuple[TeacherOutput, ...] = (),
    ) -> Signal:
        """The signal that carries these targets."""
        return Signal(
            utterance_ids=utterance_ids,
            tokens=self.tokens,
            labels=self.labels,
            weights_tokens=self.weights_tokens,
            weights_labels=self.weights_labels,
            ctc_errors=self.ctc_errors,
            decoder_errors=self.decoder_errors,
            reference_lengths=self.reference_lengths,
            answered=self.answered,
            num_teachers=self.num_teachers,
            teacher_s=teacher_s,
            outputs=outputs,
        )


def fuse(outputs: Sequence[TeacherOutput], fusion: Fusion, num_teachers: int) -> FusedTargets:
    """All in one place: `finish(local(...))`."""
    return finish(local(outputs, fusion, num_teachers))


def local(outputs: Sequence[TeacherOutput], fusion: Fusion, num_teachers: int) -> Partial:
    """Fuse the outputs of the teachers at hand.

    Log-probabilities are rounded to `fusion.dtype`, softened as log_softmax(log_probs / tau) for
    each teacher, and mixed by the weights that these teachers have among themselves.

    Args:
        outputs: one per teacher, all about the same batch and the same prefix.
        fusion: strategy, temperature, dtype.
        num_teachers: N, how many teachers the run has.

    Raises:
        TeacherNaN: NaN or infinite log-probabilities at valid positions (minus infinity is a
            probability of zero and fine, unless a whole position is). Names every such teacher.
        ValueError: no output at all; outputs of different batches or prefixes; a strategy that
            trusts error rates where utterances have no reference.
    """
    if not outputs:
        raise ValueError("no teacher output to fuse")
    outputs = sorted(outputs, key=lambda output: output.teacher)
    first = outputs[0]
    for output in outputs[1:]:
        _same_batch(first, output)
    partial = Partial(
        fusion=fusion,
        num_teachers=num_teachers,
        teachers=np.array([output.teacher for output in outputs], dtype=np.int64),
        ctc_errors=np.stack([output.ctc_errors for output in outputs]),
        decoder_errors=np.stack([output.decoder_errors for output in outputs]),
        reference_lengths=first.reference_lengths,
        positions=first.positions,
        probabilities=None,
        label_ids=np.zeros(0, dtype=_LABEL_DTYPE),
        label_lengths=np.zeros(0, dtype=np.int64),
        choice=None,
    )
    _check_teachers(partial.teachers, num_teachers)
    if first.log_probs is not None:
        mixture = _mix(outputs, fusion, _weights(partial, "tokens"))
        partial = replace(partial, probabilities=mixture)
    if len(first.strings) == len(first.reference_lengths):
        _weights(partial, "labels")  # refuses a lack of references here, before anything travels
        table: dict[bytes, int] = {}
        choice = np.array(
            [
                [table.setdefault(_key(string), len(table)) for string in output.strings]
                for output in outputs
            ],
            dtype=np.int64,
        ).reshape(len(outputs), len(first.strings))
        label_ids, label_lengths = _flat(table)
        partial = replace(partial, label_ids=label_ids, label_lengths=label_lengths, choice=choice)
    return partial


def merge(a: Partial, b: Partial) -> Partial:
    """Join two partials of the same batch; associative and commutative up to float rounding.

    Raises:
        ValueError: if they share a teacher or speak of different batches, prefixes or fusions.
    """
    _mergeable(a, b)
    teachers = np.concatenate([a.teachers, b.teachers])
    order = np.argsort(teachers)
    union = Partial(
        fusion=a.fusion,
        num_teachers=a.num_teachers,
        teachers=teachers[order],
        ctc_errors=np.concatenate([a.ctc_errors, b.ctc_errors])[order],
        decoder_errors=np.concatenate([a.decoder_errors, b.decoder_errors])[order],
        reference_lengths=a.reference_lengths,
        positions=a.positions,
        probabilities=None,
        label_ids=a.label_ids,
        label_lengths=a.label_lengths,
        choice=None,
    )
    if a.probabilities is not None and b.probabilities is not None:
        from_a = np.isin(union.teachers, a.teachers)
        weights = _weights(union, "tokens")
        share_a = weights[from_a].sum(axis=0)[:, None, None]
        share_b = weights[~from_a].sum(axis=0)[:, None, None]
        mixture = share_a * a.probabilities + share_b * b.probabilities
        union = replace(union, probabilities=mixture.astype(np.float32))
    if a.choice is not None and b.choice is not None:
        table = {key: index for index, key in enumerate(_keys(a))}
        translated = [table.setdefault(key, len(table)) for key in _keys(b)]
        b_choice = np.array(translated, dtype=np.int64)[b.choice]
        choice = np.concatenate([a.choice, b_choice])[order]
        label_ids, label_lengths = _flat(table)
        union = replace(union, label_ids=label_ids, label_lengths=label_lengths, choice=choice)
    return union


def finish(partial: Partial) -> FusedTargets:
    """Make the target that losses read.

    Token targets are dense float32 log-probabilities of the mixture. Label strings come utterance
    by utterance, the heaviest first, equal weights in lexicographic order; equal strings are one
    string whose weight is the sum; strings of weight zero are left out. With `max_strings` only
    the heaviest of an utterance stay; their weights are **renormalised** to sum to one, so that the
    loss of an utterance keeps its scale, and `dropped_weight` says what share was cut.
    """
    nothing = np.zeros((len(partial.teachers), len(partial.reference_lengths)))
    tokens, labels = None, None
    weights_tokens = weights_labels = nothing
    if partial.probabilities is not None:
        weights_tokens = _weights(partial, "tokens")
        with np.errstate(divide="ignore"):
            log_probs = np.log(partial.probabilities)
        log_probs[~_valid(partial.positions, log_probs.shape[1])] = 0.0
        tokens = TokenTarget(log_probs, partial.positions)
    if partial.choice is not None:
        weights_labels = _weights(partial, "labels")
        labels = _label_strings(partial, weights_labels)
    return FusedTargets(
        tokens=tokens,
        labels=labels,
        weights_tokens=_all_teachers(partial, weights_tokens, 0),
        weights_labels=_all_teachers(partial, weights_labels, 0),
        ctc_errors=_all_teachers(partial, partial.ctc_errors, -1),
        decoder_errors=_all_teachers(partial, partial.decoder_errors, -1),
        reference_lengths=partial.reference_lengths,
        answered=tuple(partial.teachers.tolist()),
        num_teachers=partial.num_teachers,
    )


def _weights(partial: Partial, head: Literal["tokens", "labels"]) -> NDArray[np.float64]:
    """Weights (M, B) of the partial's teachers among themselves."""
    tokens_rule, labels_rule = rules(partial.fusion, partial.num_teachers)
    rule = tokens_rule if head == "tokens" else labels_rule
    errors = partial.ctc_errors if rule.trust == "ctc_greedy" else partial.decoder_errors
    name = partial.fusion.strategy.type
    return trust_weights(rule, errors, partial.reference_lengths, name)


def _mix(
    outputs: Sequence[TeacherOutput], fusion: Fusion, weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sum of `weights` (M, B) times softened probabilities, (B, U, V); zero in padding."""
    positions = outputs[0].positions
    num_positions = int(positions.max(initial=0))
    valid = _valid(positions, num_positions)
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
        np.exp(soft, out=soft)
        sums = soft.sum(axis=-1, dtype=np.float64)
        if not np.isfinite(sums).all():
            broken.append(output.teacher)
            continue
        factors = np.where(valid, weight[:, None] / sums, 0.0)
        if mixture is None:
            mixture = factors[..., None] * soft
        else:
            mixture += factors[..., None] * soft
    if broken:
        raise TeacherNaN(tuple(broken))
    assert mixture is not None
    return mixture.astype(np.float32)


def _label_strings(partial: Partial, weights: NDArray[np.float64]) -> LabelStrings:
    """Distinct strings of each utterance with their summed weights, in canonical order."""
    assert partial.choice is not None
    table = [np.frombuffer(key, dtype=_LABEL_DTYPE).tolist() for key in _keys(partial)]
    most = partial.fusion.max_strings
    kept_strings: list[list[int]] = []
    kept_weights: list[float] = []
    utterances: list[int] = []
    dropped_weight = np.zeros(weights.shape[1])
    for utterance in range(weights.shape[1]):
        sums: dict[int, float] = {}
        column = zip(
            partial.choice[:, utterance].tolist(), weights[:, utterance].tolist(), strict=True
        )
        for index, weight in column:
            sums[index] = sums.get(index, 0.0) + weight
        ranked = sorted(
            ((-weight, table[index]) for index, weight in sums.items() if weight > 0),
        )
        kept = ranked[:most]
        total = -sum(weight for weight, _ in kept)
        dropped_weight[utterance] = -sum(weight for weight, _ in ranked[len(kept) :])
        for weight, string in kept:
            kept_strings.append(string)
            kept_weights.append(-weight / total if len(kept) < len(ranked) else -weight)
            utterances.append(utterance)
    labels, lengths = pad_labels(kept_strings)
    return LabelStrings(
        labels=labels,
        lengths=lengths,
        utterance=np.array(utterances, dtype=np.int64),
        weights=np.array(kept_weights, dtype=np.float64),
        dropped_weight=dropped_weight,
    )


def _all_teachers(partial: Partial, values: _Array, fill: int) -> _Array:
    """(M, B) of those that answered to (N, B), `fill` for the others."""
    full = np.full((partial.num_teachers, values.shape[1]), fill, dtype=values.dtype)
    full[partial.teachers] = values
    return cast(_Array, full)


def _valid(positions: IntArray, num_positions: int) -> NDArray[np.bool_]:
    """(B, U) true at valid positions."""
    return np.asarray(np.arange(num_positions) < np.asarray(positions)[:, None])


def _key(string: Sequence[int] | IntArray) -> bytes:
    """A label string as a dictionary key."""
    return np.asarray(string, dtype=_LABEL_DTYPE).tobytes()


def _keys(partial: Partial) -> list[bytes]:
    """The partial's distinct strings, as keys, in table order."""
    flat = partial.label_ids.tobytes()
    ends = np.cumsum(partial.label_lengths) * _LABEL_DTYPE.itemsize
    starts = ends - partial.label_lengths * _LABEL_DTYPE.itemsize
    return [flat[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _flat(table: dict[bytes, int]) -> tuple[IntArray, IntArray]:
    """Distinct strings end to end, and their lengths; `table` counts up in insertion order."""
    lengths = [len(key) // _LABEL_DTYPE.itemsize for key in table]
    return np.frombuffer(b"".join(table), dtype=_LABEL_DTYPE), np.array(lengths, dtype=np.int64)


def _check_teachers(teachers: IntArray, num_teachers: int) -> None:
    """Indices must be distinct and below N."""
    listed = teachers.tolist()
    if len(set(listed)) != len(listed) or listed[0] < 0 or listed[-1] >= num_teachers:
        raise ValueError(
            f"teacher indices must be distinct and in 0..{num_teachers - 1}, got {listed}"
        )


def _same_batch(first: TeacherOutput, other: TeacherOutput) -> None:
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


def _mergeable(a: Partial, b: Partial) -> None:
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
    shapes = [None if p.probabilities is None else p.probabilities.shape for p in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{who}: distributions (B, U, V) are {shapes[0]} and {shapes[1]}")
    if (a.choice is None) != (b.choice is None):
        raise ValueError(f"{who}: only one of them has label strings")
