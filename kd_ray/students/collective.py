"""What the workers of one training say to each other: sums and barriers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed
from torch import nn


class Collective(Protocol):
    """The group of workers that train one model."""

    rank: int
    world: int

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sum over workers, in float64."""
        ...

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of all workers in one dictionary; later ranks win."""
        ...

    def barrier(self) -> None:
        """Wait until every worker is here."""
        ...

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over workers."""
        ...


class Alone:
    """A training with one worker."""

    rank = 0
    world = 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values themselves."""
        return dict(values)

    def barrier(self) -> None:
        """Nobody to wait for."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module


class ProcessGroup:
    """Workers joined by torch.distributed, which the launcher has initialised."""

    def __init__(self, device: torch.device):
        self.rank = torch.distributed.get_rank()
        self.world = torch.distributed.get_world_size()
        self.device = device

    def sum(self, values: Sequence[float]) -> list[float]:
        """All-reduce in float64, so that integer counts stay exact."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total.cpu()]

    def gather(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Pickled and exchanged among the processes of this group only."""
        everybody: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(everybody, dict(values))
        return {key: value for each in everybody for key, value in each.items()}

    def barrier(self) -> None:
        """An all-reduce of nothing much: works on every backend."""
        self.sum([0.0])

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP; a loss without one of the heads leaves parameters without gradient."""
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            module, device_ids=device_ids, find_unused_parameters=True
        )
