"""Models without weights, made once for each architecture, for those who load many checkpoints."""

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.models.checkpoint import WEIGHTS, check_fit, described_model
from kd_ray.models.sequence_model import SequenceModel


class Shells:
    """Keeps models on the meta device: modules and shapes, no numbers and no memory.

    Drawing the first values of a model that gets its weights from a file is most of the time that
    loading takes.

    Args:
        max_kept: architectures; the one that was not used for longest is forgotten.
    """

    def __init__(self, max_kept: int = 16) -> None:
        self._max_kept = max_kept
        self._kept: OrderedDict[str, SequenceModel] = OrderedDict()

    def of(self, folder: Path, config: Mapping[str, Any]) -> SequenceModel:
        """The shell that a checkpoint's `config.json` describes; not to be changed.

        Raises:
            CheckpointError: it describes no model that this version knows.
        """
        key = json.dumps([config.get("architecture"), config.get("tokens")], sort_keys=True)
        if key not in self._kept:
            # Built on the CPU and emptied: first values drawn on the meta device make torch import
            # its compiler, which takes seconds.
            with torch.random.fork_rng(devices=[]):
                shell = described_model(folder, config)
            self._kept[key] = shell.to("meta").eval().requires_grad_(False)
        self._kept.move_to_end(key)
        while len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return self._kept[key]

    def filled(
        self, folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> SequenceModel:
        """A model that uses these very tensors, without a copy; in eval mode, frozen.

        Raises:
            CheckpointError: as `of`; or the weights do not fit.
        """
        shell = self.of(folder, config)
        state = shell.state_dict(keep_vars=True)
        check_fit(weights, state, f"{folder / WEIGHTS} does not fit its own config.json")
        # A deep copy that finds the shell's tensors copied already takes half the time of one
        # whose weights are exchanged afterwards.
        memo: dict[int, Any] = {
            id(empty): (
                nn.Parameter(weights[name], requires_grad=False)
                if isinstance(empty, nn.Parameter)
                else weights[name]
            )
            for name, empty in state.items()
        }
        model = copy.deepcopy(shell, memo)
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                # cuDNN wants a layer's weights in one piece; on the CPU this does nothing.
                module.flatten_parameters()
        return model
