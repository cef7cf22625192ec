"""Texts that a system wrote, kept while it writes, so that nothing is decoded twice."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from kd_ray.config.places import local_path
from kd_ray.evaluation.run_folder import read_json_lines, write_json_lines
from kd_ray.storage import StorageError, alone, fetch, matches, publish, shown

logger = logging.getLogger(__name__)

_SEND_S = 60.0
"""A file at an address is sent so often."""


class KeptTexts:
    """Texts by utterance id: those of an earlier run, and those that are added.

    The file has a line that says what wrote the texts, and a line for each utterance. Made by
    `kept_texts`.
    """

    def __init__(self, path: Path, known: dict[str, tuple[str, ...]], file: FileIO) -> None:
        self.known = known
        """Best first; several where candidates were asked for."""
        self._path = path
        self._file = file
        self._sent_s = time.monotonic()

    def add(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Keep texts of further utterances.

        Raises:
            OSError: the disk is full, say; names the file.
        """
        lines = []
        for name, found in texts.items():
            self.known[name] = tuple(found)
            lines.append(json.dumps({"id": name, "texts": list(found)}, ensure_ascii=False) + "\n")
        rest = "".join(lines).encode()
        try:
            while rest:
                # Unbuffered: what found no room is not tried again when the file is closed.
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            text = f"cannot write {shown(self._path)}: {error.strerror}"
            raise OSError(error.errno, text) from error
        if time.monotonic() - self._sent_s > _SEND_S:
            publish(self._path)
            self._sent_s = time.monotonic()


@contextmanager
def kept_texts(folder: Path, written_by: Mapping[str, Any]) -> Iterator[KeptTexts]:
    """Texts in a folder that this process alone writes meanwhile.

    Args:
        folder: at an address or not; made if need be.
        written_by: all that texts depend on (system, inputs, search), as JSON has it. What
            something else wrote has a file of its own, and stays.

    Raises:
        StorageError: another process is writing the folder.
    """
    digest = hashlib.sha256(json.dumps(written_by, sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:16]}.jsonl"
    with alone(folder):
        known = _read(path)
        # Anew, as a killed process may have left half a line.
        lines = [{"id": name, "texts": texts} for name, texts in known.items()]
        write_json_lines(path, [{"written_by": written_by}, *lines])
        with local_path(path).open("ab", buffering=0) as file:
            try:
                yield KeptTexts(path, known, file)
            except BaseException:
                # What was added stays, and is sent if that is possible.
                try:
                    publish(path)
                except (OSError, StorageError) as problem:
                    logger.warning("%s was not sent: %s", shown(path), problem)
                raise
            os.fsync(file.fileno())
            publish(path)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    local = fetch(path)
    if local.exists():
        _, *lines = read_json_lines(local)
        return {line["id"]: tuple(line["texts"]) for line in lines}
    others = len(matches(path.parent, "*.jsonl"))
    if others:
        logger.info(
            "%s: %d files of texts that another system, manifest or search wrote; they stay",
            shown(path.parent), others,
        )  # fmt: skip
    return {}
