"""Tests of the adder: its sums, its tokenizer, and the module that writes an answer."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.graphs.row_mixing import row_mixing
from models.kinds.tokens import TextSpec, Tokenizer
from models.package.card import MODEL_FILES
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from models.runtimes.torch_runtimes import TorchScriptRuntime
from models.torch_graphs.script_mixing import script_mixing
from training.datasets import IGNORED, Dataset, Split
from training.datasets.sums import ANSWER, CHARACTERS, PADDING, QUESTION, tokens
from training.recipes import RECIPES
from training.recipes.adder import Adder, tokenizer

RECIPE = RECIPES["adder-transformer"]
NUMBERS = st.integers(0, 999)
REFUSED = len(CHARACTERS)
"""The token of a text that is no sum, beyond the range of the input."""


@pytest.fixture(scope="module")
def tokenize(sums: Dataset) -> Any:
    served = RECIPE.served(RECIPE.build(RECIPE.default, sums), sums)
    spec = served.card["text"]
    assert isinstance(spec, TextSpec)
    made = Tokenizer(spec, served.files["tokenizer.json"])
    return lambda text: made.tokens([text])[0].ids.tolist()


def questions(texts: Sequence[str]) -> Tensor:
    return tokens([text.ljust(QUESTION, "_") for text in texts])


def question_of(split: Split, row: int) -> str:
    characters = [CHARACTERS[token] for token in split.inputs[row, :QUESTION].tolist()]
    return "".join(characters).rstrip("_")


def pairs_of(split: Split) -> set[str]:
    rows = split.inputs[:, :QUESTION].unique(dim=0)
    return {bytes(row).decode("latin-1") for row in rows.tolist()}


# The data.


def test_each_row_is_a_right_sum_with_its_digits_reversed(sums: Dataset) -> None:
    for split in (sums.train, sums.validation, sums.test):
        for row in range(0, len(split), max(1, len(split) // 200)):
            first, second = map(int, question_of(split, row).split("+"))
            asked = split.targets[row][split.targets[row] != IGNORED].tolist()
            assert asked == [(first + second) // 10**place % 10 for place in range(ANSWER)]
            assert split.targets[row, -ANSWER:].tolist() == asked
            # A place sees the digits before it, and not its own.
            assert split.inputs[row, 1 - ANSWER :].tolist() == asked[:-1]


def test_no_pair_of_numbers_is_in_two_splits(sums: Dataset) -> None:
    splits = [pairs_of(split) for split in (sums.train, sums.validation, sums.test)]
    for first, second in itertools.combinations(splits, 2):
        assert not first & second
    assert [len(pairs) for pairs in splits[1:]] == [len(sums.validation), len(sums.test)]


def test_short_and_long_numbers_are_alike_frequent_in_training(sums: Dataset) -> None:
    lengths = (sums.train.inputs[:, :QUESTION] != PADDING).sum(dim=1)
    shares = lengths.bincount(minlength=QUESTION + 1)[3:] / len(lengths)
    np.testing.assert_allclose(shares, np.array([1, 2, 3, 2, 1]) / 9, atol=0.02)


# The tokenizer.


@settings(deadline=None, max_examples=50)
@given(NUMBERS, NUMBERS)
def test_a_question_has_the_tokens_of_its_row(first: int, second: int) -> None:
    import tokenizers

    made = tokenizers.Tokenizer.from_buffer(tokenizer())
    text = f"{first}+{second}"
    expected = [CHARACTERS.index(character) for character in text]
    for written in (text, f"0{first} + {second:03} =\n"):
        assert made.encode(written).ids == expected


@pytest.mark.parametrize(
    "text",
    [
        *("seven", "1+2+3", "1234+5", "5+1234", "-7+8", "7.5+1", "12+", "+", "1", "٣+٤"),
        *("7+8\nx", "=7+8"),
    ],
)
def test_a_text_that_is_no_sum_is_beyond_the_range(text: str, tokenize: Any) -> None:
    assert tokenize(text) == [REFUSED]


# The module.


class Calculator(nn.Module):
    """A network that gives the right next digit the largest logit, whatever the row's weights."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [N, places, 10]; only those of the last place are filled."""
        logits = torch.zeros(*rows.shape, 10)
        for at, row in enumerate(rows.tolist()):
            text = "".join(CHARACTERS[token] for token in row)
            asked, _, written = text.partition("=")
            total = f"{sum(map(int, asked.rstrip('_').split('+'))):0{ANSWER}}"[::-1]
            assert total.startswith(written)
            logits[at, -1, int(total[len(written)])] = 1
        return logits


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_the_digits_that_are_written_one_by_one_are_the_sum(pairs: list[tuple[int, int]]) -> None:
    asked = questions([f"{first}+{second}" for first, second in pairs])
    assert Adder(Calculator())(asked)[:, 0].tolist() == [sum(pair) for pair in pairs]


# The shipped network.


@pytest.fixture(scope="module")
def adder(shipped: Path) -> ModelPackage:
    return ModelRepository(shipped).get("adder-transformer")


def test_the_shipped_network_adds_held_out_sums(sums: Dataset, adder: ModelPackage) -> None:
    asked = sums.test.inputs[:2_000, :QUESTION]
    expected = [sum(map(int, question_of(sums.test, row).split("+"))) for row in range(len(asked))]
    answered = open_runtime(adder, "onnx")({"tokens": asked.numpy()})["sum"][:, 0]
    assert float((answered == expected).mean()) >= 0.999
    assert adder.card.evaluations[0].metrics["accuracy"] >= 0.999
    default = next(entry for entry in adder.card.seeds if entry.setting == "default")
    assert (len(default.values), min(default.values) >= 0.999) == (RECIPE.seeds, True)


def test_each_file_is_proved_to_compute_rows_apart(adder: ModelPackage) -> None:
    asked = questions(["12+7", "0+0", "99+3", "1+234", "5+5"])
    lengths = [{"tokens": asked[:, :length].numpy()} for length in (3, 5, QUESTION)]
    assert row_mixing(adder.load(MODEL_FILES["onnx"]), lengths) == [None] * 3
    module = open_runtime(adder, "torchscript")
    assert isinstance(module, TorchScriptRuntime)
    assert [script_mixing(module, rows) for rows in lengths] == [None] * 3


def test_the_places_that_fill_a_row_up_change_nothing(adder: ModelPackage) -> None:
    asked = questions(["1+2", "12+7"])
    alone = [{"tokens": asked[:1, :3].numpy()}, {"tokens": asked[1:, :4].numpy()}]
    for name in adder.card.runtimes:
        runtime = open_runtime(adder, name)
        assert runtime({"tokens": asked.numpy()})["sum"][:, 0].tolist() == [3, 19]
        for rows, total in zip(alone, (3, 19), strict=True):
            assert runtime(rows)["sum"].tolist() == [[total]]
