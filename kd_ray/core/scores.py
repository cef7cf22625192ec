"""Error rates as counts that add up: over batches, ranks and corpora.

What one token is (phone, word, character) is the caller's choice: everything takes sequences of
tokens, references first.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from kd_ray.core.targets import IntArray

_OPERATIONS = {
    "equal": "equal",
    "substitute": "substitution",
    "insert": "insertion",
    "delete": "deletion",
}


@dataclass(frozen=True)
class ErrorCounts:
    """Edit operations against references, of one or many sentences; `+` adds them up."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    reference_length: int = 0
    sentences: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.reference_length + other.reference_length,
            self.sentences + other.sentences,
        )

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors in percent of reference tokens, over 100 if many are inserted.

        Without any reference token: 0 if nothing was inserted, else infinite.
        """
        if self.reference_length == 0:
            return 0.0 if self.errors == 0 else float("inf")
        return 100.0 * self.errors / self.reference_length


@dataclass(frozen=True)
class AlignedToken:
    """One step of an alignment; the side that an insertion or deletion lacks is None."""

    operation: Literal["equal", "substitution", "insertion", "deletion"]
    reference: str | None
    hypothesis: str | None


def align(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]
) -> list[tuple[AlignedToken, ...]]:
    """How each hypothesis becomes its reference with fewest edits, token by token (jiwer).

    Tokens may be any strings, white space included; sentences may be empty.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    _paired(references, hypotheses)
    if not references:
        return []
    # jiwer reads words in text: give it one white-space-free word for each distinct token.
    names: dict[str, str] = {}

    def text(tokens: Sequence[str]) -> str:
        return " ".join(names.setdefault(token, str(len(names))) for token in tokens)

    output = jiwer.process_words(
        [text(tokens) for tokens in references], [text(tokens) for tokens in hypotheses]
    )
    aligned = []
    for reference, hypothesis, chunks in zip(
        references, hypotheses, output.alignments, strict=True
    ):
        steps: list[AlignedToken] = []
        for chunk in chunks:
            left = list(reference[chunk.ref_start_idx : chunk.ref_end_idx])
            right = list(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx])
            length = max(len(left), len(right))
            for i in range(length):
                mine = left[i] if left else None
                theirs = right[i] if right else None
                steps.append(AlignedToken(_OPERATIONS[chunk.type], mine, theirs))  # type: ignore[arg-type]
        aligned.append(tuple(steps))
    return aligned


def count_errors(
    references: Sequence[Sequence[Hashable]], hypotheses: Sequence[Sequence[Hashable]]
) -> ErrorCounts:
    """Edit operations of all sentences together; the same operations as `align` names.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    _paired(references, hypotheses)
    counts = dict.fromkeys(("replace", "insert", "delete"), 0)
    length = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        length += len(reference)
        for step in Levenshtein.editops(list(reference), list(hypothesis)):
            counts[step.tag] += 1
    return ErrorCounts(
        counts["replace"], counts["insert"], counts["delete"], length, len(references)
    )


def edit_errors(
    references: Sequence[Sequence[int] | IntArray], hypotheses: Sequence[Sequence[int] | IntArray]
) -> NDArray[np.int64]:
    """Substitutions + insertions + deletions of each pair, as an array: one call of rapidfuzz.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    _paired(references, hypotheses)
    return cpdist(
        [_plain(reference) for reference in references],
        [_plain(hypothesis) for hypothesis in hypotheses],
        scorer=Levenshtein.distance,
        dtype=np.int64,
    )


def _plain(tokens: Sequence[int] | IntArray) -> list[int]:
    """A list of Python integers: numpy's own are hashed several times slower."""
    return tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)


def _paired(references: Sequence[object], hypotheses: Sequence[object]) -> None:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
