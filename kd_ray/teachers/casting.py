"""In which precision a teacher's parts compute."""

import torch

from kd_ray.config.sources import Precision
from kd_ray.evaluation.system import System
from kd_ray.models.transformer import TransformerDecoderStack

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Casting:
    """Contexts of automatic casting for the encoder and for the decoder of one system.

    Recurrent decoders are a long chain of small steps, in which casting costs more than it saves,
    and rounding adds up: they stay in float32.

    Raises:
        ValueError: float16 on a CPU.
    """

    def __init__(self, precision: Precision, system: System) -> None:
        self._device = system.device.type
        if precision == "float16" and self._device == "cpu":
            raise ValueError(
                f"teacher {system.name}: precision 'float16' needs a GPU, and it computes on the "
                "CPU; take 'bfloat16' or 'float32', or give it a GPU"
            )
        self._dtype = _DTYPES[precision]
        self._encoder = precision != "float32"
        decoder = getattr(system.model, "decoder", None)
        self._decoder = self._encoder and isinstance(decoder, TransformerDecoderStack)

    def encoder(self) -> torch.autocast:
        """For `encode`."""
        return self._context(self._encoder)

    def decoder(self) -> torch.autocast:
        """For `decoder_logits`, `begin` and `step`."""
        return self._context(self._decoder)

    def _context(self, casts: bool) -> torch.autocast:
        if not casts:
            return torch.autocast(self._device, enabled=False)
        return torch.autocast(self._device, dtype=self._dtype)
