"""Cutting requests into pieces, laying pieces together, and cutting answers apart again.

Shapes: B utterances, T frames or source tokens, F mels, U target positions, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd_ray.core.contracts import Score, TeacherOutput
from kd_ray.core.targets import IntArray
from kd_ray.teachers.readers import Inputs


@dataclass(frozen=True, eq=False)
class Work:
    """Some utterances of one request for one teacher."""

    inputs: Tensor
    lengths: Tensor
    prefix: list[IntArray]
    references: list[IntArray] | None

    @property
    def size(self) -> int:
        """Utterances."""
        return len(self.prefix)


def split_request(request: Score, inputs: Inputs, max_utterances: int) -> list[Work]:
    """Cut a request into pieces that fit into a forward pass."""
    padded, lengths = inputs
    rows = len(request.utterance_ids)
    prefix: list[IntArray]
    if request.prefix is None and request.references is None:
        # Only label strings are wanted: the decoder reads nothing but the begin symbol.
        prefix = [np.zeros(0, dtype=np.int64)] * rows
    else:
        prefix = request.decoder_prefix().strings()
    references = None if request.references is None else request.references.strings()
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


def take_rows(output: TeacherOutput, start: int, stop: int) -> TeacherOutput:
    """Rows of a teacher's output, padded no further than they need."""
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
    )


def join_rows(outputs: Sequence[TeacherOutput]) -> TeacherOutput:
    """The outputs for the pieces of a request as one."""
    first = outputs[0]
    if len(outputs) == 1:
        return first

    log_probs = None
    if first.log_probs is not None:
        pieces = [output.log_probs for output in outputs if output.log_probs is not None]
        widest = max(piece.shape[1] for piece in pieces)
        log_probs = np.concatenate(
            [np.pad(piece, ((0, 0), (0, widest - piece.shape[1]), (0, 0))) for piece in pieces]
        )
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
    )


def fault_of(output: TeacherOutput) -> str | None:
    """What is wrong with a teacher's numbers, if anything; padding may hold what it likes."""
    bad = ~np.isfinite(output.confidence)
    if output.log_probs is not None:
        valid_BU = np.arange(output.log_probs.shape[1]) < output.positions[:, None]
        # The maximum keeps NaN and +inf, and is -inf where no token has any mass.
        bad = bad | (~np.isfinite(output.log_probs.max(axis=-1)) & valid_BU).any(axis=1)
    if not bad.any():
        return None
    return f"log-probabilities of {int(bad.sum())} of {len(bad)} utterances were not finite"
