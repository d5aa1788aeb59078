"""The network for rows of a table: numbers are scaled and divided into bins, categories embedded.

Scaling, bins and vocabularies are parts of the network, and so of the package. All are taken from
the training split.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.datasets.table import UNKNOWN, TableDataset
from training.hyperparameters import TableHyperparameters
from training.networks.feedforward import Affine, mlp

QUANTILE_ROWS = 100_000
"""Rows that the bins are computed of; more would not move them."""
_UNREACHED = 3e38
"""The lower end of a bin that no number reaches."""


class Numbers(nn.Module):
    """Encodes numbers [N, places], NaN where missing, as float32 [N, `width`].

    A number without a period is scaled by mean and deviation, and encoded by the share of each bin
    that lies below it (Gorishniy et al., "On embeddings for numerical features in tabular deep
    learning", 2022). The bins have equal numbers of training rows. A number with a period becomes
    a point on a circle. A missing one becomes the mean, and a further number says that it is
    missing.

    Args:
        values: of the training split, float32 [N, places].
        periods: of each place; 0 for none.
        bins: of each number.
    """

    mean: Tensor
    scale: Tensor
    plain: Tensor
    low: Tensor
    width: Tensor
    cyclic: Tensor
    angle: Tensor
    incomplete: Tensor

    def __init__(self, values: Tensor, periods: Sequence[float], bins: int) -> None:
        super().__init__()
        has_period = torch.tensor(periods) > 0
        plain = (~has_period).nonzero().flatten()
        mean = values.nanmean(dim=0).nan_to_num(0)
        deviation = (values - mean).square().nanmean(dim=0).sqrt()[plain]
        self.register_buffer("mean", mean)
        self.register_buffer("plain", plain)
        self.register_buffer("scale", torch.where(deviation > 0, deviation, 1))
        self.register_buffer("cyclic", has_period.nonzero().flatten())
        self.register_buffer("angle", 2 * math.pi / torch.tensor(periods)[has_period])
        self.register_buffer("incomplete", values.isnan().any(dim=0).nonzero().flatten())
        low = torch.full((len(plain), bins), _UNREACHED)
        width = torch.ones_like(low)
        for at, place in enumerate(plain.tolist()):
            edges = _edges(values[:, place], bins)
            low[at, : len(edges) - 1] = edges[:-1]
            width[at, : len(edges) - 1] = edges.diff()
        self.register_buffer("low", low)
        self.register_buffer("width", width)
        self.outputs = len(plain) * (1 + bins) + 2 * len(self.cyclic) + len(self.incomplete)

    def forward(self, numbers: Tensor) -> Tensor:
        """Encode a batch."""
        missing = numbers.isnan()
        known = torch.where(missing, self.mean, numbers)
        plain = known.index_select(1, self.plain)
        scaled = (plain - self.mean.index_select(0, self.plain)) / self.scale
        shares = ((plain.unsqueeze(2) - self.low) / self.width).clamp(0.0, 1.0)
        # Numbers far from all of the training split must not lead far beyond its targets.
        parts = [scaled.clamp(-5.0, 5.0), shares.flatten(1)]
        if len(self.cyclic):
            angles = known.index_select(1, self.cyclic) * self.angle
            parts.append(angles.sin())
            parts.append(angles.cos())
        if len(self.incomplete):
            parts.append(missing.index_select(1, self.incomplete).to(numbers.dtype))
        return torch.cat(parts, dim=1)


def _edges(values: Tensor, bins: int) -> Tensor:
    """Return the ends of at most `bins` bins with equal numbers of values, increasing."""
    known = values[~values.isnan()]
    if not len(known):
        return torch.zeros(1)
    step = max(1, len(known) // QUANTILE_ROWS)
    ends: Tensor = known[::step].quantile(torch.linspace(0, 1, bins + 1)).unique()
    return ends


class Categories(nn.Module):
    """Embeds codes int64 [N, places] as float32 [N, `outputs`]; codes out of range as unknown ones.

    In training, a share of the codes is replaced by that of unknown categories, so that these are
    answered with what all have in common.

    Args:
        sizes: how many codes each place has.
        unknown: the share of codes that are replaced.
    """

    sizes: Tensor

    def __init__(self, sizes: Sequence[int], unknown: float) -> None:
        super().__init__()
        # The exponent and the factor are fastai's, found by trying tables.
        widths = [min(64, round(1.6 * size**0.56)) for size in sizes]
        self.unknown = unknown
        self.unknown_code = UNKNOWN  # TorchScript reads no globals
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.int64))
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(sizes, widths, strict=True)
        )
        self.outputs = sum(widths)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed a batch."""
        known = torch.logical_and(codes >= 0, codes < self.sizes)
        if self.training:
            kept = torch.rand(codes.shape, device=codes.device) >= self.unknown
            known = torch.logical_and(known, kept)
        codes = torch.where(known, codes, self.unknown_code)
        embedded = [embed(codes[:, at]) for at, embed in enumerate(self.embeddings)]
        return torch.cat(embedded, dim=1)


class TableNetwork(nn.Module):
    """An MLP on the encoded columns of a row; it returns logits, or values in the target's unit.

    Args:
        hyperparameters: of the network.
        data: whose training split gives scaling, bins and vocabularies.
    """

    def __init__(self, hyperparameters: TableHyperparameters, data: TableDataset) -> None:
        super().__init__()
        inputs, targets = data.train.inputs, data.train.targets
        self.places, width = data.numbers, 0
        self.numbers: Numbers | None = None
        self.categories: Categories | None = None
        if self.places:
            self.numbers = Numbers(inputs[:, : self.places], data.periods, hyperparameters.bins)
            width += self.numbers.outputs
        if data.sizes:
            self.categories = Categories(data.sizes, hyperparameters.unknown)
            width += self.categories.outputs
        self.layers = mlp(
            width, hyperparameters.hidden, data.outputs, "relu", hyperparameters.dropout
        )
        if data.task == "regression":
            mean, deviation = targets.mean(dim=0), targets.std(dim=0)
            self.layers.append(Affine(-mean / deviation, 1 / deviation))

    def forward(self, rows: Tensor) -> Tensor:
        """Answer rows of the data set, float32 [N, places]: numbers, then codes."""
        return self.answer(rows[:, : self.places], rows[:, self.places :].to(torch.int64))

    @torch.jit.export
    def answer(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Answer numbers, float32 [N, …], and codes, int64 [N, …]; either may have no columns."""
        encoded: list[Tensor] = []
        if self.numbers is not None:
            encoded.append(self.numbers(numbers))
        if self.categories is not None:
            encoded.append(self.categories(codes))
        values: Tensor = self.layers(torch.cat(encoded, dim=1))
        return values
