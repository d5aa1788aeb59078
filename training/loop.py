"""`train`: the training loop.

The data set is in the device's memory. A step is a slice, a forward pass, a backward pass
and an update.
"""

import copy
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.swa_utils import update_bn

from models.runtimes.devices import DeviceError, torch_devices
from training.augmentation import Augmentation
from training.datasets import IGNORED, Dataset, Split, Task
from training.history import Epoch, History
from training.hyperparameters import Hyperparameters
from training.optimization import Loss, default_loss
from training.progress import Progress
from training.snapshots import Snapshots
from training.state import TrainingState

EVALUATION_ROWS = 2_048
EVALUATION_NUMBERS = 2_097_152
"""The numbers of the inputs in one batch of an evaluation: 13 pictures of 224 x 224 pixels."""
STATISTICS_ROWS = 8_192


class DivergedError(RuntimeError):
    """A loss that is not finite. The message names epoch, batch and learning rate."""

    def __init__(self, loss: str, epoch: int, batch: int, lr: float) -> None:
        super().__init__(
            f"the {loss} is not finite in epoch {epoch}, batch {batch}, at learning rate {lr:g}: "
            "lower --lr, or set --clip-norm"
        )


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
    loss: Loss | None = None,
    augment: Augmentation | None = None,
    progress: bool = True,
    snapshots: Snapshots | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train `network` in place on the training split.

    The network keeps the weights of the epoch that `keep` names: the last, or the best on the
    validation split. After an early stop it keeps the best.

    The first Ctrl-C ends the epoch, prints a message and keeps the best weights so far. The second
    Ctrl-C raises KeyboardInterrupt.

    Args:
        network: takes the data's inputs; returns logits [N, classes] or [N, places, classes], or
            values [N, 1].
        data: the data set.
        hyperparameters: every hyperparameter of the loop.
        device: the device for the computation; network and data are moved there.
        loss: the loss. By default cross-entropy for a classification, the squared error for a
            regression.
        augment: a distortion of each batch of inputs.
        progress: whether to show nested progress bars on a terminal, or plain lines elsewhere.
        snapshots: writes the state from time to time and at Ctrl-C, and restores it.
        on_epoch: called after each epoch; an exception that it raises ends the training.

    Raises:
        DivergedError: a loss is not finite.
        SnapshotError: the snapshot to go on with cannot be read, or is of another run.
        OSError: a snapshot cannot be written.
    """
    network.to(device)
    rows, validation = data.train.to(device), data.validation.to(device)
    batch_size = min(hyperparameters.batch_size, len(rows))
    batches = len(rows) // batch_size
    loss_of = loss or default_loss(data.task, hyperparameters)
    state = TrainingState(network, hyperparameters, device, hyperparameters.epochs * batches)
    parameters = list(network.parameters())
    optimizer, scheduler, averaged = state.optimizer, state.scheduler, state.averaged
    autocast = (
        torch.autocast(device.type, torch.bfloat16) if hyperparameters.mixed_precision else None
    )
    if snapshots:
        snapshots.restore(state)
    is_complete = False

    def train_epoch(interrupted: Callable[[], bool], bars: Progress) -> bool:
        """Train until the epoch is complete, or interrupted; return whether it is complete."""
        network.train()
        order = state.shuffle(len(rows))
        shuffled = Split(rows.inputs[order], rows.targets[order])
        for batch in bars.batches(state.batches, batches):
            selected = slice(batch * batch_size, (batch + 1) * batch_size)
            inputs = shuffled.inputs[selected]
            if augment:
                inputs = augment(inputs, state.generator)
            with autocast or nullcontext():
                outputs = network(inputs)
            value = loss_of(outputs.float(), shuffled.targets[selected])
            state.rates.append(float(optimizer.param_groups[0]["lr"]))
            for parameter in parameters:  # same as zero_grad, without its hooks
                parameter.grad = None
            value.backward()
            if hyperparameters.clip_norm:
                nn.utils.clip_grad_norm_(parameters, hyperparameters.clip_norm)
            optimizer.step()
            if scheduler:
                scheduler.step()
            if averaged:
                averaged.update_parameters(network)
            state.losses.append(value.detach())
            state.batches += 1
            if snapshots:
                snapshots.save_if_due(state)
            if interrupted():
                bars.interrupted()
                if snapshots:
                    snapshots.save(state)
                break
        return state.batches == batches

    def complete_epoch() -> Epoch:
        """Validate, and keep the weights if they are the best so far."""
        number = len(state.history.epochs) + 1
        # One transfer per epoch, so that a GPU does not wait for the host in each step.
        losses = torch.stack(state.losses)
        diverged = (~losses.isfinite()).nonzero()
        if len(diverged):
            index = int(diverged[0])
            raise DivergedError("loss", number, index + 1, state.rates[index])
        if averaged:
            # Averaged weights need their own batch-norm statistics. These are computed on
            # undistorted rows, which are distributed like the inputs at inference.
            update_bn(evaluation_batches(rows.inputs[:STATISTICS_ROWS]), state.candidate)
        validation_loss, metric = validate(state.candidate, validation, data.task)
        if not math.isfinite(validation_loss):
            raise DivergedError("validation loss", number, len(state.rates), state.rates[-1])
        epoch = Epoch(number, state.rates[0], float(losses.mean()), validation_loss, metric)
        best = state.history.kept
        if best is None or epoch.score(data.task) > best.score(data.task):
            state.history.kept = epoch
            state.kept_weights = copy.deepcopy(state.candidate.state_dict())
        state.end_epoch(epoch)
        return epoch

    def is_finished(epoch: Epoch) -> bool:
        """Return whether this is the last epoch, whose weights are kept if the last ones are."""
        is_last = epoch.epoch == hyperparameters.epochs
        if is_last and hyperparameters.keep == "last":
            state.history.kept = epoch
            state.kept_weights = copy.deepcopy(state.candidate.state_dict())
        stale = epoch.epoch - state.history.kept.epoch if state.history.kept else 0
        return is_last or bool(hyperparameters.patience and stale >= hyperparameters.patience)

    with (
        _denormals_flushed(),
        _interruptible() as interrupted,
        Progress(hyperparameters.epochs, len(state.history.epochs), progress) as bars,
    ):
        while not state.finished:
            is_complete = train_epoch(interrupted, bars)
            epoch = complete_epoch()
            bars.epoch(epoch, data.task)
            if on_epoch:
                on_epoch(epoch)
            if is_complete:
                state.finished = is_finished(epoch)
            if interrupted():
                bars.interrupted()
                state.history.interrupted = True
                break
    if snapshots and is_complete:
        snapshots.save(state)
    state.history.seconds = state.seconds
    network.load_state_dict(state.kept_weights)
    network.eval()
    return state.history


@torch.inference_mode()
def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs [N, …] for all inputs, in eval mode, in batches."""
    network.eval()
    return torch.cat([network(batch).float() for batch in evaluation_batches(inputs)])


def evaluation_batches(inputs: Tensor) -> tuple[Tensor, ...]:
    """Divide inputs into batches of 2,048 rows, or fewer if the rows are large."""
    numbers = max(1, inputs[:1].numel())
    rows = min(EVALUATION_ROWS, max(1, EVALUATION_NUMBERS // numbers))
    batches: tuple[Tensor, ...] = inputs.split(rows)
    return batches


def validate(network: nn.Module, split: Split, task: Task) -> tuple[float, float]:
    """Return the loss and the metric of the network on a split.

    The metric is the mean absolute error of values, the accuracy of classes, or the share of
    sequences that are right at every place.
    """
    outputs, targets = predict(network, split.inputs), split.targets
    if task == "regression":
        return float(mse_loss(outputs, targets)), float((outputs - targets).abs().mean())
    right = outputs.argmax(dim=-1) == targets
    if targets.ndim > 1:
        right = (right | (targets == IGNORED)).all(dim=1)
        outputs, targets = outputs.flatten(0, 1), targets.flatten()
    return float(cross_entropy(outputs, targets)), float(right.float().mean())


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
    """Set a flag on the first Ctrl-C, so that the epoch is completed; raise on the second.

    An exception after the first Ctrl-C, with which the epoch is not completed, is raised as
    KeyboardInterrupt.
    """
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
    except Exception as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
