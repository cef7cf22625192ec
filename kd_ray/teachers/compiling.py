"""Layers of attention, compiled for a few lengths; where that fails, they compute as ever.

A compiled graph is good for one shape, and compiling takes from seconds to minutes. So inputs are
padded up to the next of a few lengths (four for each doubling); only the number of rows is free.
Teachers of one architecture share the graphs: weights are inputs of them.
Recurrent layers are loops over frames, of which the compiler would make graphs of thousands of
steps: they are left as they are.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kd_ray.models.encoders import Encoded
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.models.transformer import (
    SpeechTransformer,
    TransformerDecoderStack,
    TransformerEncoderStack,
)

logger = logging.getLogger(__name__)

Backend = str | Callable[..., Any]

_SMALLEST = 16
_MOST_SHAPES = 512
"""Graphs of one part: lengths of its input, times those of the encoder's states for a decoder."""


def bucket(length: int) -> int:
    """The next of 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, ...: at most a quarter more."""
    if length <= _SMALLEST:
        return _SMALLEST
    step = 1 << ((length - 1).bit_length() - 3)
    return -(-length // step) * step


def padded_to_bucket(inputs: Tensor) -> Tensor:
    """(B, T, ...) with zeros behind, up to the next length that is compiled for."""
    more = bucket(inputs.shape[1]) - inputs.shape[1]
    behind = (0, 0) * (inputs.dim() - 2)
    return torch.nn.functional.pad(inputs, (*behind, 0, more))


def compile_parts(model: SequenceModel, backend: Backend = "inductor") -> bool:
    """Compile a model's encoder and decoder where they are layers of attention; whether any is.

    Nothing is compiled before it is first used.
    """
    parts = [
        part
        for part in (model.encoder, getattr(model, "decoder", None))
        if isinstance(part, SpeechTransformer | TransformerEncoderStack | TransformerDecoderStack)
    ]
    for part in parts:
        part.forward = _Compiled(part.forward, backend)  # type: ignore[method-assign, assignment]
    if not parts:
        logger.info("compile: a recurrent model is left as it is")
    return bool(parts)


class _Compiled:
    """A function that is compiled when it is first called with a new shape."""

    failed = False
    """Whether the compiler has failed in this process: that is told once."""

    def __init__(self, plain: Callable[..., Any], backend: Backend) -> None:
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, _MOST_SHAPES)
        limits.accumulated_recompile_limit = max(
            limits.accumulated_recompile_limit, 16 * _MOST_SHAPES
        )
        self._plain = plain
        self._compiled: Callable[..., Any] | None = torch.compile(
            plain, backend=backend, dynamic=False
        )

    def __call__(self, *arguments: Tensor | Encoded) -> Any:
        if self._compiled is None:
            return self._plain(*arguments)
        for argument in arguments:
            for tensor in [argument] if isinstance(argument, Tensor) else argument:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return self._compiled(*arguments)
        except Exception as error:
            # Where the plain function fails too, the fault is not the compiler's.
            result = self._plain(*arguments)
            self._give_up(error)
            return result

    def _give_up(self, error: Exception) -> None:
        self._compiled = None
        if not _Compiled.failed:
            _Compiled.failed = True
            logger.warning(
                "torch.compile failed, and teachers compute without it from now on; set compile to "
                "false, or look at what it says: %s",
                " ".join(f"{type(error).__name__}: {error}".split())[:300],
            )
