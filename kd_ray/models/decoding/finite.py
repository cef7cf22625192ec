"""Logits that nothing can be chosen by: a model that is broken, or whose numbers overflow.

Shapes: R decoder rows, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.core.errors import PortableError

if TYPE_CHECKING:
    from kd_ray.models.sequence_model import SequenceModel


class NotFinite(PortableError, ValueError):
    """A model gave NaN or infinity where tokens were to be chosen."""

    def __init__(self, model: "SequenceModel") -> None:
        super().__init__(
            f"a {model.config.type} model gave outputs that are not finite (NaN or infinity), so "
            "no token can be chosen: its checkpoint is likely broken. Take another one, or train "
            "it anew; where it computes in float16, its numbers may be too large for that: try "
            "precision bfloat16 or float32"
        )


class Watch:
    """Keeps the highest logits of each step on the device, and looks at them once, at the end.

    A look at each step would make the CPU wait for the GPU there; a look at the first step alone
    would miss numbers that overflow later, in float16 or of a single row. Meanwhile decoding goes
    on with whatever is chosen, and ends at the limits as ever.

    Two are let through, whose numbers are looked at elsewhere:

    * A student in training. Skipped updates keep its weights finite, but if it diverged they
      may be so large that what it writes in validation and rollouts is NaN. Too many skipped
      updates in a row then stop its run, on all workers together, and tell how to replay them; an
      error here would come first, perhaps on one worker alone, and blame a checkpoint.
    * Who writes behind a forced prefix, empty or not: teachers, who score what they wrote. By these
      scores a host quarantines one of them, and the others go on.
    """

    def __init__(self, model: "SequenceModel", prefix: Labels | None):
        self.model = model
        self._off = model.learns or prefix is not None
        self._highest: list[Tensor] = []

    def look(self, logits: Tensor, writes: Tensor | None = None) -> None:
        """Note logits (R, V) of one step; where `writes` (R,) is given, of these rows alone.

        The highest of a row is NaN or +inf if one of them is, and -inf if all are. Below it, -inf
        is what a model masks.
        """
        if not self._off:
            highest = logits.amax(dim=1)
            self._highest.append(highest if writes is None else torch.where(writes, highest, 0.0))

    def check(self) -> None:
        """After the last step.

        Raises:
            NotFinite: no token could be chosen at some step.
        """
        if self._highest and not bool(torch.cat(self._highest).isfinite().all()):
            raise NotFinite(self.model)
