"""From run folders to tables and one self-contained page. Reads files only: no torch, no Ray."""

from kd_ray.report.evaluations import read_evaluated
from kd_ray.report.page import write_report
from kd_ray.report.results import Results, read_results
from kd_ray.report.systems import ReportError
from kd_ray.report.tables import plain_table, result_rows, results_table, rich_table, table_as_text

__all__ = [
    "ReportError",
    "Results",
    "plain_table",
    "read_evaluated",
    "read_results",
    "result_rows",
    "results_table",
    "rich_table",
    "table_as_text",
    "write_report",
]
