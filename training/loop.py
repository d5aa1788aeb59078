"""`train`: the training loop.

The data set is in the device's memory. A step is a slice, a forward pass, a backward pass
and an update.
"""

import copy
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import tqdm

from models.devices import DeviceError, torch_devices
from training.augmentation import Augmentation
from training.datasets import Dataset, Split, Task
from training.hyperparameters import Hyperparameters, ImageHyperparameters

EVALUATION_ROWS = 2_048
STATISTICS_ROWS = 8_192
INTERRUPTED = (
    "interrupted: training ends here, and the best weights so far are evaluated and kept; "
    "Ctrl-C again stops at once and keeps nothing"
)


class DivergedError(RuntimeError):
    """A loss that is not finite. The message names epoch, batch and learning rate."""

    def __init__(self, loss: str, epoch: int, batch: int, lr: float) -> None:
        super().__init__(
            f"the {loss} is not finite in epoch {epoch}, batch {batch}, at learning rate {lr:g}: "
            "lower --lr, or set --clip-norm"
        )


@dataclass(frozen=True)
class Epoch:
    """The losses and the metric of one epoch: the accuracy, or the mean absolute error."""

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float
    metric: float

    def score(self, task: Task) -> tuple[float, float]:
        """Return a sort key, larger is better.

        Classification compares the accuracy and then the validation loss, regression compares the
        validation loss.
        """
        return (self.metric if task == "classification" else 0.0, -self.validation_loss)


@dataclass
class History:
    """The epochs of a training run, the epoch of the kept weights, and the duration."""

    epochs: list[Epoch] = field(default_factory=list)
    kept: Epoch | None = None
    seconds: float = 0.0
    interrupted: bool = False


def pick_device(name: str | None = None) -> torch.device:
    """Return the named device; without a name, CUDA if available, else the CPU.

    Raises:
        DeviceError: the device does not exist.
    """
    usable, _ = torch_devices()
    available = ["cpu", "cuda", *usable] if usable else ["cpu"]
    if name is not None and name not in available:
        raise DeviceError(f"there is no device {name!r}; there is {', '.join(available)}")
    return torch.device(name or ("cuda" if "cuda" in available else "cpu"))


def train(
    network: nn.Module,
    data: Dataset,
    hyperparameters: Hyperparameters,
    *,
    device: torch.device,
    augment: Augmentation | None = None,
    progress: bool = True,
) -> History:
    """Train `network` in place on the training split.

    The network keeps the weights of the epoch that `keep` names: the last, or the best on the
    validation split. After an early stop it keeps the best.

    The first Ctrl-C ends the epoch, prints a message and keeps the best weights so far. The second
    Ctrl-C raises KeyboardInterrupt.

    Args:
        network: takes the data's inputs; returns logits [N, classes], or values [N, 1].
        data: a classification is trained with cross-entropy, a regression with squared error.
        hyperparameters: every hyperparameter of the loop.
        device: the device for the computation; network and data are moved there.
        augment: a distortion of each batch of inputs.
        progress: whether to show nested progress bars on a terminal, or plain lines elsewhere.

    Raises:
        DivergedError: a loss is not finite.
    """
    started = time.monotonic()
    network.to(device)
    rows, validation = data.train.to(device), data.validation.to(device)
    batch_size = min(hyperparameters.batch_size, len(rows))
    batches = len(rows) // batch_size
    loss_of = _loss(data.task, hyperparameters)
    parameters = list(network.parameters())
    optimizer = _optimizer(network, hyperparameters, device)
    scheduler = _scheduler(optimizer, hyperparameters, hyperparameters.epochs * batches)
    averaged = _averaged_model(network, hyperparameters, hyperparameters.epochs * batches)
    generator = torch.Generator(device).manual_seed(hyperparameters.seed)
    autocast = (
        torch.autocast(device.type, torch.bfloat16) if hyperparameters.mixed_precision else None
    )
    history = History()

    with (
        _denormals_flushed(),
        _interruptible() as interrupted,
        _Progress(hyperparameters.epochs, progress) as bars,
    ):
        for number in range(1, hyperparameters.epochs + 1):
            network.train()
            rates, batch_losses = [], []
            order = torch.randperm(len(rows), generator=generator, device=device)
            shuffled = Split(rows.inputs[order], rows.targets[order])
            for batch in bars.batches(batches):
                selected = slice(batch * batch_size, (batch + 1) * batch_size)
                inputs = shuffled.inputs[selected]
                if augment:
                    inputs = augment(inputs, generator)
                with autocast or nullcontext():
                    outputs = network(inputs)
                loss = loss_of(outputs.float(), shuffled.targets[selected])
                rates.append(float(optimizer.param_groups[0]["lr"]))
                for parameter in parameters:  # same as zero_grad, without its hooks
                    parameter.grad = None
                loss.backward()
                if hyperparameters.clip_norm:
                    nn.utils.clip_grad_norm_(parameters, hyperparameters.clip_norm)
                optimizer.step()
                if scheduler:
                    scheduler.step()
                if averaged:
                    averaged.update_parameters(network)
                batch_losses.append(loss.detach())
                if interrupted():
                    bars.interrupted()
                    break
            # One transfer per epoch, so that a GPU does not wait for the host in each step.
            losses = torch.stack(batch_losses)
            diverged = (~losses.isfinite()).nonzero()
            if len(diverged):
                index = int(diverged[0])
                raise DivergedError("loss", number, index + 1, rates[index])

            candidate: nn.Module = network
            if averaged:
                # Averaged weights need their own batch-norm statistics. These are computed on
                # undistorted rows, which are distributed like the inputs at inference.
                candidate = averaged.module
                update_bn(rows.inputs[:STATISTICS_ROWS].split(EVALUATION_ROWS), candidate)
            validation_loss, metric = validate(candidate, validation, data.task)
            if not math.isfinite(validation_loss):
                raise DivergedError("validation loss", number, len(rates), rates[-1])
            epoch = Epoch(number, rates[0], float(losses.mean()), validation_loss, metric)
            history.epochs.append(epoch)
            bars.epoch(epoch, data.task)
            if history.kept is None or epoch.score(data.task) > history.kept.score(data.task):
                history.kept, kept_weights = epoch, copy.deepcopy(candidate.state_dict())
            history.interrupted = interrupted()
            if history.interrupted:
                bars.interrupted()
            stale = number - history.kept.epoch
            if history.interrupted or (
                hyperparameters.patience and stale >= hyperparameters.patience
            ):
                break
        else:
            if hyperparameters.keep == "last":
                history.kept, kept_weights = epoch, candidate.state_dict()

    network.load_state_dict(kept_weights)
    network.eval()
    history.seconds = time.monotonic() - started
    return history


@torch.inference_mode()
def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs [N, …] for all inputs, in eval mode, in batches of 2,048 rows."""
    network.eval()
    return torch.cat([network(batch).float() for batch in inputs.split(EVALUATION_ROWS)])


def validate(network: nn.Module, split: Split, task: Task) -> tuple[float, float]:
    """Return the loss, and the accuracy or mean absolute error, of the network on a split."""
    outputs = predict(network, split.inputs)
    if task == "classification":
        accuracy = (outputs.argmax(dim=1) == split.targets).float().mean()
        return float(cross_entropy(outputs, split.targets)), float(accuracy)
    error = outputs - split.targets
    return float(error.square().mean()), float(error.abs().mean())


def _loss(task: Task, hyperparameters: Hyperparameters) -> Callable[[Tensor, Tensor], Tensor]:
    if task == "regression":
        return mse_loss
    smoothing = 0.0
    if isinstance(hyperparameters, ImageHyperparameters):
        smoothing = hyperparameters.label_smoothing
    return partial(cross_entropy, label_smoothing=smoothing)


def _optimizer(
    network: nn.Module, hyperparameters: Hyperparameters, device: torch.device
) -> torch.optim.Optimizer:
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


def _scheduler(
    optimizer: torch.optim.Optimizer, hyperparameters: Hyperparameters, steps: int
) -> LRScheduler | None:
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


def _averaged_model(
    network: nn.Module, hyperparameters: Hyperparameters, steps: int
) -> AveragedModel | None:
    if not hyperparameters.ema_decay:
        return None
    # In a short run a slow decay would keep a large share of the random initial weights. The bound
    # limits their share to e^-5 at the end. It does not affect a run of 10,000 steps.
    decay = min(hyperparameters.ema_decay, max(0.0, 1 - 5 / steps))
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers (below 1e-38) to zero on this CPU thread.

    Adam's moments of a unit with zero gradients decay to denormal numbers. They change no weight,
    but processors compute them slowly: they took an eighth of the training time.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Set a flag on the first Ctrl-C, so that the epoch is completed; raise on the second."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted.is_set
        return

    def handle(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


class _Progress:
    """Progress: nested bars on a terminal, at most 20 plain lines elsewhere, or no output."""

    def __init__(self, epochs: int, enabled: bool) -> None:
        terminal = sys.stderr.isatty()
        self._epochs = epochs
        self._lines = enabled and not terminal
        self._bars = enabled and terminal
        self._interrupted_shown = False
        self._outer = tqdm(total=epochs, unit="epoch", disable=not self._bars)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._outer.close()

    def batches(self, count: int) -> Iterator[int]:
        if not self._bars:
            return iter(range(count))
        return iter(tqdm(range(count), unit="batch", leave=False))

    def interrupted(self) -> None:
        """Print once that Ctrl-C ended the epoch."""
        if not self._interrupted_shown and (self._lines or self._bars):
            self._outer.write(INTERRUPTED, file=sys.stderr)
        self._interrupted_shown = True

    def epoch(self, epoch: Epoch, task: Task) -> None:
        name = "accuracy" if task == "classification" else "error"
        text = (
            f"loss {epoch.train_loss:.4f}, validation loss {epoch.validation_loss:.4f}, "
            f"{name} {epoch.metric:.4f}"
        )
        self._outer.set_postfix_str(text, refresh=False)
        self._outer.update()
        every = -(-self._epochs // 20)
        if self._lines and (epoch.epoch % every == 0 or epoch.epoch == self._epochs):
            line = f"epoch {epoch.epoch}/{self._epochs}: lr {epoch.lr:.2e}, {text}\n"
            sys.stderr.write(line)
            sys.stderr.flush()
