"""The recipe for sums: a small decoder-only Transformer that adds two numbers.

After the adder of minGPT (Karpathy), which learns sums of two digits as text. Here a number has up
to three digits, without zeros before it, so the network also learns where the digits of a number
stand.

Results on the test split, of pairs of numbers that are not in the training split, mean and standard
deviation over three seeds:

    adder-transformer  100 % of 5,940 whole sums for each; `tutorial`, two epochs: 96.6 +- 4.1 %
"""

import torch
from torch import Tensor, nn

from models.kinds.padding import PaddedInput, PaddingSpec
from models.kinds.tensor_spec import TensorSpec
from models.kinds.tokens import TOKENIZER_FILE, TextSpec
from models.package.card import Evaluation
from training.datasets import Dataset
from training.datasets.sums import ANSWER, CHARACTERS, DIGITS, EQUALS, PADDING, QUESTION, tokens
from training.hyperparameters import TransformerHyperparameters
from training.networks.transformer import Block, decoder
from training.recipe import Recipe
from training.reports import plots
from training.served import Served

EXAMPLE = "457+968"
_TOKENS = TensorSpec(
    name="tokens", datatype="INT64", shape=(-1, -1), minimum=0, maximum=PADDING, enforced=True,
    nonempty=(1,), max_shape=(-1, QUESTION),
    meaning=f"two numbers of up to {DIGITS} digits, with 10 for the + between them; {PADDING} "
    "fills a row up",
)  # fmt: skip
_SUM = TensorSpec(
    name="sum", datatype="INT64", shape=(-1, 1), minimum=0, maximum=10**ANSWER - 1,
    meaning="the sum, as the network writes it",
)  # fmt: skip


class Adder(nn.Module):
    """The sum of two numbers: the decoder writes its digits one after another, the units first.

    Each digit is the most probable one after the text so far.
    """

    padding: Tensor
    equals: Tensor
    powers: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.question = QUESTION
        self.answer = ANSWER
        self.register_buffer("padding", torch.full((1, QUESTION), PADDING))
        self.register_buffer("equals", torch.full((1, 1), EQUALS))
        self.register_buffer("powers", 10 ** torch.arange(ANSWER))

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute a batch, int64 [N, places] → int64 [N, 1]."""
        rows = tokens.shape[0]
        filled = torch.cat([tokens, self.padding.expand(rows, -1)], dim=1)[:, : self.question]
        text = torch.cat([filled, self.equals.expand(rows, -1)], dim=1)
        for _ in range(self.answer):
            digit = self.network(text)[:, -1].argmax(dim=1, keepdim=True)
            text = torch.cat([text, digit], dim=1)
        digits = text[:, -self.answer :]
        return (digits * self.powers).sum(dim=1, keepdim=True)


def tokenizer() -> bytes:
    """Return the file of the tokenizer that makes the rows of the data set of texts.

    Spaces, a final `=` and zeros before a number are dropped. Any other text becomes `?`, whose
    number is beyond the range of the input, so the service refuses it.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    number, zeros, other = f"[0-9]{{1,{DIGITS}}}", r"(?<![0-9])0+(?=[0-9])", "?"
    vocabulary = {character: at for at, character in enumerate(CHARACTERS[:PADDING])}
    made = Tokenizer(models.WordLevel(vocabulary | {other: len(CHARACTERS)}, unk_token=other))
    made.normalizer = normalizers.Sequence([
        normalizers.Replace(Regex(r"\s+|=\s*\z"), ""),
        normalizers.Replace(Regex(zeros), ""),
        normalizers.Replace(Regex(rf"\A(?!{number}\+{number}\z)(?m:.*)\z"), other),
    ])  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return made.to_str(pretty=True).encode()


def _build(hyperparameters: TransformerHyperparameters, data: Dataset) -> nn.Module:
    return decoder(
        len(CHARACTERS),
        data.train.inputs.shape[1],
        data.outputs,
        hyperparameters.width,
        hyperparameters.layers,
        hyperparameters.heads,
    )


def _served(network: nn.Module, data: Dataset) -> Served:
    """Return the network that writes the sum, with the tokenizer of questions.

    The module fills each row up to the longest question, so rows of unequal lengths are batched.
    """
    name, example = _TOKENS.name, tuple(tokens([EXAMPLE])[0].tolist())
    return Served(
        Adder(network).eval(),
        (_TOKENS,),
        (_SUM,),
        arguments=lambda rows: (rows[:, :QUESTION],),
        card={
            "text": TextSpec(ids=name, max_tokens=QUESTION, example=EXAMPLE, example_ids=example),
            "padding": PaddingSpec(
                inputs={name: PaddedInput(axis=1, value=PADDING)}, outputs={}, lengths=(QUESTION,)
            ),
            "batched_shapes": ({name: (QUESTION,)},),
        },
        files={TOKENIZER_FILE: tokenizer()},
    )


@torch.inference_mode()
def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    """Return where each layer looks while it writes the sum of the example."""
    answer = f"{sum(map(int, EXAMPLE.split('+'))):0{ANSWER}}"[::-1]
    text = f"{EXAMPLE}={answer[:-1]}"
    x, weights = tokens([text]), []
    for layer in network.children():
        if isinstance(layer, Block):
            weights.append(layer.attention(x)[0].mean(dim=0))
        x = layer(x)
    return {"attention": plots.attention(weights, text, answer)}


adder_transformer = Recipe(
    name="adder-transformer",
    summary="A decoder-only Transformer that adds two numbers of up to three digits.",
    data="sums",
    tutorial=TransformerHyperparameters(
        epochs=2, batch_size=64, optimizer="adamw", lr=5e-4, weight_decay=0.1, clip_norm=1,
        keep="last", width=48, layers=3, heads=3,
    ),
    default=TransformerHyperparameters(
        epochs=10,
        batch_size=256,
        optimizer="adamw",
        lr=3e-3,
        weight_decay=0.01,
        lr_scheduler="one-cycle",
        clip_norm=1,
        width=64,
        layers=2,
        heads=4,
    ),
    build=_build,
    metric="accuracy",
    seeds=3,
    intended_use="Learn, and show, how a decoder writes an answer token by token: here, a sum.",
    limits=(
        "It adds whole numbers from 0 to 999, which it has learned from examples: a sum may be "
        "wrong, and the network does not know it. Do not use it to calculate.",
        "Its accuracy is that of whole sums: each of the four digits is right.",
    ),
    input_kind="tokens",
    served=_served,
    pictures=_pictures,
)  # fmt: skip
