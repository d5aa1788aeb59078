"""Tests of the surnames: the data, the network on rows of unequal lengths, and the package."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime, open_tokenizer
from training.datasets import IGNORED, DataError, Dataset, names
from training.datasets.baselines import NgramModel, Texts, majority_accuracy
from training.datasets.names import LETTER_LABELS, OTHER, START, filled, letters, spelled
from training.networks.recurrent import NextToken
from training.recipes import RECIPES
from training.recipes.names import PLACES

BEGINNINGS = ["", "li", "mar", "christophe"]


@pytest.fixture(scope="module")
def package(shipped: Path) -> ModelPackage:
    return ModelRepository(shipped).get("names-lstm")


@pytest.fixture(scope="module")
def surnames() -> Dataset:
    """Return the data set; skip the test if the package `names` is not installed."""
    try:
        return names()
    except DataError as error:
        pytest.skip(str(error))


def test_no_name_of_the_training_split_is_the_whole_row_of_another(surnames: Dataset) -> None:
    parts = (surnames.train, surnames.validation, surnames.test)
    assert [len(part) for part in parts] == [76_799, 4_000, 8_000]
    trained = set(spelled(surnames.train.inputs))
    assert len(trained) == 76_799
    for part in (surnames.validation, surnames.test):
        whole = spelled(part.inputs[part.targets == LETTER_LABELS.index("end")])
        assert len(whole) > 300
        assert not trained & set(whole)


def test_every_next_letter_of_a_training_name_is_a_target(surnames: Dataset) -> None:
    for row, targets in zip(surnames.train.inputs[:50], surnames.train.targets[:50], strict=True):
        (name,) = spelled(row.unsqueeze(0))
        asked = [LETTER_LABELS[target] for target in targets.tolist() if target != IGNORED]
        assert asked == [*name, "end"]


def test_the_beginnings_have_any_length(surnames: Dataset) -> None:
    lengths = (surnames.test.inputs != 0).sum(dim=1)
    assert (int(lengths.min()), int(lengths.max())) == (1, 14)


def test_the_same_names_are_drawn_at_every_call(surnames: Dataset) -> None:
    assert names().record() == surnames.record()


def test_rows_are_the_start_letters_and_padding() -> None:
    rows = filled([letters("abz"), letters("o'a-")])
    assert rows.tolist() == [[START, 1, 2, 26, 0], [START, 15, OTHER, 1, OTHER]]
    assert spelled(rows) == ["abz", "o?a?"]


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules[letters.__module__]  # `training.datasets.names` is the function
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'names>=0\.3,<0\.4'"):
        names()


def test_an_n_gram_model_answers_by_the_longest_known_letters() -> None:
    train = Texts(["ab", "ab", "cb", "b", "b", "b", "ab"], [0, 0, 1, 2, 2, 2, 1])
    model = NgramModel(train, 2, 3)
    assert majority_accuracy(train, Texts(["x"], [2])) == 1
    for order, text, answer in [(2, "ab", 0), (2, "b", 2), (2, "cb", 1), (1, "cb", 2), (2, "z", 2)]:
        assert model.accuracy(Texts([text], [answer]), order) == 1, (order, text)
    share = np.exp(-model.negative_log_likelihood(Texts(["b"], [2]), 0))
    assert share == pytest.approx((3 + 3 / 3) / (7 + 3))  # Witten and Bell: 3 of 7, 3 kinds


def untrained() -> NextToken:
    torch.manual_seed(0)
    return NextToken(START + 1, 8, 8, len(LETTER_LABELS), 0.0).eval()


def together(places: int) -> torch.Tensor:
    """Return the beginnings in one batch, int64 [N, places]."""
    rows = torch.zeros(len(BEGINNINGS), places, dtype=torch.int64)
    for row, text in enumerate(BEGINNINGS):
        rows[row, : len(text) + 1] = torch.tensor(letters(text))
    return rows


@pytest.mark.parametrize("places", [11, PLACES])
def test_padding_and_company_change_no_answer(places: int) -> None:
    network = untrained()
    with torch.inference_mode():
        alone = torch.cat([network(torch.tensor([letters(text)])) for text in BEGINNINGS])
        torch.testing.assert_close(network(together(places)), alone)
    assert len(alone.unique(dim=0)) == len(BEGINNINGS)


def test_in_training_every_place_is_answered_as_the_end_of_a_row() -> None:
    network = untrained()
    with torch.inference_mode():
        ends = torch.cat([network(torch.tensor([letters("mar"[:count])])) for count in range(4)])
        places = network.train()(torch.tensor([letters("mar")]))
    torch.testing.assert_close(places[0], ends)


def test_the_order_of_the_letters_changes_the_answer() -> None:
    with torch.inference_mode():
        first, second = untrained()(filled([letters("ami"), letters("mia")]))
    assert not torch.allclose(first, second)


def test_letters_are_made_unreadable_and_starts_are_not() -> None:
    recipe = RECIPES["names-lstm"]
    assert recipe.augment is not None
    assert recipe.augment(recipe.default.override({"unreadable": 0}), torch.device("cpu")) is None
    distort = recipe.augment(recipe.default.override({"unreadable": 0.5}), torch.device("cpu"))
    assert distort is not None
    rows = filled([letters("maria"), letters("li")]).repeat(400, 1)
    changed = distort(rows, torch.Generator().manual_seed(0))
    assert bool(((changed == rows) | (changed == OTHER)).all())
    assert torch.equal(changed == 0, rows == 0)
    assert changed[:, 0].unique().tolist() == [START]
    assert float((changed[::2, 1:] == OTHER).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_the_shipped_tokenizer_makes_the_rows_of_the_data_set(package: ModelPackage) -> None:
    tokenizer = open_tokenizer(package)
    assert tokenizer is not None
    for text in (*BEGINNINGS, "o'neil", "anne-marie"):
        (tokens,) = tokenizer.tokens([text])
        assert tokens.ids.tolist() == letters(text), text
    plain, accented = tokenizer.tokens(["zoe", " ZOË "])
    assert plain.ids.tolist() == accented.ids.tolist()
    (cut,) = tokenizer.tokens(["b" + "a" * 40])
    assert cut.ids.tolist() == [START] + [1] * (PLACES - 1)


@pytest.mark.parametrize("file", ["onnx", "torchscript"])
def test_the_shipped_files_answer_a_text_alone_as_in_company(
    file: str, package: ModelPackage
) -> None:
    runtime = open_runtime(package, file)  # type: ignore[arg-type]
    answers = runtime({"letters": together(PLACES).numpy()})["probabilities"]
    for text, answer in zip(BEGINNINGS, answers, strict=True):
        (alone,) = runtime({"letters": np.array([letters(text)])})["probabilities"]
        assert alone == pytest.approx(answer, abs=1e-6)


def test_every_seed_is_above_the_best_baseline(package: ModelPackage) -> None:
    metrics = package.card.evaluations[0].metrics
    baselines = {name: metrics[name] for name in metrics if name.endswith("_accuracy")}
    assert len(baselines) == 3
    likelihood = "negative_log_likelihood"
    assert metrics[likelihood] < metrics[f"ngram_{likelihood}"]
    default = next(entry for entry in package.card.seeds if entry.setting == "default")
    assert len(default.values) >= 3
    assert min(default.values) > max(baselines.values())


def test_the_card_has_the_figure_of_the_shipped_file(
    package: ModelPackage, surnames: Dataset
) -> None:
    answers = open_runtime(package, "onnx")({"letters": surnames.test.inputs.numpy()})
    right = answers["probabilities"].argmax(axis=1) == surnames.test.targets.numpy()
    assert float(right.mean()) == package.card.evaluations[0].metrics["accuracy"]
    assert package.card.fit is not None
    assert package.card.fit.data == surnames.record()


def test_the_shipped_package_is_small(package: ModelPackage) -> None:
    assert sum(file.bytes for file in package.card.files.values()) < 1_500_000
