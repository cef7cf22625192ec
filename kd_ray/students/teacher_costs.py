"""What the teachers of a training cost: summed over workers and sessions, for summary.json."""

from typing import Any

from kd_ray.core.contracts import TeacherSource
from kd_ray.core.costs import SourceCosts, costs_of
from kd_ray.students.collective import Collective
from kd_ray.students.loop import Progress
from kd_ray.students.signal_statistics import SignalStatistics


def totals(
    progress: Progress, source: TeacherSource | None, collective: Collective
) -> tuple[SignalStatistics, SourceCosts]:
    """Counts of signals, and costs of earlier sessions and this one, over all workers."""
    counts = progress.statistics.to_list()
    costs = (progress.costs + costs_of(source)).to_list()
    both = collective.sum([*counts, *costs])
    return (
        SignalStatistics.from_list(both[: len(counts)]),
        SourceCosts.from_list(both[len(counts) :]),
    )


def cost_summary(
    costs: SourceCosts, *, positions: int, wait_s: float, seconds: float
) -> dict[str, Any]:
    """Totals, and what an utterance and a target position cost.

    Args:
        costs: of the whole training.
        positions: target positions of all signals; 0: label strings alone.
        wait_s: how long the student (the first worker) stood still for its teachers.
        seconds: how long it trained.
    """
    counts = {
        "computed_rows": costs.rows - costs.known_rows,
        "remembered_rows": costs.known_rows,
        "teacher_s": costs.teacher_s,
        "loads": costs.loads,
    }
    edges = {
        "bytes_sent": costs.bytes_sent,
        "bytes_hosts": costs.bytes_hosts,
        "bytes_nodes": costs.bytes_nodes,
        "bytes_student": costs.bytes_student,
    }
    utterances = max(1, costs.utterances)
    summary: dict[str, Any] = {
        "requests": costs.requests,
        "utterances": costs.utterances,
        "positions": positions,
        **counts,
        **edges,
        "wait_s": wait_s,
        "wait_share": wait_s / seconds if seconds else 0.0,
        "per_utterance": {key: value / utterances for key, value in (counts | edges).items()},
    }
    if positions:
        # What is sent does not grow with the target.
        del edges["bytes_sent"]
        summary["per_position"] = {key: value / positions for key, value in edges.items()}
    return summary
