"""Networks for texts: the tokenizer goes into the package, and the network's scores are exported.

The service makes the inputs of a text with the tokenizer, as declared (`models/texts.py`). The
networks are those of Transformers, or torch modules with the same arguments.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fitserve.doors import door_of, is_of
from fitserve.doors.torch_module import evaluating
from fitserve.exported import Exported, ExportError, Texts
from fitserve.heads import classes_of, is_transformer, scored, scores_of
from fitserve.torch_networks import flattened

if TYPE_CHECKING:
    from torch import Tensor, nn

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
SAMPLE_TEXTS = (
    "The delivery came a day early, and everything in the box was in order.",
    "No.",
    "I waited for three weeks. Nobody answered the phone, and in the end I cancelled the order!",
    "Ada Lovelace wrote to Charles Babbage from London in 1843.",
    "Crème brûlée für 7,50 €? 東京でも食べられます。 Да, конечно 🙂",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "What time is it?  \n\tIt is half past nine.",
    "Unbelievably, counterrevolutionaries misunderstood the electroencephalography report.",
)
"""Texts of several lengths and scripts, for the proof where no others are given."""
SAMPLE_PAIRS = (("Who wrote it?", "Ada wrote it."), ("Where?", "In London, in 1843, it is said."))
LENGTHS = (8, 12)
"""The lengths of the two samples, which leave the length free."""
LONGEST = 512
"""The most tokens of a text where neither the tokenizer nor the network states a number."""


def export_texts(
    network: "nn.Module",
    tokenizer: Any,
    texts: Sequence[Any] | None,
    labels: Sequence[str],
    *,
    max_tokens: int | None = None,
) -> Exported:
    """Return a network for texts as files.

    Args:
        network: a model of Transformers for sequence or token classification, or without a head;
            or a torch module that takes `input_ids` and `attention_mask`.
        tokenizer: of Transformers, with a form in the library `tokenizers`.
        texts: texts or pairs of texts for the proof; some of our own if None.
        labels: the classes; by default those of the network's configuration.
        max_tokens: a text with more tokens is cut; by default as the tokenizer and the network say.

    Raises:
        ExportError: the network or the tokenizer cannot be exported, or a text is none.
    """
    if not is_of(network, "torch", "Module"):
        raise ExportError(
            f"a {type(network).__name__} takes no texts: give a torch.nn.Module, or no tokenizer"
        )
    _require_fast(tokenizer)
    names = _inputs(network, tokenizer)
    chosen = _texts(texts)
    longest = max_tokens or _max_tokens(network, tokenizer, names)
    with evaluating(network):
        samples = [_sample(tokenizer, chosen, names, min(size, longest)) for size in LENGTHS]
        samples.append(_long_sample(samples[0], longest))
        wrapped = _wrapped(network, samples)
        answers, token_ids, type_ids = [], [], []
        for text in chosen:
            rows = _rows(tokenizer, text, names, longest)
            answers.append(_answers(network, rows))
            token_ids.append(rows[IDS][0].tolist())
            type_ids.append(rows[TYPES][0].tolist() if TYPES in rows else [0] * len(token_ids[-1]))
    classes = labels or classes_of(network)
    exported = door_of(wrapped).export(wrapped, samples, classes)
    padding = {IDS: _pad_id(tokenizer), TYPES: tokenizer.pad_token_type_id}
    declared = {
        "spec": {
            "ids": IDS,
            "mask": MASK if MASK in names else None,
            "types": TYPES if TYPES in names else None,
            "max_tokens": longest,
            "truncation_side": tokenizer.truncation_side,
        },
        "padding": {name: value for name, value in padding.items() if name in names}
        if tokenizer.padding_side == "right"
        else None,
        "texts": chosen,
        "token_ids": token_ids,
        "type_ids": type_ids,
    }
    origin = exported.origin.replace(type(wrapped).__name__, type(network).__name__)
    return replace(
        exported,
        origin=origin,
        texts=Texts(declared, _file_of(tokenizer), answers),
    )


def _wrapped(network: "nn.Module", samples: Sequence[Mapping[str, Any]]) -> "nn.Module":
    """Return the network with scores as its outputs.

    Its mask has four dimensions if the network takes such a mask and answers the same, also at the
    largest length. Otherwise Transformers makes this mask with the numbers of the rows, after which
    no proof shows that rows are independent.
    """
    import torch
    from torch import nn

    scores = scores_of(network)

    class TextNetwork(nn.Module):
        def __init__(self, wide: bool) -> None:
            super().__init__()
            self.network = network
            self.wide = wide

        def forward(
            self,
            input_ids: "Tensor",
            attention_mask: "Tensor | None" = None,
            token_type_ids: "Tensor | None" = None,
        ) -> Any:
            given = {IDS: input_ids, MASK: attention_mask, TYPES: token_type_ids}
            if self.wide and attention_mask is not None:
                dtype = next(network.parameters()).dtype
                hidden = 1 - attention_mask[:, None, None, :].to(dtype)
                given[MASK] = hidden * torch.finfo(dtype).min
            given = {name: tensor for name, tensor in given.items() if tensor is not None}
            return scored(network(**given), scores)

    if is_transformer(network) and MASK in samples[0]:
        wide = TextNetwork(wide=True).train(network.training)
        try:
            if all(_same(_answers(wide, one), _answers(network, one)) for one in samples):
                return wide
        except Exception:  # noqa: BLE001, S110 - the network takes another mask
            pass
    return TextNetwork(wide=False).train(network.training)


def _same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    import numpy as np

    return found.keys() == wanted.keys() and all(
        np.allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6) for name in found
    )


def _answers(network: "nn.Module", rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a network answers in its own library, with scores in the place of logits."""
    import torch

    with torch.inference_mode():
        given = {name: torch.as_tensor(array) for name, array in rows.items()}
        outputs = flattened(scored(network(**given), scores_of(network)))
    return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}


def _rows(tokenizer: Any, text: Any, names: Sequence[str], longest: int) -> dict[str, Any]:
    """Return the inputs of one text as the tokenizer of Transformers makes them."""
    pair = text if isinstance(text, tuple) else (text,)
    found = tokenizer(*pair, truncation=True, max_length=longest, return_tensors="np")
    return {name: found[name] for name in names}


def _sample(
    tokenizer: Any, texts: Sequence[Any], names: Sequence[str], size: int
) -> dict[str, Any]:
    """Return rows of all texts at this length, cut or padded."""
    import numpy as np

    rows = [_rows(tokenizer, text, names, size) for text in texts]
    fill = {IDS: _pad_id(tokenizer), MASK: 0, TYPES: tokenizer.pad_token_type_id}

    def padded(name: str, row: Any) -> Any:
        missing = size - len(row)
        width = (missing, 0) if tokenizer.padding_side == "left" else (0, missing)
        return np.pad(row, width, constant_values=fill[name])

    return {
        name: np.stack([padded(name, one[name][0]) for one in rows]).astype(np.int64)
        for name in names
    }


def _long_sample(sample: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return two rows of the largest length, made of the tokens of the texts; one is padded."""
    import numpy as np

    rows = {name: np.resize(array, (2, size)) for name, array in sample.items()}
    if MASK in rows:
        rows[MASK] = np.ones((2, size), np.int64)
        rows[MASK][1, size // 2 + 1 :] = 0
    return rows


def _require_fast(tokenizer: Any) -> None:
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ExportError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no form as tokenizer.json: "
            "give a fast tokenizer of Transformers, as AutoTokenizer.from_pretrained(folder)"
        )


def _inputs(network: "nn.Module", tokenizer: Any) -> list[str]:
    """Return the inputs that the tokenizer makes and the network takes, in a fixed order."""
    made = tokenizer.model_input_names
    if unknown := [name for name in made if name not in (IDS, MASK, TYPES)]:
        raise ExportError(
            f"the tokenizer makes {', '.join(unknown)}, which a text alone does not give: export "
            "the network without a tokenizer, with sample=rows"
        )
    arguments = inspect.signature(network.forward).parameters
    if IDS not in arguments:
        raise ExportError(
            f"the arguments of forward are {', '.join(arguments)}: name the token numbers "
            f"{IDS} and the mask {MASK}, as in Transformers"
        )
    return [name for name in (IDS, MASK, TYPES) if name in made and name in arguments]


def _texts(texts: Sequence[Any] | None) -> list[Any]:
    if texts is None:
        return [*SAMPLE_TEXTS, *SAMPLE_PAIRS]
    if isinstance(texts, str) or not isinstance(texts, (list, tuple)) or not texts:
        raise ExportError("the sample must be a list of texts, or of pairs of texts")
    found = [tuple(text) if isinstance(text, list) else text for text in texts]
    for text in found:
        parts = text if isinstance(text, tuple) else (text,)
        if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            raise ExportError(
                f"the sample holds a {type(text).__name__}: give texts, or pairs of texts"
            )
    return found


def _max_tokens(network: "nn.Module", tokenizer: Any, names: Sequence[str]) -> int:
    """Return the most tokens that the tokenizer states and the network computes."""
    import torch

    config = getattr(network, "config", None)
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    stated = [size for size in (tokenizer.model_max_length, positions) if 0 < size < 10**6]
    longest = min(stated, default=LONGEST)
    # RoBERTa numbers its positions from the number of padding: its table has more rows.
    for size in (longest, longest - _pad_id(tokenizer) - 1):
        rows = {name: torch.ones(1, max(size, 1), dtype=torch.long) for name in names}
        rows[IDS] += _pad_id(tokenizer)  # of another token than padding
        if TYPES in rows:
            rows[TYPES] *= 0
        try:
            with torch.inference_mode(), evaluating(network):
                network(**rows)
        except Exception:  # noqa: BLE001, S112 - the network takes fewer
            continue
        return max(size, 1)
    raise ExportError(
        f"the network fails on {longest} tokens: set the tokenizer's model_max_length to what it "
        "was trained with"
    )


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id or 0)


def _file_of(tokenizer: Any) -> bytes:
    """Return the tokenizer as its library writes it, without a fixed length."""
    copied = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    copied.no_padding()
    copied.no_truncation()
    text: str = copied.to_str()
    return text.encode()
