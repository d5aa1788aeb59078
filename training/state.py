"""The state of a training run: all that a step changes, as tensors and JSON.

A run that is restored from its state gives the same weights, bit for bit, as one that was never
interrupted, on a CPU with the same number of threads.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from training.history import Epoch, History
from training.hyperparameters import Hyperparameters
from training.optimization import averaged_model, make_optimizer, make_scheduler

Tensors = dict[str, Tensor]


class TrainingState:
    """Network, optimizer, scheduler, averaged weights, random numbers, and the place in the data.

    Attributes:
        network: the network that is trained.
        optimizer: the optimizer of its parameters.
        scheduler: the scheduler of the learning rate, if there is one.
        averaged: the moving average of the weights, if there is one.
        generator: the random numbers of order and distortions.
        history: the completed epochs.
        kept_weights: the best weights so far; empty before the first epoch is completed.
        batches: how many batches of the epoch are done.
        rates: the learning rate of each of them.
        losses: the loss of each of them, scalars on the device.
        finished: whether the run is complete, and the network has the kept weights.
    """

    def __init__(
        self, network: nn.Module, hyperparameters: Hyperparameters, device: torch.device, steps: int
    ) -> None:
        self.network = network
        self.optimizer = make_optimizer(network, hyperparameters, device)
        self.scheduler = make_scheduler(self.optimizer, hyperparameters, steps)
        self.averaged = averaged_model(network, hyperparameters, steps)
        self.generator = torch.Generator(device).manual_seed(hyperparameters.seed)
        self.history = History()
        self.kept_weights: Tensors = {}
        self.batches = 0
        self.rates: list[float] = []
        self.losses: list[Tensor] = []
        self.finished = False
        self._device = device
        self._order_state = self.generator.get_state()
        self._started = time.monotonic()

    @property
    def candidate(self) -> nn.Module:
        """The network whose weights may be kept: the averaged one, if there is one."""
        return self.averaged.module if self.averaged else self.network

    @property
    def seconds(self) -> float:
        """The duration of the run, including the parts before it was restored."""
        return self.history.seconds + time.monotonic() - self._started

    def shuffle(self, rows: int) -> Tensor:
        """Return the order of the rows in this epoch, int64 [rows].

        In an epoch that was begun before the state was restored, it is the same order again.
        """
        if not self.batches:
            self._order_state = self.generator.get_state()
            return self._permutation(rows)
        now = self.generator.get_state()
        self.generator.set_state(self._order_state)
        order = self._permutation(rows)
        self.generator.set_state(now)
        return order

    def _permutation(self, rows: int) -> Tensor:
        return torch.randperm(rows, generator=self.generator, device=self._device)

    def end_epoch(self, epoch: Epoch) -> None:
        """Record a completed epoch."""
        self.history.epochs.append(epoch)
        self.batches, self.rates, self.losses = 0, [], []

    def tensors(self) -> Tensors:
        """Return the tensors of the state, by name."""
        modules = {"network": self.network, "averaged": self.averaged}
        tensors = {
            f"{prefix}/{name}": value
            for prefix, module in modules.items()
            if module is not None
            for name, value in module.state_dict().items()
        }
        tensors |= {f"kept/{name}": value for name, value in self.kept_weights.items()}
        for index, parameter in enumerate(self._parameters()):
            for name, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{name}"] = value
        tensors["random/order"] = self._order_state
        tensors["random/now"] = self.generator.get_state()
        tensors["random/default"] = torch.get_rng_state()
        if self._device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self._device)
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        return tensors

    def numbers(self) -> dict[str, Any]:
        """Return the rest of the state, as JSON has it."""
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        history = self.history
        return {
            "epochs": [asdict(epoch) for epoch in history.epochs],
            "kept": asdict(history.kept) if history.kept else None,
            "seconds": self.seconds,
            "batches": self.batches,
            "rates": self.rates,
            "finished": self.finished,
            "optimizer": groups,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Set the state to what `tensors` and `numbers` of another state returned."""
        self.network.load_state_dict(_under("network/", tensors))
        if self.averaged:
            self.averaged.load_state_dict(_under("averaged/", tensors))
        self.kept_weights = _under("kept/", tensors)
        for index, parameter in enumerate(self._parameters()):
            for name, value in _under(f"optimizer/{index}/", tensors).items():
                self.optimizer.state[parameter][name] = _like(parameter, value)
        for group, saved in zip(self.optimizer.param_groups, numbers["optimizer"], strict=True):
            # JSON has no tuples, which Adam's betas are.
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
        if self.scheduler:
            self.scheduler.load_state_dict(numbers["scheduler"])
        self._order_state = tensors["random/order"]
        self.generator.set_state(tensors["random/now"])
        torch.set_rng_state(tensors["random/default"])
        if "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], self._device)
        self.history = History(
            epochs=[Epoch(**epoch) for epoch in numbers["epochs"]],
            kept=Epoch(**numbers["kept"]) if numbers["kept"] else None,
            seconds=numbers["seconds"],
        )
        self.batches, self.rates = numbers["batches"], list(numbers["rates"])
        self.losses = list(tensors["losses"].to(self._device)) if "losses" in tensors else []
        self.finished = numbers["finished"]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return `value` on the device of `parameter` and, with its shape, in its memory format.

    Fused optimizers read the numbers of both in the order of the memory.
    """
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
