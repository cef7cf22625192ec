"""What the teachers' signals of a training looked like, as counts that add up."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from kd_ray.config.strategies import Trust
from kd_ray.core.contracts import Signal
from kd_ray.core.trust import trust_statistics


@dataclass
class SignalStatistics:
    """Counts over all signals of a run."""

    signals: int = 0
    utterances: int = 0
    scored_utterances: int = 0
    """With error rates, i.e. with a reference."""
    ties: int = 0
    """Utterances whose lowest error is shared by several teachers."""
    zero_errors: int = 0
    """Utterances on which the best teacher makes no error."""
    distinct_strings: int = 0
    dropped_weight: float = 0.0
    missing_answers: int = 0
    """Teachers that did not answer, summed over signals."""
    shortened: int = 0
    """Signals that lack teachers."""
    teacher_s: float = 0.0
    positions: int = 0
    """Target positions with a distribution."""
    strings_too_long: int = 0
    """Teachers' label strings that need more frames than the student has, left out of CTC."""
    strings_empty: int = 0
    """Likewise, empty ones."""

    def add(self, signal: Signal, trust: Trust) -> None:
        """Count one signal; `trust` says which error rate ties are looked for in."""
        self.signals += 1
        self.utterances += len(signal.utterance_ids)
        missing = signal.num_teachers - len(signal.answered)
        self.missing_answers += missing
        self.shortened += missing > 0
        self.teacher_s += signal.teacher_s
        if signal.tokens is not None:
            self.positions += int(signal.tokens.lengths.sum())
        if signal.labels is not None:
            self.distinct_strings += len(signal.labels.lengths)
            self.dropped_weight += float(signal.labels.dropped_weight.sum())
        errors = signal.decoder_errors if trust == "teacher_forced" else signal.ctc_errors
        if trust == "teacher_forced_chrf" and signal.chrf_errors is not None:
            errors = signal.chrf_errors
        found = trust_statistics(errors[list(signal.answered)], signal.reference_lengths)
        self.scored_utterances += found.utterances
        self.ties += found.ties
        self.zero_errors += found.zeros

    def leave_out(self, strings_too_long: int = 0, strings_empty: int = 0) -> None:
        """Count label strings that CTC could not, or should not, learn."""
        self.strings_too_long += strings_too_long
        self.strings_empty += strings_empty

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
                "shortened_signals": self.shortened,
                "dropped_string_weight": self.dropped_weight,
                "distinct_strings_per_utterance": (
                    float(np.divide(self.distinct_strings, max(1, self.utterances)))
                ),
                "strings_too_long": self.strings_too_long,
                "strings_empty": self.strings_empty,
                "share_of_strings_too_long": (
                    self.strings_too_long / max(1, self.distinct_strings)
                ),
                "teacher_s": self.teacher_s,
            },
        }
