"""From the optimiser's section to torch."""

from collections.abc import Iterable

import torch

from kd_ray.config.training import Optimizer


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], section: Optimizer
) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD; weight decay leaves vectors (biases, norms) alone."""
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if parameter.requires_grad:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if section.type == "sgd":
        return torch.optim.SGD(groups, lr=section.lr)
    kind = torch.optim.AdamW if section.type == "adamw" else torch.optim.Adam
    return kind(groups, lr=section.lr, betas=section.betas)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
