"""Surnames, letter by letter: rows of unequal lengths, filled up to the longest.

The names are the 88,799 surnames of the census of the United States of 1990, as the package `names`
has them (Trey Hunner, MIT licence).
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.datasets.baselines import NgramModel, Texts, majority_accuracy
from training.datasets.dataset import IGNORED, DataError, Dataset, Split

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LETTER_LABELS = (*ALPHABET, "end")
PADDING, OTHER, START = 0, len(ALPHABET) + 1, len(ALPHABET) + 2
"""Beside the letters, which are 1 to 26: no letter, any other character, the start of a name."""
_FILE = "dist.all.last"
_VALIDATION, _TEST = 4_000, 8_000
_ORDERS = (2, 3, 4, 5, 6)
"""The numbers of last letters that the n-gram model may take."""


def names() -> Dataset:
    """Load surnames, int64 [N, 14], and the letter that goes on: a to z, or the end.

    Of the 76,799 names of the training split every next letter is a target, int64 [N, 14]. Of each
    of the 4,000 and 8,000 others, one beginning of random length is a row, with one target.

    Raises:
        DataError: the package `names` is not installed.
    """
    found = _surnames()
    generator = torch.Generator().manual_seed(1990)
    order = torch.randperm(len(found), generator=generator).tolist()
    shuffled = [found[index] for index in order]
    test, validation = shuffled[:_TEST], shuffled[_TEST : _TEST + _VALIDATION]
    train = shuffled[_TEST + _VALIDATION :]

    def beginnings(whole: Sequence[str]) -> Split:
        kept = [int(torch.randint(len(name) + 1, (), generator=generator)) for name in whole]
        rows = [letters(name[:count]) for name, count in zip(whole, kept, strict=True)]
        nexts = [_next_letters(name)[count] for name, count in zip(whole, kept, strict=True)]
        return Split(filled(rows), torch.tensor(nexts))

    targets = [torch.tensor(_next_letters(name)) for name in train]
    return Dataset(
        name="names",
        summary="surnames, census of the United States of 1990 (package names, MIT licence)",
        task="classification",
        input_kind="tokens",
        train=Split(
            filled([letters(name) for name in train]),
            pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        ),
        validation=beginnings(validation),
        test=beginnings(test),
        labels=LETTER_LABELS,
        baselines=_baselines,
    )


def letters(name: str) -> list[int]:
    """Return the beginning of a name, in small letters, as numbers after that of its start."""
    return [START] + [ALPHABET.find(letter) + 1 or OTHER for letter in name]


def filled(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows filled up to the longest, int64 [N, places]."""
    return pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=PADDING)


def spelled(rows: Tensor) -> list[str]:
    """Return the names in rows, with `?` for other characters."""
    characters = {PADDING: "", OTHER: "?", START: ""} | dict(enumerate(ALPHABET, start=1))
    return ["".join(characters[letter] for letter in row) for row in rows.tolist()]


def _next_letters(name: str) -> list[int]:
    """Return the class of each letter, and that of the end."""
    return [*map(LETTER_LABELS.index, name), LETTER_LABELS.index("end")]


def _surnames() -> list[str]:
    """Return the surnames in small letters. The package is not imported: its file is enough."""
    spec = find_spec("names")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, _FILE)
        if path.is_file():
            return [line.split()[0].lower() for line in path.read_text("ascii").splitlines()]
    raise DataError(
        "the names are in the package `names`, which is not installed: "
        "pip install 'names>=0.3,<0.4'"
    )


def _baselines(data: Dataset, split: Split) -> Mapping[str, float]:
    """Return the metrics of n-gram models. The validation split selects their orders."""
    whole = spelled(data.train.inputs)
    pairs = [
        (name[:place], letter) for name in whole for place, letter in enumerate(_next_letters(name))
    ]
    train = Texts(*zip(*pairs, strict=True))
    validation, test = (
        Texts(spelled(part.inputs), part.targets.tolist()) for part in (data.validation, split)
    )
    model = NgramModel(train, _ORDERS[-1], len(data.labels))
    order = max(_ORDERS, key=lambda order: model.accuracy(validation, order))
    likely = min(_ORDERS, key=lambda order: model.negative_log_likelihood(validation, order))
    return {
        "majority_accuracy": majority_accuracy(train, test),
        "bigram_accuracy": model.accuracy(test, 1),
        "ngram_accuracy": model.accuracy(test, order),
        "ngram_negative_log_likelihood": model.negative_log_likelihood(test, likely),
    }
