"""A root at an address of the local file system, and a cache of its own."""

import os
from pathlib import Path

import pytest

from kd_ray.config.load import root_folder
from kd_ray.storage import cache


class Far:
    """`folder` is where the files are; `root` is its mirror, as commands are given it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder = folder
        self.patch = patch
        folder.mkdir(parents=True)
        self.patch.setenv("KD_RAY_ROOT", f"file://{folder}")
        self.other_node()

    @property
    def root(self) -> Path:
        return root_folder()

    def other_node(self) -> None:
        """An empty cache, as another node has one."""
        self.node(len(list(self.folder.parent.glob("cache-*"))))

    def node(self, number: int) -> None:
        """The cache of a node, counted from 0."""
        self.patch.setenv("KD_RAY_CACHE", str(self.folder.parent / f"cache-{number}"))
        cache.the_cache()

    def small_cache(self, kib: float) -> None:
        """An empty cache of a few KiB that lets go of a file as soon as it may."""
        self.patch.setenv("KD_RAY_CACHE_GIB", str(kib / 2**20))
        self.patch.setattr(cache, "GRACE_S", 0.0)
        self.other_node()

    def write(self, name: str, content: str | bytes) -> Path:
        """A file at the address; its path as commands are given it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.root / name

    def later(self, name: str) -> None:
        """Let a file look changed, however quick the test is."""
        status = (self.folder / name).stat()
        os.utime(self.folder / name, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
