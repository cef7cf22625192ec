"""What becomes of a request: whether it goes out, and how long a host is waited for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KeepWaiting:
    """The host may still answer, for `remaining_s`."""

    remaining_s: float


@dataclass(frozen=True)
class LeaveOut:
    """The host is not asked again."""

    reason: str


def judge_host(failure: str | None, waited_s: float, deadline_s: float) -> KeepWaiting | LeaveOut:
    """What becomes of a host that has not answered: `failure` says what Ray reported, if it did."""
    if failure is not None:
        return LeaveOut(failure)
    if waited_s >= deadline_s:
        return LeaveOut(f"no answer after {waited_s:.1f} s, deadline {deadline_s:g} s")
    return KeepWaiting(deadline_s - waited_s)


@dataclass(frozen=True)
class Admit:
    """The request may go out."""


@dataclass(frozen=True)
class Refuse:
    """The request must wait until an earlier one is collected."""

    reason: str


def judge_admission(
    bytes_in_flight: int, request_bytes: int, max_bytes_in_flight: int
) -> Admit | Refuse:
    """Does a request fit into the byte budget?

    A request that is larger than the whole budget goes out alone: refusing it would stop the run
    with nothing to collect.
    """
    if bytes_in_flight == 0 or bytes_in_flight + request_bytes <= max_bytes_in_flight:
        return Admit()
    mib = 1 << 20
    return Refuse(
        f"{bytes_in_flight / mib:.1f} MiB in flight and {request_bytes / mib:.1f} MiB asked, "
        f"allowed are {max_bytes_in_flight / mib:.1f} MiB"
    )
