"""What teacher signals cost, as counts that add up over requests, sessions and workers."""

from dataclasses import astuple, dataclass, fields
from typing import Protocol, Self, runtime_checkable


@dataclass(frozen=True)
class SourceCosts:
    """What the answers of a source took, so far."""

    requests: int = 0
    """That were answered."""
    utterances: int = 0
    """Of these requests; one that is asked about twice counts twice."""
    rows: int = 0
    """Utterances times teachers that answered."""
    known_rows: int = 0
    """Of those, remembered or stored: no teacher computed anything."""
    teacher_s: float = 0.0
    """Seconds of teacher computation; a shared pass is counted by share of utterances."""
    loads: float = 0.0
    """Teachers that were loaded, where they take turns; counted likewise."""
    bytes_sent: int = 0
    """Of audio, to the teachers."""
    bytes_hosts: int = 0
    """Of what hosts kept for each other and for the student."""
    bytes_nodes: int = 0
    """Of what was merged within nodes, and went between them."""
    bytes_student: int = 0
    """Of targets, to the student."""

    def __add__(self, other: "SourceCosts") -> "SourceCosts":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return SourceCosts(*(mine + more for mine, more in pairs))

    def to_list(self) -> list[float]:
        """The counts, to be summed over workers."""
        return [float(value) for value in astuple(self)]

    @classmethod
    def from_list(cls, values: list[float]) -> Self:
        """The inverse of `to_list`."""
        kinds = [type(getattr(cls(), each.name)) for each in fields(cls)]
        return cls(*(kind(value) for kind, value in zip(kinds, values, strict=True)))


@runtime_checkable
class Charged(Protocol):
    """A `TeacherSource` that knows what its answers cost."""

    def costs(self) -> SourceCosts:
        """As of now."""
        ...


def costs_of(source: object) -> SourceCosts:
    """What a source cost so far; nothing where it does not say."""
    return source.costs() if isinstance(source, Charged) else SourceCosts()
