"""Many teachers' outputs become one target, as mergeable partial sums.

`local` runs where teachers live, `merge` joins what two hosts made, `finish` makes the target, so
that fusion is a tree over hosts and nodes whose result does not depend on the tree.

How it merges: a `Partial` carries the small table of error counts of its teachers, from which the
weights of any union follow exactly, and the fused distribution *normalised over its own teachers*.
Each rule but one gives teachers within a group weights proportional to those they have in a larger
group, so a union is `share_a * fused_a + share_b * fused_b`, where a share is the weight that the
union gives to all teachers of one side. Under `top_m` a larger group may push teachers out of the m
best, so a partial keeps the distributions of its m best apart, and `finish` mixes them. Geometric
fusing merges alike: what is shared out are then the mean log-probabilities of each side, up to a
constant for each position, which the last normalising takes away.

Shapes: N teachers of the run, M teachers that answered, B utterances, U positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.strategies import Fusing
from kd_ray.core.contracts import Fusion, Signal, TeacherOutput
from kd_ray.core.partials import (
    Partial,
    TeacherNaN,
    check_teachers,
    fused_log_probs,
    join,
    keep_best,
    merge_best,
    mergeable,
    mix,
    same_batch,
    weights_among,
)
from kd_ray.core.targets import (
    FloatArray,
    IntArray,
    LabelStrings,
    TokenTarget,
    pad_labels,
    truncate,
)
from kd_ray.core.trust import rules

__all__ = ["FusedTargets", "Partial", "TeacherNaN", "finish", "fuse", "local", "merge"]

_Array = TypeVar("_Array", FloatArray, IntArray)
_LABEL_DTYPE = np.dtype(np.int32)


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
    fusing: Fusing = "mixture"
    chrf_errors: IntArray | None = None

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
            fusing=self.fusing,
            teacher_s=teacher_s,
            outputs=outputs,
            chrf_errors=self.chrf_errors,
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
        same_batch(first, output)
    partial = Partial(
        fusion=fusion,
        num_teachers=num_teachers,
        teachers=np.array([output.teacher for output in outputs], dtype=np.int64),
        ctc_errors=np.stack([output.ctc_errors for output in outputs]),
        decoder_errors=np.stack([output.decoder_errors for output in outputs]),
        confidence=np.stack([output.confidence for output in outputs]),
        reference_lengths=first.reference_lengths,
        positions=first.positions,
        probabilities=None,
        kept=None,
        label_ids=np.zeros(0, dtype=_LABEL_DTYPE),
        label_lengths=np.zeros(0, dtype=np.int64),
        choice=None,
        chrf_errors=_stacked([output.chrf_errors for output in outputs]),
    )
    check_teachers(partial.teachers, num_teachers)
    if first.log_probs is not None:
        weights = weights_among(partial, "tokens")
        if rules(fusion, num_teachers)[0].kind == "top_m":
            partial = keep_best(partial, outputs, weights)
        else:
            partial = replace(partial, probabilities=mix(outputs, fusion, weights))
    if len(first.strings) == len(first.reference_lengths):
        weights_among(
            partial, "labels"
        )  # refuses a lack of references here, before anything travels
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
    mergeable(a, b)
    teachers = np.concatenate([a.teachers, b.teachers])
    order = np.argsort(teachers)
    union = Partial(
        fusion=a.fusion,
        num_teachers=a.num_teachers,
        teachers=teachers[order],
        ctc_errors=np.concatenate([a.ctc_errors, b.ctc_errors])[order],
        decoder_errors=np.concatenate([a.decoder_errors, b.decoder_errors])[order],
        confidence=np.concatenate([a.confidence, b.confidence])[order],
        reference_lengths=a.reference_lengths,
        positions=a.positions,
        probabilities=None,
        kept=None,
        label_ids=a.label_ids,
        label_lengths=a.label_lengths,
        choice=None,
        chrf_errors=_joined(a.chrf_errors, b.chrf_errors, order),
    )
    if a.kept is not None and b.kept is not None:
        union = merge_best(union, a, b)
    elif a.probabilities is not None and b.probabilities is not None:
        from_a = np.isin(union.teachers, a.teachers)
        weights = weights_among(union, "tokens")
        sides = [
            (weights[from_a].sum(axis=0), a.probabilities),
            (weights[~from_a].sum(axis=0), b.probabilities),
        ]
        union = replace(union, probabilities=join(a.fusion, sides))
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

    Token targets are dense float32 log-probabilities of the mixture, or of its `fusion.top_k`
    likeliest tokens with the mass of all others (equal ones: the lowest id first), which is cut
    only here, where every teacher is in the sum. Or they are those of the geometric mean
    (`fusion.fusing`), at which the reverse KL from it is the weighted mean of the teachers' own
    plus a constant: `KL(q||g) = sum_t w_t KL(q||p_t) + log sum_v prod_t p_t(v)^w_t`. Label strings
    come utterance
    by utterance, the heaviest first, equal weights in lexicographic order; equal strings are one
    string whose weight is the sum; strings of weight zero are left out. With `max_strings` only
    the heaviest of an utterance stay; their weights are **renormalised** to sum to one, so that the
    loss of an utterance keeps its scale, and `dropped_weight` says what share was cut.
    """
    nothing = np.zeros((len(partial.teachers), len(partial.reference_lengths)))
    tokens, labels = None, None
    weights_tokens = weights_labels = nothing
    if partial.probabilities is not None:
        weights_tokens = weights_among(partial, "tokens")
        log_probs = fused_log_probs(partial, weights_tokens)
        tokens = _cut(TokenTarget(log_probs, partial.positions), partial.fusion.top_k)
    if partial.choice is not None:
        weights_labels = weights_among(partial, "labels")
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
        fusing=partial.fusion.fusing,
        chrf_errors=(
            None if partial.chrf_errors is None else _all_teachers(partial, partial.chrf_errors, -1)
        ),
    )


def _cut(target: TokenTarget, top_k: int | None) -> TokenTarget:
    """A dense target, or its likeliest tokens where that is less."""
    if top_k is None or top_k >= target.log_probs.shape[-1]:
        return target
    return truncate(target, top_k)


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


def _stacked(rows: Sequence[IntArray | None]) -> IntArray | None:
    """(M, B) of the teachers' (B,); None where they sent nothing."""
    there = [row for row in rows if row is not None]
    return np.stack(there) if there else None


def _joined(a: IntArray | None, b: IntArray | None, order: IntArray) -> IntArray | None:
    """Two sides' (M, B), teachers in `order`; None where they have nothing."""
    return None if a is None or b is None else np.concatenate([a, b])[order]


def _all_teachers(partial: Partial, values: _Array, fill: int) -> _Array:
    """(M, B) of those that answered to (N, B), `fill` for the others."""
    full = np.full((partial.num_teachers, values.shape[1]), fill, dtype=values.dtype)
    full[partial.teachers] = values
    return cast(_Array, full)


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
