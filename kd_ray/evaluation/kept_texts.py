"""Texts that a system wrote, kept while it writes, so that nothing is decoded twice."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kd_ray.config.places import local_path
from kd_ray.evaluation.run_folder import read_json_lines, write_json_lines
from kd_ray.storage import alone, fetch, matches, publish, shown

logger = logging.getLogger(__name__)

_SEND_S = 60.0
"""A file at an address is sent so often."""


class KeptTexts:
    """Texts by utterance id: those of an earlier run, and those that are added.

    The file has a line that says what wrote the texts, and a line for each utterance. Made by
    `kept_texts`.
    """

    def __init__(self, path: Path, known: dict[str, tuple[str, ...]], file: TextIO) -> None:
        self.known = known
        """Best first; several where candidates were asked for."""
        self._path = path
        self._file = file
        self._sent_s = time.monotonic()

    def add(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Keep texts of further utterances."""
        for name, found in texts.items():
            self.known[name] = tuple(found)
            line = json.dumps({"id": name, "texts": list(found)}, ensure_ascii=False)
            self._file.write(line + "\n")
        self._file.flush()
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
        with local_path(path).open("a", encoding="utf-8") as file:
            try:
                yield KeptTexts(path, known, file)
            finally:
                file.flush()
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
