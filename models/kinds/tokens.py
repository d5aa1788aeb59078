"""Texts as the token numbers of inputs: tokenized and cut as in training.

The package holds the tokenizer as the file `tokenizer.json` of the library `tokenizers`, which is
imported only for packages with texts.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from models.kinds.padding import PaddingSpec

TOKENIZER_FILE = "tokenizer.json"
"""The file in a package."""
Text = str | tuple[str, str]
"""A text, or a pair of texts that the network takes together."""


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TextSpec:
    """How a text becomes one row of the inputs.

    Attributes:
        ids: the input of the token numbers.
        mask: the input that is 1 for tokens and 0 for padding; None if there is none.
        types: the input that is 0 for the first text of a pair and 1 for the second; None if there
            is none.
        max_tokens: a text with more tokens is cut, special tokens included.
        truncation_side: the side that is cut.
        example: a text or a pair, whose token numbers every release of the library must give.
        example_ids: its token numbers.
    """

    ids: str
    mask: str | None = None
    types: str | None = None
    max_tokens: int = Field(ge=1, lt=2**31)
    truncation_side: Literal["right", "left"] = "right"
    example: Text
    example_ids: tuple[int, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that the text becomes."""
        return tuple(name for name in (self.ids, self.mask, self.types) if name is not None)


class Tokens(NamedTuple):
    """The tokens of one text.

    Attributes:
        ids: their numbers.
        types: 0 for tokens of the first text, 1 for those of the second.
        texts: each token as the tokenizer has it.
        offsets: the first character of each token in its text, and the one after its last.
        special: 1 for tokens that stand for no characters, as the first and the last often do.
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    texts: Sequence[str]
    offsets: Sequence[tuple[int, int]]
    special: Sequence[int]


class TokenizerError(Exception):
    """A tokenizer that cannot be used. The message is the rest of a sentence about its file."""


class Tokenizer:
    """The tokenizer of a package.

    Args:
        spec: how texts become rows.
        content: of the file `tokenizer.json`.

    Raises:
        ImportError: the library `tokenizers` is not installed.
        TokenizerError: the library cannot read the file, or gives other tokens than recorded.
    """

    def __init__(self, spec: TextSpec, content: bytes) -> None:
        import tokenizers

        self.spec = spec
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(
                spec.max_tokens, strategy="longest_first", direction=spec.truncation_side
            )
            (tokens,) = self.tokens([spec.example])
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise TokenizerError(f"it cannot be used ({reason})") from error
        if tuple(tokens.ids.tolist()) != spec.example_ids:
            raise TokenizerError(
                f"tokenizers {tokenizers.__version__} gives other tokens for the recorded text"
            )

    def tokens(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of texts. The interpreter's lock is released for most of the time."""
        # Of one text alone, `encode` would hold the lock.
        return [
            Tokens(
                np.array(one.ids, np.int64),
                np.array(one.type_ids, np.int64),
                one.tokens,
                one.offsets,
                one.special_tokens_mask,
            )
            for one in self._tokenizer.encode_batch(texts)
        ]

    def rows(
        self, tokens: Sequence[Tokens], padding: PaddingSpec | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return the inputs by name, int64 [texts, tokens].

        Args:
            tokens: of each text.
            padding: of the network, for texts of unequal lengths.
        """
        spec, shape = self.spec, (len(tokens), max(len(one.ids) for one in tokens))
        rows = {
            name: np.full(shape, padding.inputs[name].value if padding else 0, np.int64)
            for name in spec.inputs
        }
        for at, one in enumerate(tokens):
            length = len(one.ids)
            rows[spec.ids][at, :length] = one.ids
            if spec.mask is not None:
                rows[spec.mask][at, :length] = 1
            if spec.types is not None:
                rows[spec.types][at, :length] = one.types
        return rows


def groups_of(tokens: Sequence[Tokens], padding: PaddingSpec | None) -> list[list[int]]:
    """Return which texts are computed together: all with padding, else those of equal lengths."""
    if padding is not None:
        return [list(range(len(tokens)))]
    by_length: dict[int, list[int]] = {}
    for at, one in enumerate(tokens):
        by_length.setdefault(len(one.ids), []).append(at)
    return list(by_length.values())


def is_per_token(shape: Sequence[int]) -> bool:
    """Return whether an output of this shape has a part for each token of a row."""
    return len(shape) > 1 and shape[1] == -1


def cut(tokens: Sequence[Tokens], rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the rows of an output with a part for each token, without the parts of padding.

    Args:
        tokens: of each text.
        rows: the output for these texts, [texts, tokens, ...].
    """
    return [row[: len(one.ids)] for one, row in zip(tokens, rows, strict=True)]
