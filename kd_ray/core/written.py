"""What several teachers wrote becomes one string for each utterance; as partials, which merge.

Shapes: B utterances, L tokens.
"""

from collections.abc import Sequence

import numpy as np

from kd_ray.core.contracts import Labels, Written


def best_of(outputs: Sequence[Written]) -> Written:
    """For each utterance the string with the highest mean log-probability.

    Ties go to the lowest teacher index, so that the result does not depend on the tree in which
    hosts and clients merge.

    Raises:
        ValueError: nothing to choose from, or outputs for different numbers of utterances.
    """
    if len({len(output.teachers) for output in outputs}) != 1:
        raise ValueError(
            "the best strings need outputs for the same utterances, got rows "
            f"{[len(output.teachers) for output in outputs]}"
        )
    scores_NB = np.stack([output.mean_log_probs for output in outputs])
    teachers_NB = np.stack([output.teachers for output in outputs])
    # lexsort: the last key counts first.
    chosen = np.lexsort((teachers_NB, -scores_NB), axis=0)[0]
    rows = np.arange(scores_NB.shape[1])
    strings = [output.strings.strings() for output in outputs]
    return Written(
        strings=Labels.of([strings[number][row] for row, number in enumerate(chosen)]),
        mean_log_probs=scores_NB[chosen, rows],
        teachers=teachers_NB[chosen, rows],
    )


def take_written(output: Written, start: int, stop: int) -> Written:
    """Rows of what a teacher wrote."""
    rows = slice(start, stop)
    return Written(
        Labels.of(output.strings.strings()[rows]),
        output.mean_log_probs[rows],
        output.teachers[rows],
    )


def join_written(outputs: Sequence[Written]) -> Written:
    """What a teacher wrote for the pieces of a request, as one."""
    return Written(
        Labels.of([string for output in outputs for string in output.strings.strings()]),
        np.concatenate([output.mean_log_probs for output in outputs]),
        np.concatenate([output.teachers for output in outputs]),
    )
