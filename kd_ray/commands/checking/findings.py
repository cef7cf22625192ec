"""What a check found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Findings:
    """What a check found: problems stop a run, notes help to plan it."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing stands in the way."""
        return not self.problems

    def attempt(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call, and turn a user's error into a problem; None in that case."""
        try:
            return action(*arguments, **options)
        except (ValueError, OSError) as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None
