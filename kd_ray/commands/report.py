"""`kd-ray report`: a table in the terminal and one page in the run folder."""

import logging
import sys
from pathlib import Path

from rich.console import Console

from kd_ray.config.commands import ReportConfig
from kd_ray.evaluation.run_folder import write_atomically
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.report import results_table, rows_as_json, table_as_text, write_report
from kd_ray.report.bootstrap import Statistics, statistics_of
from kd_ray.report.results import Results, read_hypotheses, read_results

logger = logging.getLogger(__name__)


def _print(results: Results, statistics: Statistics) -> None:
    """The whole table where it fits or is written to a log, else without its statistics."""
    console = Console()
    table = results_table(results, statistics)
    if not console.is_terminal:
        sys.stdout.write(table_as_text(results, statistics))
    elif console.measure(table).maximum <= console.width:
        console.print(table)
    else:
        console.print(results_table(results))
        console.print("intervals and tests of the differences are in the report")


def report(config: ReportConfig, root: Path) -> Path:
    """Write `runs/<name>/report.html` and `table.json`, print the table; returns the page."""
    evaluation = root / config.evaluation
    folders = {label: root / folder for label, folder in config.runs.items()}
    if config.teachers is not None:
        for folder in read_teacher_list(config.teachers, root):
            # A bare checkpoint has no run to show.
            if (folder.parent / "metrics.jsonl").exists():
                folders.setdefault(folder.parent.name, folder.parent)
    out = root / "runs" / config.name / "report.html"
    write_report(evaluation, folders, out, config.title)
    results = read_results(evaluation)
    statistics = statistics_of(results, read_hypotheses(evaluation, results))
    write_atomically(out.with_name("table.json"), rows_as_json(results, statistics))
    _print(results, statistics)
    logger.info("report: %s", out)
    return out
