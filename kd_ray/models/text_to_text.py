"""Text in, text out: a translation expert, or the second half of a cascade.

Shapes: B sentences, S source tokens, H features, R decoder rows, L prefix length, V vocabulary.
"""

import torch
from torch import Tensor

from kd_ray.config.model import TextToText
from kd_ray.models.encoders import Encoded
from kd_ray.models.init import initialize, initialize_output
from kd_ray.models.masks import frame_mask
from kd_ray.models.sequence_model import SequenceModel, State, check_lengths
from kd_ray.models.transformer import (
    TokenEmbedding,
    TransformerDecoderStack,
    TransformerEncoderStack,
)


class TextToTextModel(SequenceModel):
    """Transformer encoder and decoder; `encode` reads source ids with their end of sentence."""

    reads = "text"
    config: TextToText
    encoder: TransformerEncoderStack

    def __init__(
        self,
        config: TextToText,
        *,
        vocabulary_size: int,
        source_vocabulary_size: int,
        blank: int,
        bos: int,
        eos: int,
    ) -> None:
        super().__init__(vocabulary_size=vocabulary_size, blank=blank, bos=bos, eos=eos)
        share = config.share_embeddings
        if share == "all" and source_vocabulary_size != vocabulary_size:
            raise ValueError(
                "share_embeddings: all needs one vocabulary for both languages, but the source "
                f"has {source_vocabulary_size} tokens and the target {vocabulary_size}; train "
                "joint tokens, or set share_embeddings: decoder"
            )
        self.config = config
        self.source_vocabulary_size = source_vocabulary_size
        self.source_embedding = (
            None if share == "all" else TokenEmbedding(source_vocabulary_size, config.encoder.size)
        )
        self.encoder = TransformerEncoderStack(config.encoder)
        self.decoder = TransformerDecoderStack(
            config.decoder,
            encoder_size=config.encoder.size,
            vocabulary_size=vocabulary_size,
            share_embeddings=share != "none",
        )
        self.apply(initialize)
        if self.decoder.output is not None:
            initialize_output(self.decoder.output)

    def encode(self, normalized: Tensor, lengths: Tensor) -> Encoded:
        """Source ids (B, S), each row closed by the source's eos, and lengths (B,) -> states."""
        if normalized.dim() != 2 or normalized.is_floating_point():
            raise ValueError(
                f"source tokens must be ids (sentences, tokens), got {normalized.dtype} "
                f"{tuple(normalized.shape)}"
            )
        check_lengths(lengths, normalized.shape[1], "source tokens", "empty text is found by")
        own = frame_mask(lengths, normalized.shape[1])
        ids = torch.where(own, normalized, 0)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.source_vocabulary_size:
            raise ValueError(
                f"source ids must be below the source vocabulary size "
                f"{self.source_vocabulary_size}, got {int(ids.min())} to {int(ids.max())}; were "
                "they made with this model's source tokens?"
            )
        embedding = self.source_embedding or self.decoder.embedding
        encoded: Encoded = self.encoder(embedding(ids), lengths)
        return encoded

    def decoder_logits(self, encoded: Encoded, prefix: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Teacher forcing, see `SequenceModel`."""
        logits: Tensor = self.decoder(encoded, self.decoder_inputs(prefix, prefix_lengths))
        return logits

    def begin(self, encoded: Encoded) -> State:
        """The decoder's state before the first token."""
        return self.decoder.begin(encoded)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token further: logits (R, V)."""
        return self.decoder.step(tokens, state)

    def select(self, state: State, rows: Tensor) -> State:
        """The decoder's state of these rows."""
        return self.decoder.select(state, rows)
