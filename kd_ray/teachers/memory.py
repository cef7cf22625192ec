"""Forward passes that meet full memory: half of the work at a time, before it is given up.

How much a pass needs depends on the longest utterance in it and on who else uses the device, so
that no limit is right for ever. One utterance that does not fit by itself is no answer of that
teacher to that request: the teacher is not to blame for others, and goes on.
"""

from collections.abc import Callable, Sequence

import torch

from kd_ray.teachers.rows import Output, Work, join_rows

_CPU_TEXT = "can't allocate memory"
"""torch's allocator on the CPU raises a plain RuntimeError."""


class PassTooLarge(RuntimeError):
    """A single utterance does not fit into memory."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed because memory is full, of a device or of this process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return type(error) is RuntimeError and _CPU_TEXT in str(error)


def in_memory(
    compute: Callable[[Sequence[Work]], Output],
    works: Sequence[Work],
    on_full: Callable[[int, str], None],
) -> Output:
    """The output for all of the work, computed by halves where memory is full.

    Args:
        compute: a forward pass.
        works: pieces for it, in order.
        on_full: is told of each pass that did not fit: its utterances, and the error.

    Raises:
        PassTooLarge: one utterance alone does not fit.
        Exception: what else `compute` raised.
    """
    try:
        return compute(works)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    # Out here, because the error holds what the pass had allocated.
    # Nothing happens where no GPU is in use.
    torch.cuda.empty_cache()
    size = sum(work.size for work in works)
    if size == 1:
        frames = int(works[0].lengths[0])
        raise PassTooLarge(f"no memory for one utterance of {frames} frames or tokens: {reason}")
    on_full(size, reason)
    return join_rows([in_memory(compute, half, on_full) for half in halves(works)])


def halves(works: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """At least two utterances in two parts, in order; of several pieces none is cut."""
    if len(works) > 1:
        middle = len(works) // 2
        return list(works[:middle]), list(works[middle:])
    (work,) = works
    middle = work.size // 2
    return [_rows(work, 0, middle)], [_rows(work, middle, work.size)]


def _rows(work: Work, start: int, stop: int) -> Work:
    lengths = work.lengths[start:stop]
    references = work.references
    return Work(
        work.inputs[start:stop, : int(lengths.max())],
        lengths,
        work.prefix[start:stop],
        None if references is None else references[start:stop],
        None if work.masks is None else work.masks.take(slice(start, stop)),
    )
