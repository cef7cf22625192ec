"""Where tables are printed."""

from rich.console import Console

_LOG_WIDTH = 160


def log_console() -> Console:
    """As wide as the terminal; in a log, which has no width, wide enough for tables."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)
