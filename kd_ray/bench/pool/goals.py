"""Figures against what they should be."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A figure should be at most, or at least, `limit`."""

    what: str
    limit: float
    at_least: bool = False

    def judge(self, value: float) -> dict[str, Any]:
        """The figure beside its goal; one that is not a number misses it."""
        met = value >= self.limit if self.at_least else value <= self.limit
        return {
            "what": self.what,
            "value": value,
            "at_least" if self.at_least else "at_most": self.limit,
            "met": met,
        }


def sentence(judged: dict[str, Any]) -> str:
    """For the log."""
    bound = "at_least" if "at_least" in judged else "at_most"
    verdict = "goal met" if judged["met"] else "GOAL MISSED"
    limit = f"{bound.replace('_', ' ')} {judged[bound]:g}"
    return f"{judged['what']}: {judged['value']:.4g} ({limit}): {verdict}"
