"""`kd-ray report`: a table in the terminal and one page in the run folder."""

import logging
import sys
from pathlib import Path

from rich.console import Console

from kd_ray.config.evaluation import ReportConfig
from kd_ray.evaluation.run_folder import write_atomically
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.report import plain_table, read_evaluated, rich_table, write_report
from kd_ray.report.tables import View
from kd_ray.storage import fetch, fetch_folder

logger = logging.getLogger(__name__)


def _print(view: View) -> None:
    """The whole table where it fits or is written to a log, else without its statistics."""
    console = Console()
    table = rich_table(view)
    if not console.is_terminal:
        sys.stdout.write(plain_table(view))
    elif console.measure(table).maximum <= console.width:
        console.print(table)
    else:
        console.print(rich_table(view.without_statistics()))
        console.print("intervals and tests of the differences are in the report")


def report(config: ReportConfig, root: Path) -> Path:
    """Write `runs/<name>/report.html` and `table.json`, print the table; returns the page."""
    evaluation = fetch_folder(root / config.evaluation)
    folders = {label: root / folder for label, folder in config.runs.items()}
    if config.teachers is not None:
        for folder in read_teacher_list(config.teachers, root):
            # A bare checkpoint has no run to show.
            if fetch(folder.parent / "metrics.jsonl").exists():
                folders.setdefault(folder.parent.name, folder.parent)
    out = root / "runs" / config.name / "report.html"
    write_report(evaluation, folders, out, config.title)
    view = read_evaluated(evaluation).view
    write_atomically(out.with_name("table.json"), view.json)
    _print(view)
    logger.info("report: %s", out)
    return out
