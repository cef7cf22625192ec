"""The folder of a run: what was asked, on what, what happened, what came of it."""

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_ray.config.base import Section
from kd_ray.config.load import ConfigError, check, dump
from kd_ray.config.places import address_of, local_path
from kd_ray.evaluation.environment import environment
from kd_ray.storage import (
    StorageError,
    changed_here,
    fetch,
    fetch_folder,
    held,
    hold,
    hold_here,
    peek,
    publish,
    publish_folder,
    release,
    release_here,
    release_if_possible,
    remove,
    require,
    shown,
    unpin,
    was_there,
)

logger = logging.getLogger(__name__)

EVENTS = "events.jsonl"
_torn: set[Path] = set()
"""Files of which it was told that they have torn lines."""


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
        self._only: Callable[[str], bool] = _of_run

    def open(
        self, config: Section, *, whole: bool = True, may_change: Collection[str] = ()
    ) -> "RunFolder":
        """Make the folder, or take it up again if it was made from the same configuration.

        `close` belongs to it; `opened` does both.

        Args:
            config: what the run is asked to do.
            whole: keep everything in step with an address; else what lies in the folder itself:
                no checkpoints and no models.
            may_change: dotted keys that may be others than before: what no result depends on.

        Raises:
            RunFolderError: the folder holds another configuration (names the keys that differ),
                or cannot be made.
            StorageError: another process is writing it, or it is at an address that cannot be read
                or written.
        """
        hold_here(self.path)
        try:
            hold(self.path)
        except BaseException:
            release_here(self.path)
            raise
        try:
            self._only = _of_run if whole else _of_folder_itself
            self.join()
            self._open(config, may_change)
        except BaseException:
            self._let_go(release_if_possible)
            raise
        return self

    @contextmanager
    def opened(
        self, config: Section, *, whole: bool = True, may_change: Collection[str] = ()
    ) -> Iterator["RunFolder"]:
        """As `open`, with `close` behind the block.

        An error of the block comes out of it, also where the address then refuses what is sent.
        """
        self.open(config, whole=whole, may_change=may_change)
        try:
            yield self
        except BaseException:
            try:
                self.close()
            except (OSError, StorageError) as problem:
                logger.warning("not everything of %s was sent: %s", shown(self.path), problem)
            raise
        self.close()

    def join(self) -> None:
        """Bring here what is at the address: the run may have gone on elsewhere.

        It stays until the run is closed, or this process ends.
        """
        fetch_folder(self.path, only=lambda name: self._only(name) and name != EVENTS)
        bring_events(self.path)

    def events(self) -> list[dict[str, Any]]:
        """What has happened so far, on all nodes."""
        _merge_events(self.path)
        path = self.path / EVENTS
        return read_json_lines(path) if path.exists() else []

    def publish(self) -> None:
        """Send what was written by line, and whatever else is new.

        Raises:
            StorageError: the address cannot be written, or another process took the run over.
        """
        if address_of(self.path) is None:
            return
        require(self.path)
        _merge_events(self.path)
        publish_folder(
            self.path,
            # What was not brought up to date may be older than what is there.
            only=self._only,
            last=("metrics.jsonl", EVENTS, "state.json", "summary.json"),
        )

    def close(self) -> None:
        """Send what is new, let others write the folder, and its files leave the cache."""
        try:
            self.publish()
        finally:
            self._let_go()

    def _let_go(self, give_back: Callable[[Path], None] = release) -> None:
        try:
            give_back(self.path)
        finally:
            release_here(self.path)
            # A process may have opened the run more than once.
            if not held(self.path):
                unpin(self.path)

    def _open(self, config: Section, may_change: Collection[str]) -> None:
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
            before = json.loads(path.read_text(encoding="utf-8"))
            different = differences(before, json.loads(wanted), ignore=may_change)
            if different:
                lines = "\n  ".join(different[:12])
                raise RunFolderError(
                    f"{shown(self.path)} was made with another configuration:\n  {lines}\n"
                    "Give this run another name (name=...), or remove the folder to start over."
                )
        if not path.exists() or may_change:
            write_atomically(path, wanted)
        started = self.path / "environment.json"
        if not started.exists() or self.summary() is None:
            write_json(started, environment())

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        _append(self.path / "metrics.jsonl", dict(values))

    def event(self, kind: str, **details: Any) -> None:
        """Append one line to events.jsonl."""
        path = self.path / EVENTS
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


def bring_events(folder: Path) -> None:
    """Bring the events of a run here; those of this node stay, which may not have been sent yet."""
    path = folder / EVENTS
    if address_of(path) is None:
        return
    if not changed_here(path):
        fetch(path)
    elif peek(path) is None and was_there(path):
        # The run was removed, to begin anew.
        with _alone(path):
            remove(path)
    else:
        _merge_events(folder)


def _merge_events(folder: Path) -> None:
    """Workers on several nodes report events, each into the copy of its node."""
    path = folder / EVENTS
    if address_of(path) is None:
        return
    theirs = (peek(path) or b"").decode().split("\n")[:-1]
    with _alone(path):
        mine = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        lines = dict.fromkeys([*theirs, *mine])
        if len(lines) > len(mine):
            whole = {line: event for line in lines if (event := json_line(line))}
            ordered = sorted(whole, key=lambda line: float(whole[line]["time"]))
            _replace(path, "".join(f"{line}\n" for line in ordered))


def _of_run(name: str) -> bool:
    # Ray Train and Ray Tune keep files of their own at the address.
    return not name.startswith("logs/")


def _of_folder_itself(name: str) -> bool:
    return "/" not in name


def read_json_lines(
    path: Path, *, last_bytes: int | None = None, having: str = ""
) -> list[dict[str, Any]]:
    """The objects of a JSON lines file.

    A last line without an end is left out: it is being written, or its writer was killed. So are
    torn lines, with a warning: where several machines append to a file, lines may run together.

    Args:
        path: of the file.
        last_bytes: read only so many; None: all.
        having: only lines with this text in them.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = 0 if last_bytes is None else max(0, size - last_bytes)
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    # Where not all is read, the first line has lost its beginning.
    lines = text.split("\n")[1 if start else 0 : -1]
    found = [json_line(line) for line in lines if line and having in line]
    whole = [line for line in found if line is not None]
    if len(whole) < len(found) and path not in _torn:
        _torn.add(path)
        logger.warning("%s: %d torn lines are left out", path, len(found) - len(whole))
    return whole


def json_line(line: str) -> dict[str, Any] | None:
    """The object that a line of a JSON lines file holds; None: it is torn."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


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
    _replace(path, text)
    publish(path)


def _replace(path: Path, text: str) -> None:
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


def differences(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    ignore: Collection[str] = (),
    of: str = "",
) -> list[str]:
    """In what two configurations differ: a line `key: ... before, ... now` for each key.

    Keys that an older version of the package did not know have their defaults on both sides.

    Args:
        before: a configuration as JSON holds it.
        after: likewise.
        ignore: dotted keys that may differ, with all below them.
        of: what keys begin with in the lines, e.g. `base`.
    """
    return _compared(_filled_in(before), _filled_in(after), "", frozenset(ignore), of)


def _filled_in(content: Mapping[str, Any]) -> Any:
    """With the defaults of keys that an older version did not know; as it is if it has others."""
    try:
        return json.loads(dump(check(content, "config.json")))
    except ConfigError:
        return content


def _compared(before: Any, after: Any, key: str, ignore: frozenset[str], of: str) -> list[str]:
    if key in ignore:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for name in sorted(before.keys() | after.keys())
            for line in _compared(
                before.get(name), after.get(name), f"{key}.{name}" if key else name, ignore, of
            )
        ]
    shown_key = f"{of}.{key}" if of else key
    return [] if before == after else [f"{shown_key}: {before!r} before, {after!r} now"]
