"""Cutting requests into pieces, laying pieces together, and cutting answers apart again.

Shapes: B utterances, T frames or source tokens, F mels, U target positions, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.core.contracts import Generate, Masks, Score, TeacherOutput, Written
from kd_ray.core.targets import IntArray
from kd_ray.core.written import join_written, take_written
from kd_ray.teachers.readers import Inputs

Output: TypeAlias = TeacherOutput | Written
"""What a teacher makes of a piece of work: scores, or strings."""


@dataclass(frozen=True, eq=False)
class Work:
    """Some utterances of one request for one teacher."""

    inputs: Tensor
    lengths: Tensor
    prefix: list[IntArray]
    references: list[IntArray] | None
    masks: Masks | None = None

    @property
    def size(self) -> int:
        """Utterances."""
        return len(self.prefix)


def split_request(request: Score | Generate, inputs: Inputs, max_utterances: int) -> list[Work]:
    """Cut a request into pieces that fit into a forward pass."""
    padded, lengths = inputs
    rows = len(request.utterance_ids)
    given = request.references if isinstance(request, Score) else None
    references = None if given is None else given.strings()
    read = given if request.prefix is None else request.prefix
    # Without any prefix the decoder reads nothing but the begin symbol.
    nothing: IntArray = np.zeros(0, dtype=np.int64)
    prefix = [nothing] * rows if read is None else read.strings()
    works = []
    for start in range(0, rows, max_utterances):
        piece = slice(start, start + max_utterances)
        longest = int(lengths[piece].max())
        works.append(
            Work(
                padded[piece, :longest],
                lengths[piece],
                prefix[piece],
                None if references is None else references[piece],
                None if request.view.masks is None else request.view.masks.take(piece),
            )
        )
    return works


def pad_together(works: Sequence[Work]) -> Inputs:
    """Inputs of several pieces of work in one padded batch."""
    if len(works) == 1:
        return works[0].inputs, works[0].lengths
    longest = max(work.inputs.shape[1] for work in works)
    # From the last dimension backwards: none of the mels (where there are any), some of time.
    behind = (0, 0) * (works[0].inputs.dim() - 2)
    padded = [
        torch.nn.functional.pad(work.inputs, (*behind, 0, longest - work.inputs.shape[1]))
        for work in works
    ]
    return torch.cat(padded), torch.cat([work.lengths for work in works])


def masks_together(works: Sequence[Work]) -> Masks | None:
    """The masks of several pieces of work, some of which may have none; None if nobody has any."""
    if all(work.masks is None for work in works):
        return None
    nothing = [np.zeros((work.size, 0, 2)) for work in works]
    masks = [w.masks or Masks(n, n) for w, n in zip(works, nothing, strict=True)]
    return Masks(_stacked([m.times_s for m in masks]), _stacked([m.mels for m in masks]))


def _stacked(spans: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(B_i, M_i, 2) as one (B, M, 2); what is lacking masks nothing."""
    most = max(each.shape[1] for each in spans)
    return np.concatenate(
        [np.pad(each, ((0, 0), (0, most - each.shape[1]), (0, 0))) for each in spans]
    )


def take_rows(output: Output, start: int, stop: int) -> Output:
    """Rows of a teacher's output, padded no further than they need."""
    if isinstance(output, Written):
        return take_written(output, start, stop)
    rows = slice(start, stop)
    positions = output.positions[rows]
    log_probs = output.log_probs
    return dataclasses.replace(
        output,
        log_probs=None if log_probs is None else log_probs[rows, : int(positions.max(initial=0))],
        positions=positions,
        strings=output.strings[rows],
        frames=output.frames[rows],
        ctc_errors=output.ctc_errors[rows],
        decoder_errors=output.decoder_errors[rows],
        reference_lengths=output.reference_lengths[rows],
        confidence=output.confidence[rows],
        chrf_errors=None if output.chrf_errors is None else output.chrf_errors[rows],
    )


def join_rows(pieces: Sequence[Output]) -> Output:
    """The outputs for the pieces of a request as one."""
    if len(pieces) == 1:
        return pieces[0]
    written = [piece for piece in pieces if isinstance(piece, Written)]
    if written:
        return join_written(written)
    return _join_scored([piece for piece in pieces if isinstance(piece, TeacherOutput)])


def _join_scored(outputs: Sequence[TeacherOutput]) -> TeacherOutput:
    first = outputs[0]
    log_probs = None
    if first.log_probs is not None:
        pieces = [output.log_probs for output in outputs if output.log_probs is not None]
        widest = max(piece.shape[1] for piece in pieces)
        log_probs = np.concatenate(
            [np.pad(piece, ((0, 0), (0, widest - piece.shape[1]), (0, 0))) for piece in pieces]
        )
    # Pieces of one request: all of them have it, or none.
    chrf_errors = [o.chrf_errors for o in outputs if o.chrf_errors is not None]
    return dataclasses.replace(
        first,
        log_probs=log_probs,
        positions=np.concatenate([output.positions for output in outputs]),
        strings=tuple(string for output in outputs for string in output.strings),
        frames=np.concatenate([output.frames for output in outputs]),
        ctc_errors=np.concatenate([output.ctc_errors for output in outputs]),
        decoder_errors=np.concatenate([output.decoder_errors for output in outputs]),
        reference_lengths=np.concatenate([output.reference_lengths for output in outputs]),
        confidence=np.concatenate([output.confidence for output in outputs]),
        chrf_errors=np.concatenate(chrf_errors) if chrf_errors else None,
    )


def broken_rows(output: Output) -> NDArray[np.bool_]:
    """(B,) which utterances' numbers are not finite; padding may hold what it likes."""
    if isinstance(output, Written):
        return ~np.isfinite(output.mean_log_probs)
    bad = ~np.isfinite(output.confidence)
    if output.log_probs is not None:
        valid_BU = np.arange(output.log_probs.shape[1]) < output.positions[:, None]
        # The maximum keeps NaN and +inf, and is -inf where no token has any mass.
        bad = bad | (~np.isfinite(output.log_probs.max(axis=-1)) & valid_BU).any(axis=1)
    return bad


def fault_of(output: Output) -> str | None:
    """What is wrong with a teacher's numbers, if anything."""
    bad = broken_rows(output)
    if not bad.any():
        return None
    return f"outputs for {int(bad.sum())} of {len(bad)} utterances were not finite"
