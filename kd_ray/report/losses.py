"""What a run lost of its teachers, and what was done about it, from its events."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]

COUNTED_ONLY = "teachers_asked_elsewhere"
"""One comes with every request that is open when a host is lost; a list of them hides the rest."""

_OF_HOSTS = {
    "teacher_host_left_out": "left out",
    "host_died": "died",
    "host_given_up": "given up",
    "teacher_host_back": "asked again",
    "host_started_again": "started again",
}
_OF_TEACHERS = {
    "teacher_quarantined": "quarantined",
    "teacher_failed": "did not answer a request",
    "teacher_memory_full": "answered by halves, as memory was full",
    "teacher_replaced": "replaced",
    "teacher_removed": "removed",
}


def missing_teachers(events: Sequence[Event]) -> list[str]:
    """Names of teachers that some signal lacked, in order of their first absence."""
    names = [
        str(name)
        for event in events
        if event.get("kind") in ("signal_shortened", "teachers_gone")
        for name in event.get("missing", ())
    ]
    return list(dict.fromkeys(names))


def losses(events: Sequence[Event], signal: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of (who, what became of them); none where nothing was lost.

    Args:
        events: of the run.
        signal: section `signal` of its summary.
    """
    rows = [*_rows(events, _OF_HOSTS, "host"), *_rows(events, _OF_TEACHERS, "teacher")]
    missing = missing_teachers(events)
    shortened, answers = signal.get("shortened_signals"), signal.get("missing_teacher_answers")
    if missing or shortened or answers:
        known = f"{shortened} signals" if shortened else "signals"
        lacking = f", {answers} answers in all" if answers else ""
        names = f": {', '.join(missing)}" if missing else ""
        rows.append((f"missing in {known}{lacking}", f"teachers{names}"))
    elsewhere = Counter(
        str(event.get("host")) for event in events if event.get("kind") == COUNTED_ONLY
    )
    if elsewhere:
        hosts = ", ".join(f"{count} for {host}" for host, count in sorted(elsewhere.items()))
        rows.append(("asked elsewhere", f"{elsewhere.total()} times: {hosts}"))
    return rows


def _rows(events: Sequence[Event], words: Mapping[str, str], who: str) -> Iterator[tuple[str, str]]:
    """What happened to each host or teacher: how often, and why the last time."""
    found: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        if event.get("kind") in words and event.get(who) is not None:
            found.setdefault((str(event[who]), str(event["kind"])), []).append(event)
    for name in dict.fromkeys(name for name, _ in found):
        parts = []
        for kind, word in words.items():
            each = found.get((name, kind), [])
            if each:
                times = f" {len(each)} times" if len(each) > 1 else ""
                reason = each[-1].get("reason")
                parts.append(f"{word}{times}" + (f" ({reason})" if reason else ""))
        yield f"{who} {name}", "; ".join(parts)
