"""Texts in rows: any text has the tokens of the tokenizer itself, and answers keep their order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Trained
from tokenizers import models, pre_tokenizers, trainers

from models.kinds.padding import PaddedInput, PaddingSpec
from models.kinds.tokens import TextSpec, Tokenizer, TokenizerError, groups_of
from service.api.rows.texts import columns_of_texts, merged, texts_of
from service.errors import BadInputError
from service.inference.tokenizing import PART_CHARACTERS, TextReader, characters, parts

MAX_TOKENS = 6
TRAINED = Trained(models.BPE(unk_token="?"))  # noqa: S106
TRAINED.pre_tokenizer = pre_tokenizers.Whitespace()
TRAINED.train_from_iterator(["the cat sat on the mat"], trainers.BpeTrainer(special_tokens=["?"]))
FILE = TRAINED.to_str().encode()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PADDING = PaddingSpec(
    inputs={
        "ids": PaddedInput(axis=1, value=7),
        "mask": PaddedInput(axis=1, value=0, is_mask=True),
    },
    outputs={},
    lengths=(MAX_TOKENS,),
)


def spec(**changes: Any) -> TextSpec:
    ids = tuple(TRAINED.encode("the cat").ids)
    fields = {"ids": "ids", "mask": "mask", "max_tokens": MAX_TOKENS}
    return TextSpec(**{**fields, "example": "the cat", "example_ids": ids, **changes})


TOKENIZER = Tokenizer(spec(), FILE)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_any_text_has_the_tokens_of_the_tokenizer_itself(texts: list[str]) -> None:
    tokens = TOKENIZER.tokens(texts)
    wanted = [TRAINED.encode(text).ids[:MAX_TOKENS] for text in texts]
    assert [one.ids.tolist() for one in tokens] == wanted
    rows = TOKENIZER.rows(tokens, PADDING)
    for at, ids in enumerate(wanted):
        padding = rows["ids"].shape[1] - len(ids)
        assert rows["ids"][at].tolist() == [*ids, *[7] * padding]
        assert rows["mask"][at].tolist() == [*[1] * len(ids), *[0] * padding]


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_texts_that_are_computed_apart_are_answered_in_their_order(texts: list[str]) -> None:
    tokens = TOKENIZER.tokens(texts)
    groups = groups_of(tokens, None)
    assert sorted(at for group in groups for at in group) == list(range(len(texts)))
    outputs = []
    for group in groups:
        ids = TOKENIZER.rows([tokens[at] for at in group])["ids"]
        outputs.append({"each": ids, "sum": ids.sum(axis=1, keepdims=True)})
    found = merged(groups, outputs)
    for one, row, total in zip(tokens, found["each"], found["sum"], strict=True):
        assert row[: len(one.ids)].tolist() == one.ids.tolist()
        assert total.tolist() == [one.ids.sum()]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2 * PART_CHARACTERS), min_size=1, max_size=8))
def test_parts_hold_all_texts_and_are_short(sizes: list[int]) -> None:
    texts = ["a" * size for size in sizes]
    found = list(parts(texts))
    assert [text for part in found for text in part] == texts
    assert all(len(part) == 1 or sum(map(characters, part)) <= PART_CHARACTERS for part in found)


def test_rows_and_columns_are_texts_or_pairs() -> None:
    rows = ["a", {"text": "b"}, {"text": "c", "text_pair": "d"}]
    assert texts_of(rows) == ["a", "b", ("c", "d")]
    assert columns_of_texts({"text": ["a"], "text_pair": ["b"]}) == [
        {"text": "a", "text_pair": "b"}
    ]
    assert columns_of_texts({"ids": [[1]]}) is None
    with pytest.raises(BadInputError, match="lists of as many texts"):
        columns_of_texts({"text": ["a"], "text_pair": []})


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"{}", {}, "it cannot be used"),
        (FILE, {"example_ids": (1, 2)}, "gives other tokens for the recorded text"),
    ],
)
def test_another_tokenizer_is_refused(
    content: bytes, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(spec(**changes), content)


def test_texts_are_cut_on_the_stated_side() -> None:
    text = "the cat sat on the mat the cat sat"
    left = Tokenizer(spec(truncation_side="left"), FILE)
    (tokens,) = left.tokens([text])
    np.testing.assert_array_equal(tokens.ids, TRAINED.encode(text).ids[-MAX_TOKENS:])


@pytest.mark.parametrize("texts", [[""], ["the cat", "  "]])
async def test_a_text_without_tokens_is_refused(texts: list[str]) -> None:
    """A recurrent network over no steps would end the process."""
    with pytest.raises(BadInputError, match=rf"Text {len(texts)} has no tokens"):
        await TextReader(TOKENIZER).tokens("caller", texts)
