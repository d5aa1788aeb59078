"""The check that a package answers texts as the training library does, alone and together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.errors import AddError
from models.kinds.tokens import TextSpec, Tokenizer, TokenizerError, Tokens, cut, is_per_token
from models.package.card import ModelCard, ParityRecord
from models.proofs.padding_proof import Pad
from models.runtimes.differences import relative_difference
from models.runtimes.runtime import Arrays, Runtime
from models.sources.source import Texts

TOLERANCE = 1e-5
"""The largest difference of an answer, relative to its magnitude (`excess`)."""


def max_tokens_of(texts: Texts) -> int:
    """Return the most tokens of a text."""
    return int(texts.declared.spec["max_tokens"] or 0)


def text_padding(texts: Texts) -> tuple[list[Pad], list[str]]:
    """Return the inputs that are padded, and the mask, as `padding_proof.py` takes them."""
    values, mask = texts.declared.padding, texts.declared.spec.get("mask")
    if values is None or not isinstance(mask, str):
        return [], []
    return [Pad(name, value) for name, value in values.items()], [mask]


def prove_texts(
    file: str, network: Runtime, card: ModelCard, texts: Texts
) -> tuple[TextSpec, ParityRecord]:
    """Compare the tokens and the answers for texts with those of the training library.

    With padding, the answers to the texts together must be those to each text alone.

    Args:
        file: the name of the network's file, for errors.
        network: the network as it is served.
        card: of the network, with its padding if that is proved.
        texts: what the export declares, and what its library gives.

    Raises:
        AddError: the tokens or the answers are others.
        ImportError: the library `tokenizers` is not installed.
    """
    declared, spec = texts.declared, _spec(file, card, texts)
    try:
        tokenizer = Tokenizer(spec, texts.tokenizer)
    except TokenizerError as error:
        raise AddError(
            f"{file}: of its tokenizer: {error}: give the tokenizer that it was trained with"
        ) from error
    tokens = tokenizer.tokens(declared.texts)
    wanted = zip(declared.token_ids, declared.type_ids, strict=True)
    for at, (one, (ids, types)) in enumerate(zip(tokens, wanted, strict=True), start=1):
        if tuple(one.ids.tolist()) != ids or (spec.types and tuple(one.types.tolist()) != types):
            raise AddError(
                f"{file}: text {at} of the sample has other tokens than in the training library: "
                "give the tokenizer that it was trained with"
            )
    answers = [network(tokenizer.rows([one])) for one in tokens]
    absolute, relative = _difference(card, tokens, answers, texts.answers)
    sizes = [1]
    if card.padding is not None:
        together = network(tokenizer.rows(tokens, card.padding))
        padded = [
            {name: array[at : at + 1] for name, array in together.items()}
            for at in range(len(tokens))
        ]
        found = _difference(card, tokens, padded, texts.answers)
        absolute, relative = max(absolute, found[0]), max(relative, found[1])
        sizes.append(len(tokens))
    if relative > TOLERANCE:
        raise AddError(
            f"{file}: a text of the sample is answered otherwise than by the training library (by "
            f"{relative:.3g} of the magnitude, more than {TOLERANCE:g}): export the network in "
            "evaluation mode, and in single precision"
        )
    return spec, ParityRecord(
        runtime="onnx",
        samples=len(tokens),
        batch_sizes=tuple(sizes),
        largest_absolute_difference=absolute,
        largest_relative_difference=relative,
        equal_answers=1.0,
        tolerance=f"{TOLERANCE:g} relative, for texts",
    )


def _spec(file: str, card: ModelCard, texts: Texts) -> TextSpec:
    """Return what the export declares; a text has no more tokens than the network takes."""
    declared = texts.declared
    try:
        spec = TextSpec(
            **declared.spec,  # type: ignore[arg-type] # pydantic checks the types
            example=declared.texts[0],
            example_ids=declared.token_ids[0],
        )
        ModelCard.model_validate(card.model_copy(update={"text": spec}).model_dump())
    except ValidationError as error:
        raise AddError(f"{file}: its text is wrong ({error.errors()[0]['msg']})") from error
    largest = [one.max_shape[1] for one in card.inputs if one.max_shape]
    if min(largest, default=spec.max_tokens) < spec.max_tokens:
        raise AddError(
            f"{file}: it takes {min(largest)} tokens, and texts are cut at {spec.max_tokens}: set "
            "the tokenizer's model_max_length, or export it with fewer tokens"
        )
    return spec


def _difference(
    card: ModelCard, tokens: Sequence[Tokens], found: Sequence[Arrays], wanted: Sequence[Arrays]
) -> tuple[float, float]:
    """Return the largest difference of an answer, and the largest relative to the magnitude."""
    absolute = relative = 0.0
    for output in card.outputs:
        if output.name not in wanted[0]:
            continue
        rows, others = (
            _joined(tokens, [one[output.name] for one in answers], output.shape)
            for answers in (found, wanted)
        )
        if rows.shape != others.shape:
            return np.inf, np.inf
        absolute = max(absolute, float(np.abs(rows - others).max(initial=0.0)))
        differences = relative_difference(rows, others, probabilities=output.is_probabilities)
        relative = max(relative, float(differences.max(initial=0.0)))
    return absolute, relative


def _joined(
    tokens: Sequence[Tokens], arrays: Sequence[NDArray[Any]], shape: Sequence[int]
) -> NDArray[Any]:
    """Return the answers to each text; of outputs with a part for each token, one after another."""
    if not is_per_token(shape):
        return np.concatenate(arrays)
    return np.concatenate([cut([one], array)[0] for one, array in zip(tokens, arrays, strict=True)])
