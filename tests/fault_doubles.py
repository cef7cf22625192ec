"""Teachers that misbehave when a test says so, also in hosts that run already."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray
import torch
from doubles import FakeTeacher
from torch import Tensor

from kd_ray.core.contracts import Labels, Masks, TeacherOutput, Wanted


class Switches:
    """Faults by host and teacher, as files, so that any process sees them.

    `late S`: a pass takes S seconds longer. `nan`: answers NaN. `memory N`: a pass of more than N
    utterances meets full memory. `killed`: the host's process is killed in the middle of a pass, as
    the kernel does when memory is full. `hoard M`: takes so many MiB, little by little.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, host: str, seed: int, fault: str) -> None:
        """`host`: host-0, host-1, ...; `seed`: of the teacher."""
        path = self.folder / f"{host}-{seed}"
        path.with_suffix(".new").write_text(fault)
        path.with_suffix(".new").rename(path)

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def get(self, host: str, seed: int) -> list[str]:
        try:
            return (self.folder / f"{host}-{seed}").read_text().split()
        except FileNotFoundError:
            return []


class SwitchedTeacher(FakeTeacher):
    """As the fake teacher, unless a switch of its host says otherwise."""

    def __init__(self, seed: int, switches: Switches, host: str) -> None:
        super().__init__(seed, num_mels=8 + seed % 2)
        self.switches, self.host = switches, host
        self.hoard: list[np.ndarray] = []

    def score(
        self,
        features: Tensor,
        lengths: Tensor,
        prefix: Labels,
        references: Labels | None,
        wanted: frozenset[Wanted],
        masks: Masks | None = None,
    ) -> TeacherOutput:
        fault = self.switches.get(self.host, self.seed)
        match fault:
            case ["late", seconds]:
                time.sleep(float(seconds))
            case ["memory", most] if len(lengths) > int(most):
                raise torch.OutOfMemoryError(f"CUDA out of memory with {len(lengths)} utterances")
            case ["hoard", mib]:
                while len(self.hoard) < int(mib):
                    self.hoard.append(np.ones(1 << 20, dtype=np.uint8))
                    time.sleep(0.001)
            case ["killed"]:
                os.kill(os.getpid(), signal.SIGKILL)
        self.broken_after = 0 if fault == ["nan"] else None
        return super().score(features, lengths, prefix, references, wanted, masks)


def load_switched(folders: Sequence[Path], device: str, *, switches: str) -> list[SwitchedTeacher]:
    """A pool's loader (with `switches` bound): `fakes/3` is the teacher of seed 3."""
    name = ray.get_runtime_context().get_actor_name() or "host-none"
    host = "host-" + name.rsplit("-", 1)[-1]
    return [SwitchedTeacher(int(folder.name), Switches(Path(switches)), host) for folder in folders]
