"""What the one training loop promises, each promise a test that can fail."""

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

from training.datasets import Dataset, Split
from training.hyperparameters import CnnHyperparameters, ColumnHyperparameters, MlpHyperparameters
from training.loop import DeviceError, DivergedError, Epoch, History, fit, pick_device, score
from training.networks import Pixels, convolutional, perceptron

CPU = torch.device("cpu")
GENTLE = ColumnHyperparameters(epochs=4, batch_size=40, optimizer="adam", lr=0.01, keep="last")
BATCHES = 4  # of 40 rows in the moons' training split of 160
IMAGES = MlpHyperparameters(epochs=3, batch_size=32, optimizer="adam", lr=1e-3)


def perceptron_for(moons_or_curve: Dataset, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    columns = moons_or_curve.train.inputs.shape[1]
    return perceptron(columns, (8,), len(moons_or_curve.labels) or 1, "tanh")


def fitted(
    data: Dataset,
    settings: ColumnHyperparameters = GENTLE,
    *,
    network: nn.Module | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    **values: Any,
) -> tuple[nn.Module, History]:
    """A small network fitted with GENTLE settings, some of them changed."""
    network = network or perceptron_for(data)
    settings = settings.override(values)
    history = fit(network, data, settings, device=CPU, augment=augment, progress=False)
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


# What a fit comes to.


@pytest.mark.parametrize("name", ["moons", "curve"])
def test_the_loss_falls(name: str, request: pytest.FixtureRequest) -> None:
    _, history = fitted(request.getfixturevalue(name), epochs=20, lr=0.05)
    assert history.epochs[-1].train_loss < 0.6 * history.epochs[0].train_loss
    assert history.epochs[-1].validation_loss < 0.6 * history.epochs[0].validation_loss


def test_one_seed_gives_identical_weights_and_another_seed_gives_others(moons: Dataset) -> None:
    first, _ = fitted(moons, seed=3)
    torch.rand(5)  # what else draws from the global generator does not matter
    second, _ = fitted(moons, seed=3)
    other, _ = fitted(moons, seed=4)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_the_history_has_losses_metric_and_learning_rate_of_every_epoch(moons: Dataset) -> None:
    network, history = fitted(moons, epochs=5)
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


def test_for_values_the_loss_is_squared_and_the_metric_absolute_error(curve: Dataset) -> None:
    network, history = fitted(curve, epochs=1)
    error = network(curve.validation.inputs).detach() - curve.validation.targets
    assert history.epochs[0].validation_loss == pytest.approx(float((error**2).mean()), rel=1e-5)
    assert history.epochs[0].metric == pytest.approx(float(error.abs().mean()), rel=1e-5)


def test_the_training_loss_is_the_mean_over_the_epoch_s_batches(moons: Dataset) -> None:
    network = perceptron_for(moons)
    # With a learning rate of next to nothing the loss is that of the first weights, batch by batch.
    wanted = cross_entropy(network(moons.train.inputs), moons.train.targets).item()
    _, history = fitted(moons, network=network, epochs=1, optimizer="sgd", lr=1e-12)
    assert history.epochs[0].train_loss == pytest.approx(wanted, rel=1e-5)


def test_better_is_higher_accuracy_and_then_lower_loss_for_classes_and_lower_loss_for_values() -> (
    None
):
    def epoch(loss: float, metric: float) -> Epoch:
        return Epoch(epoch=1, lr=1, train_loss=0, validation_loss=loss, metric=metric)

    assert epoch(0.9, 0.95).score(True) > epoch(0.1, 0.94).score(True)
    assert epoch(0.1, 0.95).score(True) > epoch(0.2, 0.95).score(True)
    assert epoch(0.1, 9.0).score(False) > epoch(0.2, 0.1).score(False)


def test_every_row_is_seen_once_in_every_epoch_and_in_another_order(moons: Dataset) -> None:
    seen: list[Tensor] = []

    def look(inputs: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(inputs.clone())
        return inputs

    fitted(moons, augment=look, epochs=2)
    assert len(seen) == 2 * BATCHES
    first, second = torch.cat(seen[:BATCHES]), torch.cat(seen[BATCHES:])
    assert not torch.equal(first, second)
    for epoch in (first, second):
        order = epoch[:, 0].argsort()
        wanted = moons.train.inputs[:, 0].argsort()
        assert torch.equal(epoch[order], moons.train.inputs[wanted])


def test_a_batch_larger_than_the_data_is_all_of_the_data(few_digits: Dataset) -> None:
    seen: list[int] = []

    def look(inputs: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(len(inputs))
        return inputs

    network = nn.Sequential(Pixels(0.5, 0.5), nn.Flatten(), nn.Linear(784, 10))
    fitted(few_digits, IMAGES, network=network, augment=look, batch_size=1_000)
    assert seen == [96, 96, 96]


@pytest.mark.parametrize("averaging", [0, 0.5])
def test_batches_are_fitted_in_train_mode_and_measured_in_eval_mode(
    moons: Dataset, averaging: float
) -> None:
    modes: list[tuple[bool, int]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = perceptron_for(moons)

        def forward(self, inputs: Tensor) -> Tensor:
            modes.append((self.training, len(inputs)))
            return self.inner(inputs)  # type: ignore[no-any-return]

    network, _ = fitted(moons, network=Watched(), epochs=2, averaging=averaging)
    assert modes == ([(True, 40)] * BATCHES + [(False, 40)]) * 2
    assert not any(module.training for module in network.modules())


class Forbidden(Split):
    """A split that fails when it is touched."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("the fit touched the test split")


def test_a_fit_never_touches_the_test_split(moons: Dataset) -> None:
    plain, _ = fitted(moons, patience=2, keep="best", averaging=0.5)
    guarded, _ = fitted(replace(moons, test=Forbidden()), patience=2, keep="best", averaging=0.5)
    assert torch.equal(weights(plain), weights(guarded))


def test_no_step_is_fitted_on_a_validation_row(moons: Dataset) -> None:
    """Other validation targets choose other weights, but the weights of each epoch are the same."""
    upside_down = Split(moons.validation.inputs, 1 - moons.validation.targets)
    first, history = fitted(moons, keep="last")
    second, other = fitted(replace(moons, validation=upside_down), keep="last")
    assert torch.equal(weights(first), weights(second))
    assert history.epochs[-1].metric == pytest.approx(1 - other.epochs[-1].metric)


def test_augmentation_changes_what_is_fitted_on_and_never_what_is_measured(moons: Dataset) -> None:
    def lost(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(inputs)

    def unchanged(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs.clone()

    plain, _ = fitted(moons)
    same, _ = fitted(moons, augment=unchanged)
    assert torch.equal(weights(plain), weights(same))
    _, blind = fitted(moons, augment=lost, epochs=20)
    # From nothing a network learns the shares of the classes: ln 2. Yet it still sees validation.
    assert blind.epochs[-1].train_loss == pytest.approx(math.log(2), abs=0.02)
    assert blind.epochs[-1].validation_loss != pytest.approx(math.log(2), abs=1e-4)


# The options.


@pytest.mark.parametrize(
    "option",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"weight_decay": 0.5},
        {"schedule": "cosine"},
        {"schedule": "one-cycle"},
        {"clip_norm": 1e-3, "optimizer": "sgd", "lr": 0.1},
        {"averaging": 0.5},
        {"mixed_precision": True},
        {"lr": 0.02},
        {"batch_size": 10},
        {"epochs": 5},
    ],
    ids=lambda option: ", ".join(f"{name}={value}" for name, value in option.items()),
)
def test_every_option_has_an_effect_and_still_gives_the_same_weights_twice(
    option: dict[str, Any], moons: Dataset
) -> None:
    first, history = fitted(moons, **option)
    second, _ = fitted(moons, **option)
    assert torch.equal(weights(first), weights(second))
    last = next(reversed(option))
    without = {name: value for name, value in option.items() if name != "weight_decay"}
    without.pop("clip_norm", None)
    if without == option:
        del without[last]
    assert not torch.equal(weights(first), weights(fitted(moons, **without)[0]))
    assert all(math.isfinite(epoch.train_loss) for epoch in history.epochs)


def test_weight_decay_shrinks_weights_and_leaves_biases() -> None:
    """At a perfect fit nothing else moves: out = w2 tanh(w1 0 + b1) + b2 = 0."""
    network = perceptron(1, (1,), 1, "tanh")
    first, last = network[0], network[2]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (3.0, 0.5, 2.0, 0.0), strict=True):
            parameter.fill_(value)
        last.bias.copy_(-2.0 * torch.tanh(torch.tensor([0.5])))
    biases = first.bias.item(), last.bias.item()
    nothing = Split(torch.zeros(4, 1), torch.zeros(4, 1))
    data = Dataset("curve", "", nothing, nothing, nothing)
    fitted(data, network=network, epochs=1, batch_size=4, optimizer="sgd", lr=0.1, weight_decay=0.5)
    assert first.weight.item() == pytest.approx(3.0 * 0.95)
    assert last.weight.item() == pytest.approx(2.0 * 0.95)
    assert (first.bias.item(), last.bias.item()) == pytest.approx(biases, abs=1e-6)


def test_the_cosine_schedule_falls_along_a_cosine(moons: Dataset) -> None:
    _, history = fitted(moons, schedule="cosine", epochs=8, lr=0.4)
    wanted = [0.2 * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(8)]
    assert [epoch.lr for epoch in history.epochs] == pytest.approx(wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_one_cycle_schedule_rises_to_its_peak_and_falls_to_next_to_nothing(
    moons: Dataset, optimizer: str
) -> None:
    _, history = fitted(moons, schedule="one-cycle", epochs=40, lr=0.1, optimizer=optimizer)
    rates = [epoch.lr for epoch in history.epochs]
    peak = rates.index(max(rates))
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    assert 6 <= peak <= 9  # a fifth of the way
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("steps", range(1, 9))
def test_every_schedule_goes_with_a_fit_of_few_steps(
    moons: Dataset, schedule: str, steps: int
) -> None:
    _, history = fitted(moons, schedule=schedule, epochs=steps, batch_size=160)
    assert len(history.epochs) == steps


def test_clipping_bounds_the_step_of_plain_gradient_descent(moons: Dataset) -> None:
    def length_of_first_step(**values: Any) -> float:
        network = perceptron_for(moons)
        before = weights(network)
        fitted(moons, network=network, epochs=1, batch_size=160, optimizer="sgd", lr=1, **values)
        return float((weights(network) - before).norm())

    assert length_of_first_step(clip_norm=0.01) == pytest.approx(0.01, rel=1e-2)
    free = length_of_first_step()
    assert free > 0.02
    assert length_of_first_step(clip_norm=100) == pytest.approx(free, rel=1e-5)


def test_averaging_keeps_the_moving_average_of_the_weights(moons: Dataset) -> None:
    def after(epochs: int, **values: Any) -> Tensor:
        return weights(fitted(moons, epochs=epochs, batch_size=160, **values)[0])

    average = after(1)
    for epoch in range(2, 11):
        average = 0.5 * average + 0.5 * after(epoch)
    kept = after(10, averaging=0.5)
    torch.testing.assert_close(kept, average, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(kept, after(10), atol=1e-4)


def test_a_short_fit_with_a_long_average_does_not_keep_the_first_random_weights(
    moons: Dataset,
) -> None:
    _, plain = fitted(moons, epochs=30, lr=0.05)
    _, averaged = fitted(moons, epochs=30, lr=0.05, averaging=0.9999)
    first = plain.epochs[0].validation_loss
    assert averaged.epochs[-1].validation_loss < 0.15 * first


def test_the_batch_norm_statistics_of_averaged_weights_are_those_of_undistorted_rows(
    few_digits: Dataset,
) -> None:
    def inverted(images: Tensor, generator: torch.Generator) -> Tensor:
        return 255 - images.float()

    torch.manual_seed(0)
    network = nn.Sequential(Pixels(0.5, 0.5), *convolutional((4, 4, 4), 0.0))
    settings = CnnHyperparameters(
        epochs=2, batch_size=32, optimizer="adam", lr=1e-3, averaging=0.5, keep="last"
    )
    fit(network, few_digits, settings, device=CPU, augment=inverted, progress=False)
    pixels, convolution, norm = network[:3]
    with torch.inference_mode():
        planes = convolution(pixels(few_digits.train.inputs))
        distorted = convolution(pixels(255 - few_digits.train.inputs.float()))
    torch.testing.assert_close(norm.running_mean, planes.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, planes.var(dim=(0, 2, 3)), atol=1e-4, rtol=1e-2)
    assert not torch.allclose(norm.running_mean, distorted.mean(dim=(0, 2, 3)), atol=0.05)


def test_mixed_precision_computes_batches_in_bfloat16_and_all_else_in_float32(
    moons: Dataset,
) -> None:
    dtypes: list[tuple[bool, torch.dtype]] = []
    network = perceptron_for(moons)
    network.register_forward_hook(
        lambda module, inputs, output: dtypes.append((module.training, output.dtype))
    )
    _, history = fitted(moons, network=network, mixed_precision=True, epochs=20, lr=0.05)
    assert set(dtypes) == {(True, torch.bfloat16), (False, torch.float32)}
    assert weights(network).dtype == torch.float32
    assert history.epochs[-1].train_loss < 0.6 * history.epochs[0].train_loss


def test_label_smoothing_is_in_the_training_loss_and_not_in_the_validation_loss(
    few_digits: Dataset,
) -> None:
    network = nn.Sequential(Pixels(0.5, 0.5), nn.Flatten(), nn.Linear(784, 10))
    logits = network(few_digits.train.inputs)
    smooth = cross_entropy(logits, few_digits.train.targets, label_smoothing=0.5)
    plain = cross_entropy(
        network(few_digits.validation.inputs), few_digits.validation.targets
    ).item()
    _, history = fitted(
        few_digits, IMAGES, network=network, epochs=1, batch_size=96, optimizer="sgd", lr=1e-12,
        label_smoothing=0.5,
    )  # fmt: skip
    assert history.epochs[0].train_loss == pytest.approx(smooth.item(), rel=1e-5)
    assert history.epochs[0].validation_loss == pytest.approx(plain, rel=1e-5)


# Which weights are kept.


def spoiled_after(epochs: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Show the moons upside down from some epoch on: validation gets worse."""
    calls = 0

    def spoil(inputs: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        return inputs if calls <= epochs * BATCHES else -inputs

    return spoil


def test_patience_stops_early_and_restores_the_best_weights(moons: Dataset) -> None:
    network, history = fitted(
        moons, epochs=60, patience=4, lr=0.05, keep="best", augment=spoiled_after(6)
    )
    assert history.kept is not None
    assert len(history.epochs) == history.kept.epoch + 4 < 60
    assert history.kept == max(history.epochs, key=lambda epoch: epoch.score(True))
    kept = (history.kept.validation_loss, history.kept.metric)
    assert score(network, moons.validation, True) == kept
    assert history.epochs[-1].validation_loss > 1.2 * kept[0]
    assert not history.interrupted


def test_a_fit_that_stopped_early_keeps_the_best_even_where_the_last_was_asked_for(
    moons: Dataset,
) -> None:
    network, history = fitted(
        moons, epochs=60, patience=4, lr=0.05, keep="last", augment=spoiled_after(6)
    )
    assert history.kept is not None
    assert history.kept.epoch == len(history.epochs) - 4
    assert score(network, moons.validation, True)[0] == history.kept.validation_loss


@pytest.mark.parametrize("averaging", [0, 0.5])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_that_are_kept_are_those_that_keep_names(
    moons: Dataset, keep: str, averaging: float
) -> None:
    network, history = fitted(
        moons, epochs=12, lr=0.05, keep=keep, averaging=averaging, augment=spoiled_after(6)
    )
    best = max(history.epochs, key=lambda epoch: epoch.score(True))
    assert best != history.epochs[-1]  # else this test could not tell them apart
    assert history.kept == (best if keep == "best" else history.epochs[-1])
    kept = (history.kept.validation_loss, history.kept.metric)
    assert score(network, moons.validation, True) == kept
    assert len(history.epochs) == 12


# Ctrl-C.


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_the_epoch_after_its_batch_and_keeps_the_best_weights(moons: Dataset) -> None:
    network = Scripted(perceptron_for(moons), at_batch(5 * BATCHES + 2, press))
    _, history = fitted(moons, network=network, epochs=50, lr=0.05, augment=spoiled_after(3))
    assert history.interrupted
    assert network.batch == 5 * BATCHES + 2  # no further batch
    assert len(history.epochs) == 6
    assert history.kept == max(history.epochs, key=lambda epoch: epoch.score(True))
    assert history.kept != history.epochs[-1]
    assert score(network, moons.validation, True)[0] == history.kept.validation_loss
    assert all(math.isfinite(epoch.train_loss) for epoch in history.epochs)


def test_ctrl_c_in_the_very_first_batch_keeps_what_there_is(moons: Dataset) -> None:
    network = Scripted(perceptron_for(moons), at_batch(1, press))
    _, history = fitted(moons, network=network)
    assert history.interrupted
    assert history.kept == history.epochs[0]
    assert network.batch == 1
    assert len(history.epochs) == 1


def test_a_second_ctrl_c_stops_at_once(moons: Dataset) -> None:
    def twice() -> None:
        press()
        press()

    network = Scripted(perceptron_for(moons), at_batch(3, twice))
    with pytest.raises(KeyboardInterrupt):
        fitted(moons, network=network)
    assert network.batch == 3


def test_a_ctrl_c_from_outside_ends_a_fit_that_would_take_forever(moons: Dataset) -> None:
    started = threading.Event()
    network = Scripted(perceptron_for(moons), lambda batch: started.set())

    def kill() -> None:
        started.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=kill)
    killer.start()
    _, history = fitted(moons, network=network, epochs=10_000_000)
    killer.join()
    assert history.interrupted


def marked(number: int, frame: object) -> None:
    """A handler of our own, to be found again."""


@pytest.mark.parametrize("end", ["finished", "interrupted", "aborted", "diverged"])
def test_the_former_handler_of_ctrl_c_is_back_however_a_fit_ends(moons: Dataset, end: str) -> None:
    def act() -> None:
        for _ in range({"interrupted": 1, "aborted": 2}.get(end, 0)):
            press()

    network = Scripted(perceptron_for(moons), at_batch(2, act))
    before = signal.signal(signal.SIGINT, marked)
    ends = {"aborted": pytest.raises(KeyboardInterrupt), "diverged": pytest.raises(DivergedError)}
    try:
        with ends.get(end, nullcontext()):
            fitted(moons, network=network, **({"lr": 1e38} if end == "diverged" else {}))
    finally:
        after = signal.signal(signal.SIGINT, before)
    assert after is marked


@pytest.mark.parametrize("end", ["finished", "diverged"])
def test_after_a_fit_the_smallest_numbers_count_again(moons: Dataset, end: str) -> None:
    """A fit is faster without them, and leaves them to everybody else."""

    def tenth_of_the_smallest_normal_number() -> float:
        return float(torch.tensor([1e-38]) / 10)

    during: list[float] = []
    network = Scripted(
        perceptron_for(moons), lambda _: during.append(tenth_of_the_smallest_normal_number())
    )
    with pytest.raises(DivergedError) if end == "diverged" else nullcontext():
        fitted(moons, network=network, **({"lr": 1e38} if end == "diverged" else {}))
    assert tenth_of_the_smallest_normal_number() > 0
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert set(during) == {0.0}


def test_a_fit_runs_in_a_thread_that_may_not_handle_signals(moons: Dataset) -> None:
    results: list[tuple[nn.Module, History]] = []
    thread = threading.Thread(target=lambda: results.append(fitted(moons)))
    thread.start()
    thread.join()
    assert torch.equal(weights(results[0][0]), weights(fitted(moons)[0]))


# A loss that is not finite.


class Breaks(nn.Module):
    """A network that answers nan in one training batch."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network = network
        self.left = batch

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102
        outputs: Tensor = self.network(inputs)
        self.left -= self.training
        return outputs * math.nan if self.training and not self.left else outputs


def test_a_loss_that_is_not_finite_names_epoch_batch_and_learning_rate(moons: Dataset) -> None:
    network = Breaks(perceptron_for(moons), 2 * BATCHES + 3)
    with pytest.raises(DivergedError, match=r"epoch 3, batch 3, at learning rate 0\.01:"):
        fitted(moons, network=network)


def test_the_learning_rate_named_is_that_of_the_batch(moons: Dataset) -> None:
    network = Breaks(perceptron_for(moons), 3)
    # After two of eight steps the cosine stands at (1 + cos 45°) / 2.
    rate = f"{0.5 * (1 + math.cos(math.pi / 4)):g}"
    with pytest.raises(DivergedError, match=f"epoch 1, batch 3, at learning rate {rate}:"):
        fitted(moons, network=network, schedule="cosine", epochs=2, lr=1)


def test_weights_that_break_in_the_very_last_step_are_not_kept(curve: Dataset) -> None:
    """The only training loss is finite: the weights that it leads to are not."""
    with pytest.raises(DivergedError, match="epoch 1, batch 1, at learning rate"):
        fitted(curve, epochs=1, batch_size=240, optimizer="sgd", lr=1e38)


def test_a_learning_rate_that_is_far_too_high_says_what_to_change(curve: Dataset) -> None:
    with pytest.raises(DivergedError, match="--lr"):
        fitted(curve, epochs=20, optimizer="sgd", lr=1e10)


# What is shown.


def lines_of_a_fit(moons: Dataset, capsys: pytest.CaptureFixture[str], **values: Any) -> list[str]:
    settings = GENTLE.override({"batch_size": 160} | values)
    fit(perceptron_for(moons), moons, settings, device=CPU, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize("epochs", [1, 7, 20, 21, 30, 39, 41, 150])
def test_elsewhere_than_on_a_terminal_there_are_at_most_twenty_plain_lines(
    moons: Dataset, capsys: pytest.CaptureFixture[str], epochs: int
) -> None:
    lines = lines_of_a_fit(moons, capsys, epochs=epochs)
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
    fitted(moons)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> str:
    """What `act` shows where standard error is a terminal."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 160))
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 65_536)
            except OSError:  # how Linux says that the other end is closed
                return
            if not piece:
                return
            shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:  # noqa: PTH123 - a descriptor
        patch.setattr(sys, "stderr", terminal)
        act()
    reader.join(20)
    os.close(master)
    return b"".join(shown).decode()


def test_on_a_terminal_there_are_nested_bars_of_epochs_and_batches(
    moons: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GENTLE.override({"epochs": 7, "batch_size": 10})
    text = on_a_terminal(
        monkeypatch, lambda: fit(perceptron_for(moons), moons, settings, device=CPU)
    )
    last = text.replace("\r", "\n").strip().splitlines()[-1]
    assert "7/7" in last
    assert "epoch" in last
    assert "validation loss" in last
    assert "accuracy" in last
    assert "/16 " in text  # 160 rows in batches of 10
    assert "batch" in text
    assert "\x1b[A" in text  # the inner bar is drawn below the outer one, and the cursor goes back
    assert "epoch 7/7: " not in text  # no plain line beside the bars


def test_on_a_terminal_too_nothing_is_shown_without_progress(
    moons: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_a_terminal(monkeypatch, lambda: fitted(moons)) == ""


# Where it computes.


def test_the_device_is_cuda_where_there_is_one_or_the_one_named() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(DeviceError, match=f"{name!r}.* there is cpu"):
        pick_device(name)
