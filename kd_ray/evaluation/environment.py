"""What a run was made with, for a reader who wants to repeat it."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("kd-ray", "ray", "torch", "torchaudio", "numpy", "pyarrow", "pydantic")


def environment() -> dict[str, Any]:
    """Versions, hardware and commit, for a reader who wants to repeat the run."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "command": _command(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "platform": platform.platform(),
        "gpus": _gpus(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _command() -> list[str] | None:
    """The command line of this process; None in Ray's workers, whose line says nothing."""
    program = Path(sys.argv[0]).name
    return None if program == "default_worker.py" else [program, *sys.argv[1:]]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
