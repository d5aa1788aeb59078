"""The parts of a training step: loss, optimizer, learning-rate scheduler, averaged weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.datasets import Task
from training.hyperparameters import Hyperparameters, ImageHyperparameters

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) → a scalar."""


def default_loss(task: Task, hyperparameters: Hyperparameters) -> Loss:
    """Return the squared error of values, or the cross-entropy of classes or sequences of them."""
    if task == "regression":
        return mse_loss
    smoothing = 0.0
    if isinstance(hyperparameters, ImageHyperparameters):
        smoothing = hyperparameters.label_smoothing
    return partial(_cross_entropy, smoothing=smoothing)


def _cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    if targets.ndim > 1:  # sequences: each place is a classification
        outputs, targets = outputs.flatten(0, 1), targets.flatten()
    return cross_entropy(outputs, targets, label_smoothing=smoothing)


def make_optimizer(
    network: nn.Module, hyperparameters: Hyperparameters, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that are trained."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if hyperparameters.weight_decay:  # a second group costs one further call in each step
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": hyperparameters.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    fused = device.type in ("cpu", "cuda")  # one kernel for all parameters
    return kinds[hyperparameters.optimizer](groups, lr=hyperparameters.lr, fused=fused)


def make_scheduler(
    optimizer: torch.optim.Optimizer, hyperparameters: Hyperparameters, steps: int
) -> LRScheduler | None:
    """Return the scheduler for a number of steps; None for a constant learning rate."""
    if hyperparameters.lr_scheduler == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if hyperparameters.lr_scheduler == "one-cycle":
        return OneCycleLR(
            optimizer,
            hyperparameters.lr,
            total_steps=max(steps, 6),  # fewer steps leave none for the warm-up
            pct_start=0.2,
            final_div_factor=1e3,
            cycle_momentum=hyperparameters.optimizer != "sgd",
        )
    return None


def averaged_model(
    network: nn.Module, hyperparameters: Hyperparameters, steps: int
) -> AveragedModel | None:
    """Return the exponential moving average of the weights; None if it is not wanted."""
    if not hyperparameters.ema_decay:
        return None
    # In a short run a slow decay would keep a large share of the random initial weights. The bound
    # limits their share to e^-5 at the end. It does not affect a run of 10,000 steps.
    decay = min(hyperparameters.ema_decay, max(0.0, 1 - 5 / steps))
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
