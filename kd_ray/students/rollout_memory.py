"""What the student wrote in earlier updates: to be read again, or as further prefixes (DAgger).

The memory is that of the run, not of a worker: workers tell each other what they wrote, since a
sentence may be another worker's the next time it comes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kd_ray.config.imitation import Rollout
from kd_ray.students.collective import Collective


class Written(NamedTuple):
    """One rollout: token ids without begin and end symbols, and the update it was made for."""

    ids: list[int]
    update: int


Rollouts = dict[str, list[Written]]
"""By utterance id, the rollouts that an update reads: the oldest first, its own last."""


def rollouts_to_json(rollouts: Mapping[str, Sequence[Written]]) -> dict[str, Any]:
    """As `rollouts_from_json` reads it, utterances in order of their ids."""
    return {name: [[each.update, each.ids] for each in rollouts[name]] for name in sorted(rollouts)}


def rollouts_from_json(content: Mapping[str, Any]) -> Rollouts:
    """The inverse of `rollouts_to_json`."""
    return {
        name: [Written([int(token) for token in ids], int(update)) for update, ids in each]
        for name, each in content.items()
    }


def in_flight_from_json(content: Mapping[str, Any]) -> dict[str, Rollouts]:
    """Rollouts of updates to come, by update, as a checkpoint holds them."""
    return {update: rollouts_from_json(rollouts) for update, rollouts in content.items()}


def gather_in_flight(
    mine: Mapping[str, Rollouts], collective: Collective
) -> dict[str, dict[str, Any]]:
    """Those of all workers, for a checkpoint."""
    # One entry for each sentence: of entries with the same key, `gather` keeps one worker's.
    parts = collective.gather(
        {
            f"{update} {name}": (update, name, rollouts[name])
            for update, rollouts in mine.items()
            for name in rollouts
        }
    )
    merged: dict[str, Rollouts] = {update: {} for update in mine}
    for update, name, read in parts.values():
        merged[update][name] = read
    return {update: rollouts_to_json(rollouts) for update, rollouts in merged.items()}


@dataclass
class RolloutMemory:
    """The newest rollouts of each utterance, oldest first."""

    reuse_updates: int
    """A rollout stands in for a new one up to this age, in updates."""
    aggregates: bool
    """Older rollouts stay as further prefixes."""
    keep: int
    """Most rollouts of an utterance; the oldest goes."""
    stored: Rollouts = field(default_factory=dict)

    @classmethod
    def of(cls, config: Rollout, stored: Mapping[str, Any]) -> "RolloutMemory | None":
        """What the configuration asks for, with the content of a checkpoint; None: nothing."""
        if not (config.reuse_updates or config.aggregate):
            return None
        keep = config.max_aggregated if config.aggregate else 1
        restored = rollouts_from_json(stored)
        return cls(config.reuse_updates, config.aggregate, keep, restored)

    def reusable(self, utterance_id: str, update: int) -> Written | None:
        """The newest rollout, if it is young enough for this update."""
        stored = self.stored.get(utterance_id)
        if not stored or not self.reuse_updates:
            return None
        return stored[-1] if update - stored[-1].update <= self.reuse_updates else None

    def prefixes(self, utterance_id: str, own: Written) -> list[Written]:
        """All that an update reads of an utterance, whose own rollout is `own`: that one last."""
        if not self.aggregates:
            return [own]
        older = [each for each in self.stored.get(utterance_id, ()) if each.update != own.update]
        return [*older, own][-self.keep :]

    def add(self, update: int, new: Mapping[str, Written]) -> None:
        """Remember what all workers wrote for an update; drop what no later update will read."""
        for name, written in new.items():
            self.stored[name] = [*self.stored.get(name, ()), written][-self.keep :]
        if not self.aggregates:
            # Too old for the next update, and for all that follow.
            oldest = update + 1 - self.reuse_updates
            self.stored = {
                name: stored for name, stored in self.stored.items() if stored[-1].update >= oldest
            }
