"""A model of Hugging Face Transformers with the sizes of a student of ours, and its `generate`."""

from collections.abc import Callable

import torch

from kd_ray.config.bench import BenchRolloutsConfig
from kd_ray.config.model import SpeechTransformerEncoder, TransformerDecoder


class NeedsTransformers(ValueError):
    """Hugging Face Transformers is not installed; the text says how it is."""


def build_generator(config: BenchRolloutsConfig) -> Callable[[], list[list[int]]]:
    """Greedy `generate` of Speech2Text (fairseq's `s2t_transformer` in Transformers).

    Random weights, encoder states made beforehand, cache on, and as many tokens as the other ways.

    Raises:
        NeedsTransformers: it is not there.
    """
    try:
        import transformers
        from transformers.modeling_outputs import BaseModelOutput
    except ImportError as error:
        raise NeedsTransformers(
            f"bench rollouts with transformers: true needs Hugging Face Transformers ({error}): "
            "pip install 'kd-ray[hf]', or set transformers to false"
        ) from error
    encoder, decoder = config.model.encoder, config.model.decoder
    assert isinstance(encoder, SpeechTransformerEncoder)
    assert isinstance(decoder, TransformerDecoder)
    sizes = transformers.Speech2TextConfig(
        vocab_size=config.vocabulary_size,
        d_model=encoder.size,
        encoder_layers=encoder.layers,
        encoder_ffn_dim=encoder.feed_forward_size,
        encoder_attention_heads=encoder.heads,
        decoder_layers=decoder.layers,
        decoder_ffn_dim=decoder.feed_forward_size,
        decoder_attention_heads=decoder.heads,
        num_conv_layers=len(encoder.conv_kernels),
        conv_kernel_sizes=list(encoder.conv_kernels),
        conv_channels=encoder.conv_channels,
        input_feat_per_channel=config.model.front_end.num_mels,
        tie_word_embeddings=config.model.share_embeddings == "decoder",
        max_source_positions=max(6000, config.frames),
        max_target_positions=max(1024, config.length + 2),
    )
    model = transformers.Speech2TextForConditionalGeneration(sizes).eval()
    features = torch.randn(config.batch_size, config.frames, config.model.front_end.num_mels)
    mask = torch.ones(config.batch_size, config.frames, dtype=torch.int64)
    with torch.no_grad():
        states = model.get_encoder()(features, attention_mask=mask).last_hidden_state

    @torch.no_grad()
    def generate() -> list[list[int]]:
        ids = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            min_new_tokens=config.length,
            max_new_tokens=config.length,
        )
        return ids[:, -config.length :].tolist()  # type: ignore[no-any-return]

    return generate
