"""Tests of the training loop."""

import math
import os
import pty
import signal
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.runtimes.devices import DeviceError
from training.datasets import Dataset, Split
from training.history import Epoch, History
from training.hyperparameters import CnnHyperparameters, ColumnHyperparameters, MlpHyperparameters
from training.loop import DivergedError, pick_device, train, validate
from training.networks.feedforward import Pixels, convolutional, mlp

CPU = torch.device("cpu")
GENTLE = ColumnHyperparameters(epochs=4, batch_size=40, optimizer="adam", lr=0.01, keep="last")
BATCHES = 4  # of 40 rows each, in the moons' training split of 160 rows
IMAGES = MlpHyperparameters(epochs=3, batch_size=32, optimizer="adam", lr=1e-3)


def mlp_for(moons_or_curve: Dataset, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    columns = moons_or_curve.train.inputs.shape[1]
    return mlp(columns, (8,), moons_or_curve.outputs, "tanh")


def trained(
    data: Dataset,
    hyperparameters: ColumnHyperparameters = GENTLE,
    *,
    network: nn.Module | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    **values: Any,
) -> tuple[nn.Module, History]:
    """Train a small network with the GENTLE hyperparameters and some changed values."""
    network = network or mlp_for(data)
    hyperparameters = hyperparameters.override(values)
    history = train(network, data, hyperparameters, device=CPU, augment=augment, progress=False)
    return network, history


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


class Scripted(nn.Module):
    """A network that calls `act` with the number of each training batch, from 1."""

    def __init__(self, network: nn.Module, act: Callable[[int], object]) -> None:
        super().__init__()
        self.network = network
        self.act = act
        self.batch = 0

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102
        if self.training:
            self.batch += 1
            self.act(self.batch)
        return self.network(inputs)  # type: ignore[no-any-return]


def at_batch(number: int, act: Callable[[], object]) -> Callable[[int], object]:
    return lambda batch: act() if batch == number else None


# The result.


@pytest.mark.parametrize("name", ["moons", "curve"])
def test_the_loss_falls(name: str, request: pytest.FixtureRequest) -> None:
    _, history = trained(request.getfixturevalue(name), epochs=20, lr=0.05)
    assert history.epochs[-1].train_loss < 0.6 * history.epochs[0].train_loss
    assert history.epochs[-1].validation_loss < 0.6 * history.epochs[0].validation_loss


def test_weights_are_deterministic_by_seed(moons: Dataset) -> None:
    first, _ = trained(moons, seed=3)
    torch.rand(5)  # the state of the global generator has no effect
    second, _ = trained(moons, seed=3)
    other, _ = trained(moons, seed=4)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_the_history_has_losses_metric_and_learning_rate_of_every_epoch(moons: Dataset) -> None:
    network, history = trained(moons, epochs=5)
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3, 4, 5]
    assert [epoch.lr for epoch in history.epochs] == [0.01] * 5
    assert all(math.isfinite(epoch.train_loss) for epoch in history.epochs)
    last = history.epochs[-1]
    assert history.kept == last
    assert history.seconds > 0
    assert not history.interrupted
    logits = network(moons.validation.inputs).detach()
    right = (logits.argmax(dim=1) == moons.validation.targets).float().mean()
    assert last.metric == pytest.approx(float(right))
    loss = cross_entropy(logits, moons.validation.targets)
    assert last.validation_loss == pytest.approx(float(loss), rel=1e-5)


def test_regression_has_a_squared_loss_and_absolute_error_as_metric(curve: Dataset) -> None:
    network, history = trained(curve, epochs=1)
    error = network(curve.validation.inputs).detach() - curve.validation.targets
    assert history.epochs[0].validation_loss == pytest.approx(float((error**2).mean()), rel=1e-5)
    assert history.epochs[0].metric == pytest.approx(float(error.abs().mean()), rel=1e-5)


def test_the_training_loss_is_the_mean_over_the_epoch_s_batches(moons: Dataset) -> None:
    network = mlp_for(moons)
    # With a learning rate near 0, the loss of every batch is that of the initial weights.
    expected = cross_entropy(network(moons.train.inputs), moons.train.targets).item()
    _, history = trained(moons, network=network, epochs=1, optimizer="sgd", lr=1e-12)
    assert history.epochs[0].train_loss == pytest.approx(expected, rel=1e-5)


def test_score_compares_accuracy_then_loss_for_classes_and_loss_for_values() -> None:
    def epoch(loss: float, metric: float) -> Epoch:
        return Epoch(epoch=1, lr=1, train_loss=0, validation_loss=loss, metric=metric)

    assert epoch(0.9, 0.95).score("classification") > epoch(0.1, 0.94).score("classification")
    assert epoch(0.1, 0.95).score("classification") > epoch(0.2, 0.95).score("classification")
    assert epoch(0.1, 9.0).score("regression") > epoch(0.2, 0.1).score("regression")


def test_every_epoch_has_every_row_once_in_a_new_order(moons: Dataset) -> None:
    batches: list[Tensor] = []

    def record(inputs: Tensor, generator: torch.Generator) -> Tensor:
        batches.append(inputs.clone())
        return inputs

    trained(moons, augment=record, epochs=2)
    assert len(batches) == 2 * BATCHES
    first, second = torch.cat(batches[:BATCHES]), torch.cat(batches[BATCHES:])
    assert not torch.equal(first, second)
    for epoch in (first, second):
        order = epoch[:, 0].argsort()
        expected = moons.train.inputs[:, 0].argsort()
        assert torch.equal(epoch[order], moons.train.inputs[expected])


def test_a_batch_size_above_the_number_of_rows_gives_one_batch(few_digits: Dataset) -> None:
    seen: list[int] = []

    def record(inputs: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(len(inputs))
        return inputs

    network = nn.Sequential(Pixels(0.5, 0.5), nn.Flatten(), nn.Linear(784, 10))
    trained(few_digits, IMAGES, network=network, augment=record, batch_size=1_000)
    assert seen == [96, 96, 96]


@pytest.mark.parametrize("ema_decay", [0, 0.5])
def test_training_uses_train_mode_and_validation_uses_eval_mode(
    moons: Dataset, ema_decay: float
) -> None:
    modes: list[tuple[bool, int]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp_for(moons)

        def forward(self, inputs: Tensor) -> Tensor:
            modes.append((self.training, len(inputs)))
            return self.inner(inputs)  # type: ignore[no-any-return]

    network, _ = trained(moons, network=Watched(), epochs=2, ema_decay=ema_decay)
    assert modes == ([(True, 40)] * BATCHES + [(False, 40)]) * 2
    assert not any(module.training for module in network.modules())


class Forbidden(Split):
    """A split that raises on every access."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("the training accessed the test split")


def test_training_does_not_access_the_test_split(moons: Dataset) -> None:
    plain, _ = trained(moons, patience=2, keep="best", ema_decay=0.5)
    guarded, _ = trained(replace(moons, test=Forbidden()), patience=2, keep="best", ema_decay=0.5)
    assert torch.equal(weights(plain), weights(guarded))


def test_no_step_uses_a_validation_row(moons: Dataset) -> None:
    """Other validation targets select another epoch, but do not change the weights of an epoch."""
    inverted_targets = Split(moons.validation.inputs, 1 - moons.validation.targets)
    first, history = trained(moons, keep="last")
    second, other = trained(replace(moons, validation=inverted_targets), keep="last")
    assert torch.equal(weights(first), weights(second))
    assert history.epochs[-1].metric == pytest.approx(1 - other.epochs[-1].metric)


def test_augmentation_changes_training_inputs_and_not_validation_inputs(moons: Dataset) -> None:
    def zeros(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(inputs)

    def unchanged(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs.clone()

    plain, _ = trained(moons)
    same, _ = trained(moons, augment=unchanged)
    assert torch.equal(weights(plain), weights(same))
    _, blind = trained(moons, augment=zeros, epochs=20)
    # With zeros as inputs, the network learns the class frequencies: a loss of ln 2. Validation
    # has the real inputs.
    assert blind.epochs[-1].train_loss == pytest.approx(math.log(2), abs=0.02)
    assert blind.epochs[-1].validation_loss != pytest.approx(math.log(2), abs=1e-4)


# The options.


@pytest.mark.parametrize(
    "option",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"weight_decay": 0.5},
        {"lr_scheduler": "cosine"},
        {"lr_scheduler": "one-cycle"},
        {"clip_norm": 1e-3, "optimizer": "sgd", "lr": 0.1},
        {"ema_decay": 0.5},
        {"mixed_precision": True},
        {"lr": 0.02},
        {"batch_size": 10},
        {"epochs": 5},
    ],
    ids=lambda option: ", ".join(f"{name}={value}" for name, value in option.items()),
)
def test_every_hyperparameter_has_an_effect_and_is_deterministic(
    option: dict[str, Any], moons: Dataset
) -> None:
    first, history = trained(moons, **option)
    second, _ = trained(moons, **option)
    assert torch.equal(weights(first), weights(second))
    last = next(reversed(option))
    without = {name: value for name, value in option.items() if name != "weight_decay"}
    without.pop("clip_norm", None)
    if without == option:
        del without[last]
    assert not torch.equal(weights(first), weights(trained(moons, **without)[0]))
    assert all(math.isfinite(epoch.train_loss) for epoch in history.epochs)


def test_weight_decay_shrinks_weights_and_leaves_biases() -> None:
    """With a loss of 0 there is no other update: out = w2 tanh(w1 0 + b1) + b2 = 0."""
    network = mlp(1, (1,), 1, "tanh")
    first, last = network[0], network[2]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (3.0, 0.5, 2.0, 0.0), strict=True):
            parameter.fill_(value)
        last.bias.copy_(-2.0 * torch.tanh(torch.tensor([0.5])))
    biases = first.bias.item(), last.bias.item()
    nothing = Split(torch.zeros(4, 1), torch.zeros(4, 1))
    data = Dataset("curve", "", "regression", "columns", nothing, nothing, nothing)
    trained(
        data, network=network, epochs=1, batch_size=4, optimizer="sgd", lr=0.1, weight_decay=0.5
    )
    assert first.weight.item() == pytest.approx(3.0 * 0.95)
    assert last.weight.item() == pytest.approx(2.0 * 0.95)
    assert (first.bias.item(), last.bias.item()) == pytest.approx(biases, abs=1e-6)


def test_the_cosine_scheduler_follows_a_cosine(moons: Dataset) -> None:
    _, history = trained(moons, lr_scheduler="cosine", epochs=8, lr=0.4)
    expected = [0.2 * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(8)]
    assert [epoch.lr for epoch in history.epochs] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_one_cycle_scheduler_rises_to_its_peak_and_falls_to_almost_0(
    moons: Dataset, optimizer: str
) -> None:
    _, history = trained(moons, lr_scheduler="one-cycle", epochs=40, lr=0.1, optimizer=optimizer)
    rates = [epoch.lr for epoch in history.epochs]
    peak = rates.index(max(rates))
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    assert 6 <= peak <= 9  # a fifth of the steps
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("lr_scheduler", ["one-cycle", "cosine"])
@pytest.mark.parametrize("steps", range(1, 9))
def test_every_scheduler_works_with_few_steps(
    moons: Dataset, lr_scheduler: str, steps: int
) -> None:
    _, history = trained(moons, lr_scheduler=lr_scheduler, epochs=steps, batch_size=160)
    assert len(history.epochs) == steps


def test_clipping_bounds_the_step_of_plain_gradient_descent(moons: Dataset) -> None:
    def length_of_first_step(**values: Any) -> float:
        network = mlp_for(moons)
        before = weights(network)
        trained(moons, network=network, epochs=1, batch_size=160, optimizer="sgd", lr=1, **values)
        return float((weights(network) - before).norm())

    assert length_of_first_step(clip_norm=0.01) == pytest.approx(0.01, rel=1e-2)
    free = length_of_first_step()
    assert free > 0.02
    assert length_of_first_step(clip_norm=100) == pytest.approx(free, rel=1e-5)


def test_ema_decay_keeps_the_moving_average_of_the_weights(moons: Dataset) -> None:
    def after(epochs: int, **values: Any) -> Tensor:
        return weights(trained(moons, epochs=epochs, batch_size=160, **values)[0])

    average = after(1)
    for epoch in range(2, 11):
        average = 0.5 * average + 0.5 * after(epoch)
    steps = after(10, ema_decay=0.5)
    torch.testing.assert_close(steps, average, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(steps, after(10), atol=1e-4)


def test_a_short_run_with_a_slow_ema_decay_does_not_keep_the_initial_weights(
    moons: Dataset,
) -> None:
    _, plain = trained(moons, epochs=30, lr=0.05)
    _, averaged = trained(moons, epochs=30, lr=0.05, ema_decay=0.9999)
    first = plain.epochs[0].validation_loss
    assert averaged.epochs[-1].validation_loss < 0.15 * first


def test_the_batch_norm_statistics_of_averaged_weights_are_those_of_undistorted_rows(
    few_digits: Dataset,
) -> None:
    def inverted(images: Tensor, generator: torch.Generator) -> Tensor:
        return 255 - images.float()

    torch.manual_seed(0)
    network = nn.Sequential(Pixels(0.5, 0.5), *convolutional((4, 4, 4), 0.0))
    hyperparameters = CnnHyperparameters(
        epochs=2, batch_size=32, optimizer="adam", lr=1e-3, ema_decay=0.5, keep="last"
    )
    train(network, few_digits, hyperparameters, device=CPU, augment=inverted, progress=False)
    pixels, convolution, norm = network[:3]
    with torch.inference_mode():
        planes = convolution(pixels(few_digits.train.inputs))
        distorted = convolution(pixels(255 - few_digits.train.inputs.float()))
    torch.testing.assert_close(norm.running_mean, planes.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, planes.var(dim=(0, 2, 3)), atol=1e-4, rtol=1e-2)
    assert not torch.allclose(norm.running_mean, distorted.mean(dim=(0, 2, 3)), atol=0.05)


def test_mixed_precision_computes_only_training_batches_in_bfloat16(
    moons: Dataset,
) -> None:
    dtypes: list[tuple[bool, torch.dtype]] = []
    network = mlp_for(moons)
    network.register_forward_hook(
        lambda module, inputs, output: dtypes.append((module.training, output.dtype))
    )
    _, history = trained(moons, network=network, mixed_precision=True, epochs=20, lr=0.05)
    assert set(dtypes) == {(True, torch.bfloat16), (False, torch.float32)}
    assert weights(network).dtype == torch.float32
    assert history.epochs[-1].train_loss < 0.6 * history.epochs[0].train_loss


def test_label_smoothing_changes_only_the_training_loss(
    few_digits: Dataset,
) -> None:
    network = nn.Sequential(Pixels(0.5, 0.5), nn.Flatten(), nn.Linear(784, 10))
    logits = network(few_digits.train.inputs)
    smooth = cross_entropy(logits, few_digits.train.targets, label_smoothing=0.5)
    plain = cross_entropy(
        network(few_digits.validation.inputs), few_digits.validation.targets
    ).item()
    _, history = trained(
        few_digits, IMAGES, network=network, epochs=1, batch_size=96, optimizer="sgd", lr=1e-12,
        label_smoothing=0.5,
    )  # fmt: skip
    assert history.epochs[0].train_loss == pytest.approx(smooth.item(), rel=1e-5)
    assert history.epochs[0].validation_loss == pytest.approx(plain, rel=1e-5)


# The kept weights.


def spoiled_after(epochs: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Negate the inputs after some epochs, so that validation gets worse."""
    calls = 0

    def spoil(inputs: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        return inputs if calls <= epochs * BATCHES else -inputs

    return spoil


def test_patience_stops_early_and_restores_the_best_weights(moons: Dataset) -> None:
    network, history = trained(
        moons, epochs=60, patience=4, lr=0.05, keep="best", augment=spoiled_after(6)
    )
    assert history.kept is not None
    assert len(history.epochs) == history.kept.epoch + 4 < 60
    assert history.kept == max(history.epochs, key=lambda epoch: epoch.score("classification"))
    kept_scores = (history.kept.validation_loss, history.kept.metric)
    assert validate(network, moons.validation, "classification") == kept_scores
    assert history.epochs[-1].validation_loss > 1.2 * kept_scores[0]
    assert not history.interrupted


def test_an_early_stop_keeps_the_best_weights_even_with_keep_last(
    moons: Dataset,
) -> None:
    network, history = trained(
        moons, epochs=60, patience=4, lr=0.05, keep="last", augment=spoiled_after(6)
    )
    assert history.kept is not None
    assert history.kept.epoch == len(history.epochs) - 4
    assert validate(network, moons.validation, "classification")[0] == history.kept.validation_loss


@pytest.mark.parametrize("ema_decay", [0, 0.5])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_keep_selects_the_kept_weights(moons: Dataset, keep: str, ema_decay: float) -> None:
    network, history = trained(
        moons, epochs=12, lr=0.05, keep=keep, ema_decay=ema_decay, augment=spoiled_after(6)
    )
    best = max(history.epochs, key=lambda epoch: epoch.score("classification"))
    assert best != history.epochs[-1]  # otherwise the test cannot distinguish them
    assert history.kept == (best if keep == "best" else history.epochs[-1])
    kept_scores = (history.kept.validation_loss, history.kept.metric)
    assert validate(network, moons.validation, "classification") == kept_scores
    assert len(history.epochs) == 12


# Ctrl-C.


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_the_epoch_after_its_batch_and_keeps_the_best_weights(moons: Dataset) -> None:
    network = Scripted(mlp_for(moons), at_batch(5 * BATCHES + 2, press))
    _, history = trained(moons, network=network, epochs=50, lr=0.05, augment=spoiled_after(3))
    assert history.interrupted
    assert network.batch == 5 * BATCHES + 2  # no further batch
    assert len(history.epochs) == 6
    assert history.kept == max(history.epochs, key=lambda epoch: epoch.score("classification"))
    assert history.kept != history.epochs[-1]
    assert validate(network, moons.validation, "classification")[0] == history.kept.validation_loss
    assert all(math.isfinite(epoch.train_loss) for epoch in history.epochs)


def test_ctrl_c_in_the_first_batch_keeps_its_weights(moons: Dataset) -> None:
    network = Scripted(mlp_for(moons), at_batch(1, press))
    _, history = trained(moons, network=network)
    assert history.interrupted
    assert history.kept == history.epochs[0]
    assert network.batch == 1
    assert len(history.epochs) == 1


def test_a_second_ctrl_c_stops_at_once(moons: Dataset) -> None:
    def twice() -> None:
        press()
        press()

    network = Scripted(mlp_for(moons), at_batch(3, twice))
    with pytest.raises(KeyboardInterrupt):
        trained(moons, network=network)
    assert network.batch == 3


def test_an_external_ctrl_c_ends_a_long_run(moons: Dataset) -> None:
    started = threading.Event()
    network = Scripted(mlp_for(moons), lambda batch: started.set())

    def kill() -> None:
        started.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=kill)
    killer.start()
    _, history = trained(moons, network=network, epochs=10_000_000)
    killer.join()
    assert history.interrupted


def marked(number: int, frame: object) -> None:
    """A handler that the test can recognise."""


@pytest.mark.parametrize("end", ["finished", "interrupted", "aborted", "diverged"])
def test_the_previous_sigint_handler_is_restored(moons: Dataset, end: str) -> None:
    def act() -> None:
        for _ in range({"interrupted": 1, "aborted": 2}.get(end, 0)):
            press()

    network = Scripted(mlp_for(moons), at_batch(2, act))
    before = signal.signal(signal.SIGINT, marked)
    ends = {"aborted": pytest.raises(KeyboardInterrupt), "diverged": pytest.raises(DivergedError)}
    try:
        with ends.get(end, nullcontext()):
            trained(moons, network=network, **({"lr": 1e38} if end == "diverged" else {}))
    finally:
        after = signal.signal(signal.SIGINT, before)
    assert after is marked


@pytest.mark.parametrize("end", ["finished", "diverged"])
def test_denormal_numbers_are_restored_after_training(moons: Dataset, end: str) -> None:
    """Training flushes denormal numbers, and restores the default afterwards."""

    def tenth_of_the_smallest_normal_number() -> float:
        return float(torch.tensor([1e-38]) / 10)

    during: list[float] = []
    network = Scripted(
        mlp_for(moons), lambda _: during.append(tenth_of_the_smallest_normal_number())
    )
    with pytest.raises(DivergedError) if end == "diverged" else nullcontext():
        trained(moons, network=network, **({"lr": 1e38} if end == "diverged" else {}))
    assert tenth_of_the_smallest_normal_number() > 0
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert set(during) == {0.0}


def test_training_runs_in_a_thread_that_cannot_handle_signals(moons: Dataset) -> None:
    results: list[tuple[nn.Module, History]] = []
    thread = threading.Thread(target=lambda: results.append(trained(moons)))
    thread.start()
    thread.join()
    assert torch.equal(weights(results[0][0]), weights(trained(moons)[0]))


# A loss that is not finite.


class Breaks(nn.Module):
    """A network that returns NaN in one training batch."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network = network
        self.left = batch

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102
        outputs: Tensor = self.network(inputs)
        self.left -= self.training
        return outputs * math.nan if self.training and not self.left else outputs


def test_a_loss_that_is_not_finite_names_epoch_batch_and_learning_rate(moons: Dataset) -> None:
    network = Breaks(mlp_for(moons), 2 * BATCHES + 3)
    with pytest.raises(DivergedError, match=r"epoch 3, batch 3, at learning rate 0\.01:"):
        trained(moons, network=network)


def test_the_error_has_the_learning_rate_of_the_batch(moons: Dataset) -> None:
    network = Breaks(mlp_for(moons), 3)
    # After two of eight steps the factor is (1 + cos 45°) / 2.
    rate = f"{0.5 * (1 + math.cos(math.pi / 4)):g}"
    with pytest.raises(DivergedError, match=f"epoch 1, batch 3, at learning rate {rate}:"):
        trained(moons, network=network, lr_scheduler="cosine", epochs=2, lr=1)


def test_weights_that_diverge_in_the_last_step_are_not_kept(curve: Dataset) -> None:
    """The only training loss is finite, but the weights after its step are not."""
    with pytest.raises(DivergedError, match="epoch 1, batch 1, at learning rate"):
        trained(curve, epochs=1, batch_size=240, optimizer="sgd", lr=1e38)


def test_the_error_for_a_high_learning_rate_names_the_option(curve: Dataset) -> None:
    with pytest.raises(DivergedError, match="--lr"):
        trained(curve, epochs=20, optimizer="sgd", lr=1e10)


# Progress.


def lines_of_a_run(moons: Dataset, capsys: pytest.CaptureFixture[str], **values: Any) -> list[str]:
    hyperparameters = GENTLE.override({"batch_size": 160} | values)
    train(mlp_for(moons), moons, hyperparameters, device=CPU, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize("epochs", [1, 7, 20, 21, 30, 39, 41, 150])
def test_without_a_terminal_there_are_at_most_20_plain_lines(
    moons: Dataset, capsys: pytest.CaptureFixture[str], epochs: int
) -> None:
    lines = lines_of_a_run(moons, capsys, epochs=epochs)
    assert min(epochs, 10) <= len(lines) <= 20
    assert lines[-1].startswith(f"epoch {epochs}/{epochs}: ")
    for line in lines:
        assert "\r" not in line
        assert "\x1b" not in line
        for word in ("lr ", " loss ", "validation loss ", "accuracy "):
            assert word in line


def test_without_progress_nothing_is_shown(
    moons: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(moons)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> str:
    """Return the output of `act` on standard error, with a terminal as standard error."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 160))
    output: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 65_536)
            except OSError:  # on Linux, the other end is closed
                return
            if not piece:
                return
            output.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:  # noqa: PTH123 - a descriptor
        patch.setattr(sys, "stderr", terminal)
        act()
    reader.join(20)
    os.close(master)
    return b"".join(output).decode()


def test_a_terminal_has_nested_bars_of_epochs_and_batches(
    moons: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperparameters = GENTLE.override({"epochs": 7, "batch_size": 10})
    text = on_a_terminal(
        monkeypatch, lambda: train(mlp_for(moons), moons, hyperparameters, device=CPU)
    )
    last = text.replace("\r", "\n").strip().splitlines()[-1]
    assert "7/7" in last
    assert "epoch" in last
    assert "validation loss" in last
    assert "accuracy" in last
    assert "/16 " in text  # 160 rows in batches of 10
    assert "batch" in text
    assert "\x1b[A" in text  # the inner bar is drawn below the outer bar, and the cursor moves back
    assert "epoch 7/7: " not in text  # no plain line between the bars


def test_without_progress_nothing_is_shown_on_a_terminal(
    moons: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_a_terminal(monkeypatch, lambda: trained(moons)) == ""


# Devices.


def test_the_default_device_is_cuda_if_available() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99", "cpu:x", ""])
def test_the_error_for_an_unknown_device_lists_the_available_devices(name: str) -> None:
    with pytest.raises(DeviceError, match=f"{name!r}.* there is cpu"):
        pick_device(name)
