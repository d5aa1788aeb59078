"""The space that `tune` searches: which hyperparameters, each with its range.

The ranges are those in the types of the hyperparameters (`Between`, `Times`). `--only` selects some
of them, `--set` gives others. An element of a tuple is searched on its own, as `hidden.0`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from optuna import Trial
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)

from training.hyperparameters import Between, HyperparameterError, Hyperparameters, Times

Distribution = FloatDistribution | CategoricalDistribution


@dataclass(frozen=True)
class SearchSpace:
    """Hyperparameters with the distributions of those that are searched.

    Attributes:
        preset: the hyperparameters of the preset, with the values that are fixed.
        fixed: the hyperparameters that `--set` gives one value.
        distributions: what a trial draws, by the name of the hyperparameter, or as `hidden.0` for
            an element of a tuple.
    """

    preset: Hyperparameters
    fixed: Mapping[str, Any]
    distributions: Mapping[str, Distribution]

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Return the hyperparameters that are fixed, and those that a trial draws, by name."""

        def drawn(name: str, entry: Distribution) -> Any:
            if isinstance(entry, FloatDistribution):
                return trial.suggest_float(name, entry.low, entry.high, log=entry.log)
            return trial.suggest_categorical(name, entry.choices)

        return self.values({name: drawn(name, entry) for name, entry in self.distributions.items()})

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters that are fixed, and those drawn, with tuples put together."""
        values = dict(self.fixed)
        for name, value in drawn.items():
            field, _, index = name.partition(".")
            if index:
                values.setdefault(field, list(getattr(self.preset, field)))[int(index)] = value
            else:
                values[field] = value
        return values

    def first(self) -> dict[str, Any]:
        """Return the preset as a trial would draw it; a number outside of its range is moved in."""
        drawn = {}
        for name, entry in self.distributions.items():
            field, _, index = name.partition(".")
            value = getattr(self.preset, field)
            if index:
                value = value[int(index)]
            if isinstance(entry, FloatDistribution):
                drawn[name] = min(max(value or 0.0, entry.low), entry.high)
            elif value in entry.choices:
                drawn[name] = value
        return drawn

    def record(self) -> dict[str, Any]:
        """Return what identifies the space, as JSON."""
        spans = {name: distribution_to_json(entry) for name, entry in self.distributions.items()}
        return self.preset.model_dump(mode="json") | spans


def search_space(
    preset: Hyperparameters, rows: int, only: Sequence[str] = (), given: Sequence[str] = ()
) -> SearchSpace:
    """Return the space around a preset.

    Args:
        preset: the hyperparameters of the preset.
        rows: the number of training rows; no batch is larger.
        only: names of the hyperparameters to search; by default, all that have a range.
        given: a range, choices or one value: `lr=1e-4:0.1`, `activation=relu,tanh`, `seed=1`.

    Raises:
        HyperparameterError: a name or value is not valid for the preset, or nothing is searched.
    """
    texts = dict(map(_parsed, given))
    only = [name.replace("-", "_") for name in only]
    known = type(preset).model_fields
    for name in (*only, *texts):
        if name not in known:
            listed = ", ".join(known)
            raise HyperparameterError(f"there is no hyperparameter {name!r}; there are {listed}")
    fixed = {
        name: value
        for name, text in texts.items()
        if (value := _Field(preset, name).fixed(text)) is not None
    }
    preset = preset.override(fixed)
    fields = {name: _Field(preset, name) for name in known if name not in fixed}
    named = only or [name for name, field in fields.items() if field.range]
    distributions: dict[str, Distribution] = {}
    for name, field in fields.items():
        if name in named or name in texts:
            distributions |= field.distributions(texts.get(name), rows)
    if not distributions:
        raise HyperparameterError("nothing is left to search: name a range, as --set lr=1e-4:0.1")
    space = SearchSpace(preset, fixed, distributions)
    for end in (0, -1):  # a range of its own may not be valid around this preset
        drawn = {
            name: entry.choices[end]
            if isinstance(entry, CategoricalDistribution)
            else (entry.low, entry.high)[end]
            for name, entry in distributions.items()
        }
        preset.override(space.values(drawn))
    return space


def _parsed(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise HyperparameterError(f"--set {text}: write a range as lr=1e-4:0.1, a value as seed=1")
    return name.replace("-", "_"), value


class _Field:
    """One hyperparameter of a preset, and what is searched of it."""

    def __init__(self, preset: Hyperparameters, name: str) -> None:
        info = type(preset).model_fields[name]
        self.name = name
        self.value = getattr(preset, name)
        self.range = next(
            (entry for entry in info.metadata if isinstance(entry, Between | Times)), None
        )
        self._preset = preset
        self._kind: Any = info.annotation

    def fixed(self, text: str) -> Any:
        """Return the one value that the text gives; None for a range or choices."""
        if ":" in text or ("," in text and not isinstance(self.value, tuple)):
            return None
        return self._read(text)

    def distributions(self, text: str | None, rows: int) -> dict[str, Distribution]:
        """Return the distributions of a text, or of the range that the hyperparameter has."""
        if choices := self._choices(text):
            return {self.name: CategoricalDistribution(choices)}
        span = self._between(text) if text else self.range
        if span is None:
            raise HyperparameterError(
                f"{self.name} has no range of its own: --set {self.name}=LOW:HIGH"
            )
        if isinstance(self.value, tuple):
            return {
                f"{self.name}.{index}": CategoricalDistribution(_powers_of_two(span, element))
                for index, element in enumerate(self.value)
            }
        if self._is_whole:
            numbers = _powers_of_two(span, self.value)
            if self.name == "batch_size":
                numbers = sorted({min(number, rows) for number in numbers})
            return {self.name: CategoricalDistribution(numbers)}
        if isinstance(span, Times):
            low, high = span.low * self.value, span.high * self.value
            return {self.name: FloatDistribution(low, high, log=True)}
        return {self.name: FloatDistribution(span.low, span.high, log=span.log)}

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.value, tuple) or int in (self._kind, *get_args(self._kind))

    def _read(self, text: str) -> Any:
        """Return the text as a value of the hyperparameter.

        Raises:
            HyperparameterError: it is none.
        """
        value = text.strip("[]").split(",") if isinstance(self.value, tuple) else text
        return getattr(self._preset.override({self.name: value}), self.name)

    def _choices(self, text: str | None) -> tuple[Any, ...]:
        """Return the choices of the text or of the type; none for a range."""
        if text and "," in text:
            return tuple(map(self._read, text.split(",")))
        choices = get_args(self._kind) if get_origin(self._kind) is Literal else ()
        if self._kind is bool:
            choices = (False, True)
        if text and choices:
            raise HyperparameterError(f"--set {self.name}={text}: write the choices as A,B")
        return choices

    def _between(self, text: str) -> Between:
        """Return the range of a text, as 1e-4:0.1."""
        ends = []
        for end in text.split(":"):
            elements = len(self.value) if isinstance(self.value, tuple) else 1
            value = self._read(",".join([end] * elements))
            ends.append(value[0] if isinstance(value, tuple) else value)
        log = isinstance(self.range, Times) or bool(self.range and self.range.log)
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise HyperparameterError(f"--set {self.name}={text}: write it as LOW:HIGH")
        if ends[0] <= 0 and (log or self._is_whole):
            raise HyperparameterError(f"--set {self.name}={text}: the range must begin above 0")
        return Between(ends[0], ends[1], log)


def _powers_of_two(span: Between | Times, value: int) -> list[int]:
    """Return the value times powers of two; in a range of its own, its beginning times them."""
    if isinstance(span, Between):
        value, span = int(span.low), Times(1, span.high / span.low)
    powers = range(math.ceil(math.log2(span.low)), math.floor(math.log2(span.high)) + 1)
    return sorted({max(1, round(value * 2.0**power)) for power in powers})
