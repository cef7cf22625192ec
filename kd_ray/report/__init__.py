"""From run folders to tables and one self-contained page. Reads files only: no torch, no Ray."""

from kd_ray.report.page import write_report
from kd_ray.report.results import ReportError, Results, read_results
from kd_ray.report.tables import result_rows, results_table, rows_as_json, table_as_text

__all__ = [
    "ReportError",
    "Results",
    "read_results",
    "result_rows",
    "results_table",
    "rows_as_json",
    "table_as_text",
    "write_report",
]
