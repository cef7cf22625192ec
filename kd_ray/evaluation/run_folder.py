"""The folder of a run: what was asked, on what, what happened, what came of it."""

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from kd_ray.config.base import Section
from kd_ray.config.load import ConfigError, check, dump
from kd_ray.config.places import address_of, local_path
from kd_ray.storage import (
    fetch,
    fetch_folder,
    hold,
    peek,
    publish,
    publish_folder,
    release,
    require,
    shown,
)

_PACKAGES = ("kd-ray", "ray", "torch", "torchaudio", "numpy", "pyarrow", "pydantic")


class RunFolderError(ValueError):
    """A run folder that belongs to another configuration."""


class RunFolder:
    """`runs/<name>`: config, environment, metrics, events, summary; written whole or by line.

    At an address, `path` is a working copy in the local cache. What is written whole is sent at
    once, lines with the next `publish`: after every checkpoint and at the end.
    """

    def __init__(self, root: Path, name: str):
        self.name = name
        self.path = local_path(root / "runs" / name)

    def open(self, config: Section) -> "RunFolder":
        """Make the folder, or take it up again if it was made from the same configuration.

        Raises:
            RunFolderError: the folder holds another configuration (names the keys that differ),
                or cannot be made.
            StorageError: it is at an address that cannot be read or written, or that another
                process is writing.
        """
        hold(self.path)
        try:
            self.join()
            self._open(config)
        except BaseException:
            release(self.path)
            raise
        return self

    def join(self) -> None:
        """Bring here what is at the address: the run may have gone on elsewhere."""
        fetch_folder(self.path, only=lambda name: not name.startswith("logs/"))

    def publish(self) -> None:
        """Send what was written by line, and whatever else is new.

        Raises:
            StorageError: the address cannot be written, or another process took the run over.
        """
        if address_of(self.path) is None:
            return
        require(self.path)
        self._merge_events()
        # Ray Train sends its own files, in logs/, itself.
        publish_folder(
            self.path,
            only=lambda name: not name.startswith("logs/"),
            last=("metrics.jsonl", "events.jsonl", "state.json", "summary.json"),
        )

    def close(self) -> None:
        """Send what is new, and let others write the folder."""
        try:
            self.publish()
        finally:
            release(self.path)

    def _merge_events(self) -> None:
        """Workers on several nodes report events, each into the copy of its node."""
        path = self.path / "events.jsonl"
        theirs = (peek(path) or b"").decode().split("\n")[:-1]
        with _alone(path):
            mine = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
            lines = dict.fromkeys([*theirs, *mine])
            if len(lines) > len(mine):
                ordered = sorted(lines, key=lambda line: float(json.loads(line)["time"]))
                write_atomically(path, "".join(f"{line}\n" for line in ordered))

    def _open(self, config: Section) -> None:
        try:
            for folder in ("logs", "checkpoints"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"the run folder {self.path} cannot be made: {error.strerror} ({error.filename}); "
                "choose another name (name=...), or set KD_RAY_ROOT to a folder that can be written"
            ) from error
        wanted = dump(config)
        path = self.path / "config.json"
        if path.exists():
            before = _filled_in(json.loads(path.read_text(encoding="utf-8")))
            differences = _differences(before, json.loads(wanted))
            if differences:
                lines = "\n  ".join(differences[:12])
                raise RunFolderError(
                    f"{shown(self.path)} was made with another configuration:\n  {lines}\n"
                    "Give this run another name (name=...), or remove the folder to start over."
                )
        else:
            write_atomically(path, wanted)
        started = self.path / "environment.json"
        if not started.exists() or self.summary() is None:
            write_json(started, environment())

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        _append(self.path / "metrics.jsonl", dict(values))

    def event(self, kind: str, **details: Any) -> None:
        """Append one line to events.jsonl."""
        path = self.path / "events.jsonl"
        with _alone(path):
            _append(path, {"time": time.time(), "kind": kind, **details})

    def forget_after(self, update: int) -> None:
        """Drop metrics of updates after `update`: they are about to be made again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in read_json_lines(path) if line.get("update", 0) <= update]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))

    def summary(self) -> dict[str, Any] | None:
        """What the finished run wrote, or None."""
        path = fetch(self.path / "summary.json")
        if not path.exists():
            return None
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The last thing a run writes: its presence says that the run is finished."""
        self.publish()
        write_json(self.path / "summary.json", summary)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON lines file; a torn last line (killed writer) is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines atomically."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_atomically(path: Path, text: str) -> None:
    """Write beside the file and rename: readers see the old content or the new, never half.

    A path at an address is sent there.
    """
    path = local_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    publish(path)


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


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the one process of this node that changes a file which is merged with others' copies."""
    if address_of(path) is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _append(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _filled_in(content: dict[str, Any]) -> Any:
    """With the defaults of keys that an older version did not know; as it is if it has others."""
    try:
        return json.loads(dump(check(content, "config.json")))
    except ConfigError:
        return content


def _differences(before: Any, after: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted(before.keys() | after.keys()):
            inner = f"{key}.{name}" if key else name
            found += _differences(before.get(name), after.get(name), inner)
        return found
    return [] if before == after else [f"{key}: {before!r} before, {after!r} now"]
