"""What the teachers' signals of a training looked like, as counts that add up."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from kd_ray.core.contracts import Signal


@dataclass
class SignalStatistics:
    """Counts over all signals of a run."""

    signals: int = 0
    utterances: int = 0
    scored_utterances: int = 0
    """With error rates, i.e. with a reference."""
    ties: int = 0
    """Utterances whose lowest CTC error is shared by several teachers."""
    zero_errors: int = 0
    """Utterances on which the best teacher makes no CTC error."""
    distinct_strings: int = 0
    dropped_weight: float = 0.0
    missing_answers: int = 0
    """Teachers that did not answer, summed over signals."""
    teacher_s: float = 0.0

    def add(self, signal: Signal) -> None:
        """Count one signal."""
        self.signals += 1
        self.utterances += len(signal.utterance_ids)
        self.missing_answers += signal.num_teachers - len(signal.answered)
        self.teacher_s += signal.teacher_s
        if signal.labels is not None:
            self.distinct_strings += len(signal.labels.lengths)
            self.dropped_weight += float(signal.labels.dropped_weight.sum())
        errors = signal.ctc_errors[list(signal.answered)]
        known = (errors >= 0).all(axis=0)
        if errors.size and known.any():
            scored = errors[:, known]
            lowest = scored.min(axis=0)
            self.scored_utterances += int(known.sum())
            self.ties += int(((scored == lowest).sum(axis=0) > 1).sum())
            self.zero_errors += int((lowest == 0).sum())

    def to_list(self) -> list[float]:
        """The counts, to be summed over workers."""
        return [float(value) for value in asdict(self).values()]

    @classmethod
    def from_list(cls, values: list[float]) -> "SignalStatistics":
        """The inverse of `to_list`."""
        kinds = [type(getattr(cls(), each.name)) for each in fields(cls)]
        return cls(*(kind(value) for kind, value in zip(kinds, values, strict=True)))

    def summary(self) -> dict[str, Any]:
        """Shares, for summary.json."""
        scored = max(1, self.scored_utterances)
        return {
            "ties": {
                "share_of_ties": self.ties / scored,
                "share_of_zero_error": self.zero_errors / scored,
                "utterances": self.scored_utterances,
            },
            "signal": {
                "missing_teacher_answers": self.missing_answers,
                "dropped_string_weight": self.dropped_weight,
                "distinct_strings_per_utterance": (
                    float(np.divide(self.distinct_strings, max(1, self.utterances)))
                ),
                "teacher_s": self.teacher_s,
            },
        }
