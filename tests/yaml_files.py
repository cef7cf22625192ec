"""Writes configurations of the tiny corpus as files, for tests that call the command line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from kd_ray.config.base import Section

CHECKOUT = Path(__file__).resolve().parents[1]


def write_config(path: Path, config: Section | dict[str, Any]) -> Path:
    content = config.model_dump(mode="json") if isinstance(config, Section) else config
    path.write_text(yaml.safe_dump(content))
    return path


def kd_ray(*arguments: str | Path, root: Path | str, **options: Any) -> subprocess.Popen[str]:
    """`kd-ray ...` as a user runs it, in a process of its own, with `root` as its root.

    `root` is also the working folder, unless it is an address.
    """
    environment = {
        **os.environ,
        "KD_RAY_ROOT": str(root),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(CHECKOUT),
    }
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "kd_ray.cli", *map(str, arguments)],
        env=environment,
        cwd=root if isinstance(root, Path) else CHECKOUT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 240.0) -> str:
    """Wait; the output, if the command succeeded."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, output
    return output
