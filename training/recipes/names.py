"""The recipe for surnames: an LSTM that reads the beginning of a name and tells the next letter.

The package `names` was chosen over the series of aeon (Japanese vowels, 270 utterances to train
on): a user can type a name and read the answer, the names are many, and they are MIT-licensed.
"""

import torch
from torch import Tensor, nn

from models.kinds.padding import PaddedInput, PaddingSpec
from models.kinds.tensor_spec import TensorSpec
from models.kinds.tokens import TOKENIZER_FILE, TextSpec
from models.package.card import Evaluation
from training.augmentation import Augmentation
from training.datasets import Dataset
from training.datasets.names import ALPHABET, OTHER, PADDING, START, letters
from training.hyperparameters import LstmHyperparameters
from training.networks.recurrent import NextToken
from training.recipe import Recipe
from training.reports.letter_plots import letter_by_letter
from training.served import Served, probabilities

PLACES = 16
"""The start, and the last 15 characters of a text. The longest surname has 13."""
LETTERS = TensorSpec(
    name="letters", datatype="INT64", shape=(-1, -1), minimum=0, maximum=START, enforced=True,
    nonempty=(1,), max_shape=(-1, PLACES),
    meaning="28 for the start, 1 to 26 for a to z, 27 for another character, then 0",
)  # fmt: skip
EXAMPLE = "Johns"


class _OnLetters(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, letters: Tensor) -> Tensor:
        output: Tensor = self.network(letters)
        return output.softmax(dim=1)


def _build(hyperparameters: LstmHyperparameters, data: Dataset) -> nn.Module:
    return NextToken(
        START + 1,
        hyperparameters.embedding,
        hyperparameters.units,
        data.outputs,
        hyperparameters.dropout,
    )


def _unreadable(hyperparameters: LstmHyperparameters, device: torch.device) -> Augmentation | None:
    """Return what makes letters another character, so that the network learns of it."""
    if not hyperparameters.unreadable:
        return None

    def distort(rows: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(rows.shape, generator=generator, device=device)
        is_letter = (rows != PADDING) & (rows != START)
        return rows.masked_fill(is_letter & (chosen < hyperparameters.unreadable), OTHER)

    return distort


def _served(network: nn.Module, data: Dataset) -> Served:
    """Return the network, with the tokenizer that makes letters of a text.

    Texts are filled up to 16 places, so that they share batches.
    """
    text = TextSpec(
        ids=LETTERS.name,
        max_tokens=PLACES,
        truncation_side="left",
        example=EXAMPLE,
        example_ids=tuple(letters(EXAMPLE.lower())),
    )
    padding = PaddingSpec(
        inputs={LETTERS.name: PaddedInput(axis=1, value=PADDING)}, outputs={}, lengths=(PLACES,)
    )
    return Served(
        _OnLetters(network).eval(),
        (LETTERS,),
        (probabilities(data),),
        card={
            "text": text,
            "padding": padding,
            "batched_shapes": ({LETTERS.name: (PLACES,)},),
        },
        files={TOKENIZER_FILE: tokenizer()},
    )


def tokenizer() -> bytes:
    """Return the file of the tokenizer that makes the rows of the data set of texts.

    Accents and capitals are dropped, as the names of the census have none.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    other, start = "[other]", "[start]"
    tokens = ["[pad]", *ALPHABET, other, start]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=other))
    made.normalizer = normalizers.Sequence([
        normalizers.Strip(), normalizers.NFKD(), normalizers.StripAccents(),
        normalizers.Lowercase(),
    ])  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, START)]
    )
    return made.to_str(pretty=True).encode()


def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    return {
        "letter-by-letter": letter_by_letter(network, data),
    }


names_lstm = Recipe(
    name="names-lstm",
    summary="An LSTM that reads a surname letter by letter, and tells the next letter.",
    data="names",
    tutorial=LstmHyperparameters(
        epochs=5, batch_size=64, optimizer="adam", lr=1e-3, keep="last", units=64
    ),
    default=LstmHyperparameters(
        epochs=8,
        batch_size=256,
        optimizer="adamw",
        lr=1e-2,
        weight_decay=0.01,
        lr_scheduler="one-cycle",
        ema_decay=0.99,
        dropout=0.1,
        unreadable=0.02,
    ),
    build=_build,
    metric="accuracy",
    seeds=3,
    intended_use=(
        "Learn, and show, how a recurrent network reads a sequence of any length: what a surname "
        "may go on with."
    ),
    limits=(
        "Most beginnings go on in several ways: the most probable letter is often not the next "
        "one. Read the scores of all letters.",
        "The names are those of the United States in 1990. Each counts once, however many bear it.",
        "Only a to z are read: accents are dropped, and any other character is the same unknown "
        "one. Of a longer text, the last 15 characters are read.",
    ),
    input_kind="tokens",
    augment=_unreadable,
    served=_served,
    pictures=_pictures,
)  # fmt: skip
