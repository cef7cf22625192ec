"""First values of parameters, so that joint CTC/attention training starts well.

Recurrent weights are orthogonal per gate (Saxe et al. 2013): gradients neither vanish nor explode
over the first hundred frames. Input weights are Xavier-uniform per gate, layers before a relu are
He-normal, biases zero, and the output layers small, so that the first distributions are close to
uniform: CTC then starts without a preference for the blank.
"""

import torch
from torch import Tensor, nn

from kd_ray.models.attention import CrossAttention
from kd_ray.models.decoders import LocationAttentionDecoder
from kd_ray.models.recurrence import BidirectionalLayer, LiGruLayer
from kd_ray.models.transformer import TokenEmbedding

_OUTPUT_STD = 0.02


def _per_gate(weight: Tensor, size: int, *, recurrent: bool) -> None:
    for gate in torch.split(weight.data, size):
        if recurrent:
            nn.init.orthogonal_(gate)
        else:
            nn.init.xavier_uniform_(gate)


def initialize(module: nn.Module) -> None:
    """Set one module's own parameters; use as `model.apply(initialize)`."""
    if isinstance(module, BidirectionalLayer):
        for name, value in module.rnn.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(value)
                if module.kind == "lstm" and "_ih_" in name:
                    value.data[module.rnn.hidden_size : 2 * module.rnn.hidden_size] = 1  # forget
            else:
                _per_gate(value, module.rnn.hidden_size, recurrent="_hh_" in name)
    elif isinstance(module, LiGruLayer):
        _per_gate(module.inputs.weight, module.size, recurrent=False)
        for direction in module.recurrent.data:
            _per_gate(direction, module.size, recurrent=True)
    elif isinstance(module, LocationAttentionDecoder):
        size = module.config.hidden_size
        nn.init.normal_(module.embedding.weight, std=module.config.embedding_size**-0.5)
        for linear in (module.token_gates, module.context_gates):
            _per_gate(linear.weight, size, recurrent=False)
        _per_gate(module.hidden_gates.weight, size, recurrent=True)
        for weight in (module.keys, module.query, module.location_keys, module.score):
            weight.weight.data.mul_(2)  # sigmoid(2 x) * 2: what tanh would start from
        initialize_output(module.output)
        if module.config.cell == "lstm":
            module.token_gates.bias.data[size : 2 * size] = 1  # forget gate: remember
    elif isinstance(module, nn.LSTMCell):
        _per_gate(module.weight_ih, module.hidden_size, recurrent=False)
        _per_gate(module.weight_hh, module.hidden_size, recurrent=True)
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)
        module.bias_ih.data[module.hidden_size : 2 * module.hidden_size] = 1  # forget
    elif isinstance(module, CrossAttention):
        # As wide as SelfAttention's fused projection makes them (fairseq: gain 1 / sqrt(2)).
        size = module.query.out_features
        keys_values = torch.split(module.memory_projection.weight.data, size)
        for part in (module.query.weight.data, *keys_values):
            nn.init.xavier_uniform_(part, gain=2**-0.5)
    elif isinstance(module, TokenEmbedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialize_output(linear: nn.Linear) -> None:
    """Small weights and no bias: distributions start close to uniform."""
    nn.init.normal_(linear.weight, std=_OUTPUT_STD)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
