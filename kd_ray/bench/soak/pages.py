"""A soak's samples as tables and as a plot, and its figures in the log."""

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_ray.bench.soak.processes import KINDS
from kd_ray.bench.soak.verdict import Sample
from kd_ray.evaluation.run_folder import write_atomically
from kd_ray.report.drawing import INK, MUTED, SERIES, figure, grid, to_svg

logger = logging.getLogger(__name__)

_MIB = 1 << 20


def write_samples(
    folder: Path, samples: Sequence[Sample], faults: Sequence[Mapping[str, Any]]
) -> None:
    """`samples.csv` (a line a moment), `processes.csv` (one for each process too), `soak.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    head = ["at_s", "answers", "store_mib", "actors", "placement_groups", "processes"]
    _write_csv(
        folder / "samples.csv",
        [*head, *(f"{kind}_private_mib" for kind in KINDS)],
        (
            [
                f"{sample.at_s:.1f}",
                sample.answers,
                f"{sample.store_bytes / _MIB:.2f}",
                sample.actors,
                sample.placement_groups,
                len(sample.processes),
                *(f"{sample.bytes_of(kind) / _MIB:.2f}" for kind in KINDS),
            ]
            for sample in samples
        ),
    )
    _write_csv(
        folder / "processes.csv",
        ["at_s", "pid", "kind", "rss_mib", "pss_mib", "private_mib"],
        (
            [
                f"{sample.at_s:.1f}",
                each.pid,
                each.kind,
                f"{each.memory.rss / _MIB:.2f}",
                f"{each.memory.pss / _MIB:.2f}",
                f"{each.memory.private / _MIB:.2f}",
            ]
            for sample in samples
            for each in sample.processes
        ),
    )
    write_atomically(folder / "soak.svg", plot(samples, faults))


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def plot(samples: Sequence[Sample], faults: Sequence[Mapping[str, Any]]) -> str:
    """Private memory of each process, the object store, and the answers, over the minutes."""
    with figure(10, 7) as drawing:
        memory, store, answers = drawing.subplots(3, 1, sharex=True)
        pids = {(each.pid, each.kind) for sample in samples for each in sample.processes}
        labelled: set[str] = set()
        for pid, kind in sorted(pids):
            points = [
                (sample.at_s / 60, each.memory.private / _MIB)
                for sample in samples
                for each in sample.processes
                if each.pid == pid
            ]
            memory.plot(
                [minute for minute, _ in points],
                [size for _, size in points],
                color=MUTED if kind == "other" else SERIES[KINDS.index(kind)],
                linewidth=1,
                label=None if kind in labelled else kind,
            )
            labelled.add(kind)
        memory.set_title("private memory of each process, MiB")
        memory.legend(ncols=len(KINDS), loc="upper left", frameon=False)
        minutes = [sample.at_s / 60 for sample in samples]
        store.plot(minutes, [sample.store_bytes / _MIB for sample in samples], color=SERIES[0])
        store.set_title("object store in use, MiB")
        answers.plot(minutes, [sample.answers for sample in samples], color=SERIES[2])
        answers.set_title("right answers (faults are marked)")
        answers.set_xlabel("minutes")
        for fault in faults:
            answers.axvline(fault["at_s"] / 60, color=INK, linewidth=0.5, alpha=0.4)
        for axes in (memory, store, answers):
            axes.set_ylim(bottom=0)
            grid(axes, "y")
        return to_svg(drawing, "soak", "Memory, object store and answers of a soak over time")


def log_soak(figures: Mapping[str, Any]) -> None:
    """The figures, a line each."""
    totals, seconds = figures["totals"], figures["seconds"]
    logger.info(
        "%d requests in %.0f min, %d answered rightly (%d of them without some teachers), %d "
        "wrongly, %d lost, %d without quorum; longest time without an answer %.1f s",
        totals["asked"],
        seconds / 60,
        totals["right"],
        totals["shortened"],
        totals["wrong"],
        totals["lost"],
        totals["gone"],
        totals["longest_gap_s"],
    )
    kinds = [fault["kind"] for fault in figures["faults"]]
    logger.info(
        "%d faults (%s), %d jobs came and went, %.2f CPU seconds a second",
        len(kinds),
        ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds))),
        figures["visits"],
        figures["cpu_s_per_s"],
    )
    for kind, memory in figures["memory"].items():
        slope = memory["slope"]
        logger.info(
            "%-8s %8.1f MiB in the second quarter, %8.1f in the last; of one process %s",
            kind,
            memory["mib_of_all"]["second_quarter"],
            memory["mib_of_all"]["last_quarter"],
            "too few samples"
            if slope is None
            else "{mib_per_hour:+.1f} MiB/h ({low:+.1f} to {high:+.1f})".format(**slope),
        )
    for name in ("object_store_mib", "processes", "actors"):
        means = figures[name]
        logger.info(
            "%s: %.1f in the second quarter, %.1f in the last, at most %.1f",
            name.replace("_", " "),
            means["second_quarter"],
            means["last_quarter"],
            means["most"],
        )
    logger.info("after down: %s", figures["after_down"])
