"""`fit`: the one training loop.

The data lies on the device; a step is a slice, a forward, a backward and an update.
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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import tqdm

from training.augmentation import Augmentation
from training.datasets import Dataset, Split
from training.hyperparameters import Hyperparameters, ImageHyperparameters

EVALUATION_ROWS = 2_048
STATISTICS_ROWS = 8_192
INTERRUPTED = (
    "interrupted: training ends here, and the best weights so far are evaluated and kept; "
    "Ctrl-C again stops at once and keeps nothing"
)


class DeviceError(ValueError):
    """A device that this machine does not have: says which ones it has."""


class DivergedError(RuntimeError):
    """A loss that is not finite: names epoch, batch and learning rate."""

    def __init__(self, loss: str, epoch: int, batch: int, lr: float) -> None:
        super().__init__(
            f"the {loss} is not finite in epoch {epoch}, batch {batch}, at learning rate {lr:g}: "
            "lower --lr, or set --clip-norm"
        )


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `metric` is the accuracy, or the mean absolute error."""

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float
    metric: float

    def score(self, classification: bool) -> tuple[float, float]:
        """Larger is better: accuracy and then loss for classes, loss alone for values."""
        return (self.metric if classification else 0.0, -self.validation_loss)


@dataclass
class History:
    """Every epoch of a fit, the one whose weights were kept, and how long it took."""

    epochs: list[Epoch] = field(default_factory=list)
    kept: Epoch | None = None
    seconds: float = 0.0
    interrupted: bool = False


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or CUDA where there is one, or the CPU.

    Raises:
        DeviceError: there is no such device.
    """
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name is not None and name not in there:
        raise DeviceError(f"there is no device {name!r}; there is {', '.join(there)}")
    return torch.device(name or ("cuda" if "cuda" in there else "cpu"))


def fit(
    network: nn.Module,
    data: Dataset,
    settings: Hyperparameters,
    *,
    device: torch.device,
    augment: Augmentation | None = None,
    progress: bool = True,
) -> History:
    """Fit `network` in place on the training split.

    It comes back with the weights of its last epoch, or of the best one by the validation split:
    as `keep` says, and always the best where the fit stopped early.

    Ctrl-C ends the epoch and keeps the best weights so far, and says so; a second Ctrl-C stops at
    once.

    Args:
        network: takes the data's inputs; gives logits [N, classes], or values [N, 1].
        data: class targets mean cross-entropy, value targets mean squared error.
        settings: every hyperparameter of the loop.
        device: where to compute; the network and the data are moved there.
        augment: what is done to each batch of inputs before the network sees it.
        progress: show nested bars on a terminal, and plain lines elsewhere.

    Raises:
        DivergedError: a loss was not finite.
    """
    started = time.monotonic()
    network.to(device)
    train, validation = data.train.to(device), data.validation.to(device)
    classification = bool(data.labels)
    batch_size = min(settings.batch_size, len(train))
    batches = len(train) // batch_size
    smoothing = settings.label_smoothing if isinstance(settings, ImageHyperparameters) else 0.0

    def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
        if classification:
            return cross_entropy(outputs, targets, label_smoothing=smoothing)
        return mse_loss(outputs, targets)

    parameters = list(network.parameters())
    optimizer = _optimizer(network, settings, device)
    scheduler = _scheduler(optimizer, settings, settings.epochs * batches)
    averaged = _averaged(network, settings, settings.epochs * batches)
    generator = torch.Generator(device).manual_seed(settings.seed)
    half = torch.autocast(device.type, torch.bfloat16) if settings.mixed_precision else None
    history = History()

    with (
        _denormals_flushed(),
        _interruptible() as interrupted,
        _Progress(settings.epochs, progress) as shown,
    ):
        for number in range(1, settings.epochs + 1):
            network.train()
            rates, found = [], []
            order = torch.randperm(len(train), generator=generator, device=device)
            shuffled = Split(train.inputs[order], train.targets[order])
            for batch in shown.batches(batches):
                rows = slice(batch * batch_size, (batch + 1) * batch_size)
                inputs = shuffled.inputs[rows]
                if augment:
                    inputs = augment(inputs, generator)
                with half or nullcontext():
                    outputs = network(inputs)
                loss = loss_of(outputs.float(), shuffled.targets[rows])
                rates.append(float(optimizer.param_groups[0]["lr"]))
                for parameter in parameters:  # as zero_grad does, without its hooks
                    parameter.grad = None
                loss.backward()
                if settings.clip_norm:
                    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                optimizer.step()
                if scheduler:
                    scheduler.step()
                if averaged:
                    averaged.update_parameters(network)
                found.append(loss.detach())
                if interrupted():
                    shown.interrupted()
                    break
            losses = torch.stack(found)  # read once an epoch: a GPU never waits
            wrong = (~losses.isfinite()).nonzero()
            if len(wrong):
                raise DivergedError("loss", number, int(wrong[0]) + 1, rates[int(wrong[0])])

            chosen: nn.Module = network
            if averaged:
                # Averaged weights need batch-norm statistics of their own. Undistorted rows give
                # those of the inputs that will be served.
                chosen = averaged.module
                update_bn(train.inputs[:STATISTICS_ROWS].split(EVALUATION_ROWS), chosen)
            validation_loss, metric = score(chosen, validation, classification)
            if not math.isfinite(validation_loss):
                raise DivergedError("validation loss", number, len(rates), rates[-1])
            epoch = Epoch(number, rates[0], float(losses.mean()), validation_loss, metric)
            history.epochs.append(epoch)
            shown.epoch(epoch, classification)
            if history.kept is None or (
                epoch.score(classification) > history.kept.score(classification)
            ):
                history.kept, kept_weights = epoch, copy.deepcopy(chosen.state_dict())
            history.interrupted = interrupted()
            if history.interrupted:
                shown.interrupted()
            stale = number - history.kept.epoch
            if history.interrupted or (settings.patience and stale >= settings.patience):
                break
        else:
            if settings.keep == "last":
                history.kept, kept_weights = epoch, chosen.state_dict()

    network.load_state_dict(kept_weights)
    network.eval()
    history.seconds = time.monotonic() - started
    return history


@torch.inference_mode()
def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """The network's outputs [N, …] for all inputs, in eval mode, in large batches."""
    network.eval()
    return torch.cat([network(part).float() for part in inputs.split(EVALUATION_ROWS)])


def score(network: nn.Module, split: Split, classification: bool) -> tuple[float, float]:
    """Loss, and accuracy or mean absolute error, of the network on a split."""
    outputs = predict(network, split.inputs)
    if classification:
        accuracy = (outputs.argmax(dim=1) == split.targets).float().mean()
        return float(cross_entropy(outputs, split.targets)), float(accuracy)
    error = outputs - split.targets
    return float(error.square().mean()), float(error.abs().mean())


def _optimizer(
    network: nn.Module, settings: Hyperparameters, device: torch.device
) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": parameters}
    ]  # each group costs a step a call of its own
    if settings.weight_decay:  # only then: every group costs a call in every step
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    fused = device.type in ("cpu", "cuda")  # one kernel for all parameters
    return kinds[settings.optimizer](groups, lr=settings.lr, fused=fused)


def _scheduler(
    optimizer: torch.optim.Optimizer, settings: Hyperparameters, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    schedules = torch.optim.lr_scheduler
    if settings.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, steps)
    if settings.schedule == "one-cycle":
        return schedules.OneCycleLR(
            optimizer,
            settings.lr,
            total_steps=max(steps, 6),  # with fewer there is no step to warm up in
            pct_start=0.2,
            final_div_factor=1e3,
            cycle_momentum=settings.optimizer != "sgd",
        )
    return None


def _averaged(network: nn.Module, settings: Hyperparameters, steps: int) -> AveragedModel | None:
    if not settings.averaging:
        return None
    # An average that reaches further back than the fit would keep the random first weights: they
    # must weigh no more than e^-5 at the end. A fit of ten thousand steps is not affected.
    decay = min(settings.averaging, max(0.0, 1 - 5 / steps))
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 count as zero on this CPU thread.

    What Adam remembers of a unit that fell silent decays to such numbers. They change no weight,
    but a processor is slow at them: an eighth of a fit's time.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that an epoch ends whole; the second one raises."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def press(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _Progress:
    """Nested bars on a terminal; elsewhere at most twenty plain lines; or nothing."""

    def __init__(self, epochs: int, wanted: bool) -> None:
        terminal = sys.stderr.isatty()
        self._epochs = epochs
        self._lines = wanted and not terminal
        self._bars = wanted and terminal
        self._said_interrupted = False
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
        """Say once what the Ctrl-C does that ended the epoch."""
        if not self._said_interrupted and (self._lines or self._bars):
            self._outer.write(INTERRUPTED, file=sys.stderr)
        self._said_interrupted = True

    def epoch(self, epoch: Epoch, classification: bool) -> None:
        name = "accuracy" if classification else "error"
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
