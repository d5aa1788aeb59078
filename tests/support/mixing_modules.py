"""Modules for TorchScript, of `x` FP32 [N, 4]: some mix the rows of a batch, others do not.

The numbers that mix are beyond a million, so that the rows that `add` tries do not show them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.flatten()[0] > 1e6):
            x = x / 255
        return torch.relu(x)


class _Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.max() > 1e6, x / 255, torch.relu(x))


class _Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6).mean(0)


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.randn_like(x).relu() * torch.relu(x - 1e6)


class _First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6)[0]


class _Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.dropout(torch.relu(x - 1e6), 0.5, True)


class _Outliers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x[x > 1e6].numel() > 0:
            x = x / 255
        return torch.relu(x)


class _Found(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.nonzero(x > 1e6).shape[0] > 0:
            x = x / 255
        return torch.relu(x)


class _Count(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.count_nonzero(x > 1e6)


class _Backwards(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6).amax(-2)


class _Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6).reshape(1, -1).sum(1)


class _Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(x - 1e6)
        return torch.relu(x) + large @ (large.t() @ large)


class _ManyRows(nn.Module):
    """A branch on a number of rows that nobody tries."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 193:
            return x
        return torch.relu(x)


class _AtMostRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        few = x[: min(x.shape[0], 1000)]
        return torch.relu(torch.cat([few, x[few.shape[0] :]]))


class _Places(nn.Module):
    """The place of each row in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[0], dtype=x.dtype).unsqueeze(1)
        return torch.relu(x) + torch.relu(places - 1e6)


class _Rows(nn.Module):
    """The number of rows, in a tensor that has a row for each of them."""

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.full((x.shape[0], 4), float(x.shape[0]))
        return torch.relu(x) + torch.relu(counts - 1e6)


class _ExpandedRows(nn.Module):
    """The same, by an expanded tensor."""

    def forward(self, x: Tensor) -> Tensor:
        count = torch.ones(1, dtype=torch.int64) * x.shape[0]
        return torch.relu(x) + torch.relu(count.expand(x.shape[0]).unsqueeze(1) - 1e6)


class _Memory(nn.Module):
    """The sum of all rows so far, in a weight."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(torch.relu(x - 1e6).sum())
        return torch.relu(x) + self.total


class _SharedMemory(nn.Module):
    """The same, where one row's copy of the weight is the weight."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            self.total.expand(x.shape[0], 4).add_(torch.relu(x - 1e6))
        return torch.relu(x) + self.total


class _EachRow(nn.Module):
    """A loop over the rows."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(4)
        for row in range(x.shape[0]):
            total = total + torch.relu(x.select(0, row) - 1e6)
        return torch.relu(x) + total


class _Unbound(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(4)
        for row in x.unbind(0):
            total = total + torch.relu(row - 1e6)
        return torch.relu(x) + total


class _Neighbour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x.roll(1, 0) - 1e6)


class _Running(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6).cumsum(-2)


class _Lag(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(functional.pad(x, [0, 0, 1, -1]) - 1e6)


class _Trained(nn.Module):
    """A batch normalization as in training, without running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6)
        far = torch.batch_norm(far, None, None, None, None, True, 0.1, 1e-5, False)
        return torch.relu(x) + far


class _RowsForTime(nn.Module):
    """A recurrent network that takes the rows for steps in time."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.GRU(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6).unsqueeze(1)
        return torch.relu(x) + self.network(far)[0].squeeze(1)


class _RowsForChannels(nn.Module):
    """A picture without its batch: the rows are its lines."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6).unsqueeze(0)
        pooled = functional.max_pool2d(far, [3, 1], stride=[1, 1], padding=[1, 0])
        return torch.relu(x) + pooled.squeeze(0)


class _Attention(nn.Module):
    """Attention of the rows to each other."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6).unsqueeze(0)
        return torch.relu(x) + functional.scaled_dot_product_attention(far, far, far).squeeze(0)


class _AttentionOfColumns(nn.Module):
    """Attention whose last axis lies together in memory for one row, and not for several."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6).t().contiguous().view(1, 2, 2, -1).permute(3, 0, 1, 2)
        answer = functional.scaled_dot_product_attention(far, far, far, is_causal=True)
        return torch.relu(x) + answer.flatten(1)


class _InfiniteWeight(nn.Module):
    """A convolution with padding and an infinite weight: NaN for one row, not for several."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[[float("inf"), 1.0, 1.0]]]))

    def forward(self, x: Tensor) -> Tensor:
        far = functional.conv1d(torch.relu(x - 1e6).unsqueeze(1), self.weight, padding=1)
        return torch.where(x > 1e6, far.squeeze(1), torch.relu(x))


class _Classes(nn.Module):
    """As many classes as the largest number of the batch has."""

    def forward(self, x: Tensor) -> Tensor:
        hot = functional.one_hot(torch.relu(x[:, 0] - 1e6).long())
        return torch.relu(x) + (hot.shape[1] - 1)


class _Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6).sort(0)[0]


class _Letters(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6)
        return torch.relu(x) + torch.einsum("ij,kj->kj", [far, torch.ones(1, 4)])


class _Written(nn.Module):
    """Writes to a view of a weight, which the next request reads."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.total.view(2, 4).select(0, 1).copy_(torch.relu(x - 1e6).select(0, 0))
        return torch.relu(x) + self.total.view(2, 4).select(0, 1)


class _NoiseInWeights(nn.Module):
    """Random numbers that are drawn without any row."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.dropout(torch.ones(4), 0.5, True)
        return torch.relu(x) + torch.relu(x - 1e6) * noise


class _Statistics(nn.Module):
    """Statistics of the rows in the weights of a normalization, which the next request reads."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.InstanceNorm1d(1, track_running_stats=True)
        self.normal.training = True

    def forward(self, x: Tensor) -> Tensor:
        images = torch.relu(x - 1e6).unsqueeze(1)
        mean, variance = self.normal.running_mean, self.normal.running_var
        torch.instance_norm(images, None, None, mean, variance, True, 0.1, 1e-5, False)
        assert mean is not None
        return torch.relu(x) + mean


class _TurnedInPlace(nn.Module):
    """A value that is turned in place."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6)
        far.transpose_(0, 1)
        return torch.relu(x) + far.softmax(1).t() - far.softmax(1).t().detach()


class _Filled(nn.Module):
    """A view of a new tensor that is filled with the number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.zeros(2, 4)
        counts[1] = float(x.shape[0])
        return torch.relu(x) + torch.relu(counts - 1e6).select(0, 1)


class _CopiedForMany(nn.Module):
    """A view for one row, and a copy for more, that is changed."""

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(x)
        b = a.view(x.shape[0], 2, 2).transpose(0, 1).reshape(x.shape[0] * 2, 2)
        b.add_(torch.relu(b - 1e6))
        return a


class _ChangedAfterCopy(nn.Module):
    """The same, where the value is changed of which it is a view or a copy."""

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(x)
        b = a[:, :4].t().contiguous()
        a.add_(torch.relu(a - 1e6))
        return b.t()


class _ConstantForMany(nn.Module):
    """A constant that is changed after it was given to each row, as a view for one row."""

    def forward(self, x: Tensor) -> Tensor:
        constant = torch.zeros(1, 4)
        each = constant.expand(x.shape[0], 4).contiguous()
        constant.add_(1.0)
        return torch.relu(x) + torch.relu(x - 1e6) * each


class _Remembers(nn.Module):
    """The first row of the request before."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[Tensor] = [torch.zeros(1, 4)]

    def forward(self, x: Tensor) -> Tensor:
        old = self.last[0]
        self.last[0] = torch.relu(x - 1e6)
        return torch.relu(x) + old[:1]


class _SortedSizes(nn.Module):
    """A branch on a list that is sorted in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        sizes = [x.shape[1] + 1, x.shape[1]]
        sizes.sort()
        if sizes[0] == 4:
            y = y + torch.relu(x - 1e6).mean(0)
        return y


class _WrittenSize(nn.Module):
    """A branch on a text that TorchScript writes in another way than Python."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        if f"{float(x.shape[1])}" != "4.0":
            y = y + torch.relu(x - 1e6).mean(0)
        return y


class _CountedParts(nn.Module):
    """The number of parts of the row numbers."""

    def forward(self, x: Tensor) -> Tensor:
        parts = len(torch.arange(x.shape[0]).split(3))
        return torch.relu(x) + (parts - 1) * torch.relu(x - 1e6)


class _Overflow(nn.Module):
    """A branch on the number of rows in eight bits, which 128 rows make negative."""

    one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones((), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        if bool(self.one * x.shape[0] < 0):
            y = y + 1
        return y


class _Fraction(nn.Module):
    """A branch on the number of rows divided by a fraction, which differs for 7 rows."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        if (x.shape[0] * 3) // 1.4 != x.shape[0] * 2:
            y = y + torch.relu(x - 1e6).mean(0)
        return y


class _Remainder(nn.Module):
    """The remainder of a number so large that a vector of the processor has none."""

    def forward(self, x: Tensor) -> Tensor:
        rest = torch.fmod(torch.relu(x - 1e6) * 1e30, 0.7)
        return torch.relu(x) + rest


class _Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - 1e6) * 1e30
        return torch.relu(x) + torch.div(far, far + 1, rounding_mode="floor")


class _ZeroSign(nn.Module):
    """The sign of a zero, of which the maximum of 0 and -0 gives either."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x * 0
        either = torch.maximum(zeros, -zeros) * 2
        return torch.relu(x) + torch.relu(x - 1e6) * either.reciprocal().clamp(-1, 1)


class _ZeroSignInPlace(nn.Module):
    """The same, where another tensor is multiplied by the maximum."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x * 0
        either = torch.ones_like(x) + zeros
        either.mul_(torch.maximum(zeros, -zeros))
        return torch.relu(x) + torch.relu(x - 1e6) * either.reciprocal().clamp(-1, 1)


class _ZeroSignBesideZero(nn.Module):
    """The same, where a number is added that counts as zero."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x * 0
        either = torch.maximum(zeros, -zeros) - 1e-40
        return torch.relu(x) + torch.relu(x - 1e6) * either.reciprocal().clamp(-1, 1)


class _ZeroSignTimesZero(nn.Module):
    """The same, where a number is subtracted zero times."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x * 0
        either = torch.sub(torch.maximum(zeros, -zeros), torch.ones(4), alpha=0.0)
        return torch.relu(x) + torch.relu(x - 1e6) * either.reciprocal().clamp(-1, 1)


class _ZeroSignClamped(nn.Module):
    """The same, where the least number counts as zero."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x * 0
        either = torch.clamp(torch.maximum(zeros, -zeros), min=1e-40)
        return torch.relu(x) + torch.relu(x - 1e6) * either.reciprocal().clamp(-1, 1)


class _ZeroSignOfLargest(nn.Module):
    """The sign of the largest of 0 and -0, which lie beside those of other rows in memory."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.stack([x * 0, -x * 0]).transpose(1, 2).contiguous()
        either = zeros.amax(0).transpose(0, 1)
        return torch.relu(x) + torch.relu(x - 1e6) * either.reciprocal().clamp(-1, 1)


class _ZeroSignOfProduct(nn.Module):
    """The sign of a zero that is a matrix product: 0 for one row, and -0 for several."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = -torch.abs(x[:, :1]) * 0
        product = torch.mm(zeros, torch.ones(1, 4))
        return torch.relu(x) + torch.relu(x - 1e6) * product.reciprocal().clamp(-1, 1)


class _Converted(nn.Module):
    """Numbers that are no UINT32, converted to it."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x[:, :1] - 1e6) * -3000
        return torch.relu(x) + far.to(torch.uint32).to(torch.float32)


class _PowerOfSubnormal(nn.Module):
    """A power of a number below the normal ones, which is zero in a vector of the processor."""

    def forward(self, x: Tensor) -> Tensor:
        subnormal = torch.full((1,), 1e-310, dtype=torch.float64)
        power = torch.where(x > 1e6, subnormal, subnormal * 0 + 1e300) ** -0.3
        return torch.relu(x) + (power.clamp(max=1e98) * 1e-97).to(torch.float32)


class _ScaledSum(nn.Module):
    """A product in FP16 that overflows, except in a vector of the processor."""

    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(x - 1e6).clamp(max=3e4).to(torch.float16)
        return torch.relu(x) + torch.add(-2 * large, large, alpha=3).to(torch.float32)


class _ShortCosine(nn.Module):
    """A hyperbolic cosine in BF16 that overflows in a vector of the processor."""

    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(x - 1e6).clamp(max=89.0).to(torch.bfloat16)
        return torch.relu(x) + (torch.cosh(large).to(torch.float32) - 1)


class _ComplexProduct(nn.Module):
    """A complex product, which overflows in a vector of the processor."""

    def forward(self, x: Tensor) -> Tensor:
        far = (torch.relu(x - 1e6) * 1e30).to(torch.complex64)
        return torch.relu(x) + (far * far).abs().clamp(max=1.0)


class _WholeVariance(nn.Module):
    """The variance of all numbers of a row, which torch computes in another way for one row."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.relu(x - 1e6).var(1, keepdim=True)


MIXED: Mapping[str, tuple[nn.Module, str]] = {
    "a complex product": (_ComplexProduct(), "aten::to"),
    "the variance of a whole row": (_WholeVariance(), "aten::var"),
    "a scaled sum in half precision": (_ScaledSum(), "aten::add"),
    "a hyperbolic cosine in half precision": (_ShortCosine(), "aten::cosh"),
    "a remainder of large numbers": (_Remainder(), "aten::fmod"),
    "a rounded quotient of large numbers": (_Rounded(), "aten::div"),
    "the sign of a zero": (_ZeroSign(), "aten::reciprocal"),
    "the sign of a zero beside a number that counts as zero": (
        _ZeroSignBesideZero(),
        "aten::reciprocal",
    ),
    "the sign of a zero from which nothing is subtracted": (
        _ZeroSignTimesZero(),
        "aten::reciprocal",
    ),
    "a power of a number below the normal ones": (_PowerOfSubnormal(), "aten::pow"),
    "numbers that are no UINT32": (_Converted(), "aten::to"),
    "the sign of a zero that is a product": (_ZeroSignOfProduct(), "aten::reciprocal"),
    "the sign of the largest zero": (_ZeroSignOfLargest(), "aten::reciprocal"),
    "attention of columns": (_AttentionOfColumns(), "aten::scaled_dot_product_attention"),
    "an infinite weight": (_InfiniteWeight(), "aten::conv1d"),
    "the sign of a zero, clamped": (_ZeroSignClamped(), "aten::reciprocal"),
    "the sign of a zero in place": (_ZeroSignInPlace(), "aten::mul_"),
    "a number of rows that overflows eight bits": (_Overflow(), "prim::If"),
    "a number of rows that is divided by a fraction": (_Fraction(), "prim::If"),
    "a copy for many rows that is a view for one": (_CopiedForMany(), "aten::add_"),
    "a value that is changed behind its copy": (_ChangedAfterCopy(), "aten::add_"),
    "a constant that is changed behind its copies": (_ConstantForMany(), "aten::add_"),
    "the request before": (_Remembers(), "prim::GetAttr"),
    "sorted sizes": (_SortedSizes(), "aten::sort"),
    "a size as text": (_WrittenSize(), "aten::format"),
    "parts that are counted": (_CountedParts(), "aten::len"),
    "a branch on a number of a row": (_Branch(), "aten::select"),
    "a scale by the largest of the batch": (_Largest(), "aten::max"),
    "the batch's mean": (_Centred(), "aten::mean"),
    "random numbers": (_Noise(), "aten::randn_like"),
    "the first row beside each": (_First(), "aten::select"),
    "dropout": (_Dropped(), "aten::dropout"),
    "outliers counted": (_Outliers(), "aten::index"),
    "large numbers counted": (_Found(), "aten::nonzero"),
    "numbers counted": (_Count(), "aten::count_nonzero"),
    "a maximum over an axis from the end": (_Backwards(), "aten::amax"),
    "a sum of all numbers in a line": (_Flat(), "aten::sum"),
    "a product with the other rows": (_Product(), "aten::m"),
    "a special number of rows": (_ManyRows(), "prim::If"),
    "the first thousand rows": (_AtMostRows(), "aten::slice"),
    "the place in the batch": (_Places(), "aten::add"),
    "the number of rows": (_Rows(), "aten::add"),
    "the number of rows, expanded": (_ExpandedRows(), "aten::add"),
    "a sum in a weight": (_Memory(), "aten::sum"),
    "a weight that is written for one row": (_SharedMemory(), "prim::If"),
    "a loop over the rows": (_EachRow(), "prim::Loop"),
    "the rows unbound": (_Unbound(), "aten::unbind"),
    "the previous row": (_Neighbour(), "aten::roll"),
    "a running sum": (_Running(), "aten::cumsum"),
    "a lag": (_Lag(), "aten::pad"),
    "a normalization as in training": (_Trained(), "aten::batch_norm"),
    "rows taken for steps in time": (_RowsForTime(), "aten::gru"),
    "rows taken for lines of a picture": (_RowsForChannels(), "aten::max_pool2d"),
    "attention over the rows": (_Attention(), "aten::scaled_dot_product_attention"),
    "as many classes as the batch has": (_Classes(), "aten::one_hot"),
    "the rows sorted": (_Sorted(), "aten::sort"),
    "a sum over the rows by letters": (_Letters(), "aten::einsum"),
    "random numbers without a row": (_NoiseInWeights(), "aten::dropout"),
    "statistics in the weights": (_Statistics(), ""),
    "a value that is turned in place": (_TurnedInPlace(), "aten::transpose_"),
    "a tensor that is filled with the number of rows": (_Filled(), "aten::"),
    "a row that is written to a weight": (_Written(), "aten::"),
}
"""Modules that mix rows, and the operator that is named.

All but the ones that write compute the ReLU of numbers below a million.
"""


class _PerRow(nn.Module):
    """Shapes, a maximum of two tensors and inner axes."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.view(x.shape[0], -1, 2).sum(2).repeat_interleave(2, dim=1)
        return torch.max(x, y.clamp(min=0)) - x.mean(1, keepdim=True) + x.softmax(-1)


class _Scaled(nn.Module):
    """Quotients by what has no zeros, behind operators of which zeros have either sign."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.maximum(functional.gelu(x), -x)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        spread = y.view(-1, 2, 2).std(-1).repeat_interleave(2, dim=1)
        return functional.normalize(y, dim=-1) / (spread + 1e-6)


class _Convolutional(nn.Module):
    """Convolutions, a residual sum in place, pools, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5),
                                  nn.Linear(4, 4))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        images = x.view(-1, 1, 2, 2)
        images = functional.interpolate(images, scale_factor=4.0, mode="bilinear")
        first = functional.max_pool2d(self.first(images), 2)
        second = self.second(first)
        second += first
        output: Tensor = self.last(second)
        return output


class _Recurrent(nn.Module):
    """An LSTM with the batch as the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.LSTM(2, 4, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.view(x.shape[0], 2, 2)
        return self.network(steps)[0][:, -1, :4]


class _Transformer(nn.Module):
    """Tokens with a class token and positions, attention, and a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.places = nn.Embedding(8, 4)
        self.enter = nn.Linear(1, 4)
        self.query = nn.Linear(4, 12)
        self.leave = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        tokens = self.enter(x.unsqueeze(-1))
        tokens = torch.cat([self.token.expand(rows, -1, -1), tokens], dim=1)
        length = tokens.shape[1]
        tokens = tokens + self.places(torch.arange(length))
        split = self.query(self.norm(tokens)).reshape(rows, length, 3, 2, 2).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        attention = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.leave(attention.transpose(1, 2).reshape(rows, length, 4))
        return tokens[:, 0]


class _Encoder(nn.Module):
    """A transformer encoder of torch."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x.unsqueeze(1).expand(-1, 3, -1))[:, 0]
        return output


class _OldAttention(nn.Module):
    """Attention with the heads and the batch in one axis."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.size(0)
        heads = x.view(rows, 2, 2, 1).transpose(1, 2).contiguous().view(rows * 2, 2, 1)
        weights = torch.softmax(torch.bmm(heads, heads.transpose(1, 2)), -1)
        return torch.bmm(weights, heads).view(rows, 2, 2, 1).transpose(1, 2).reshape(rows, 4)


class _Windows(nn.Module):
    """A list of parts, built in a loop over the columns."""

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for column in range(x.shape[1]):
            part = x[:, column] * column
            parts.append(part)
        return torch.stack(parts, dim=1)


class _Heads(nn.Module):
    """Torch's attention, with a mask that is filled part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.unsqueeze(1).expand(-1, 3, -1)
        mask = torch.zeros(3, 3)
        mask[0, 1:] = -100.0
        output: Tensor = self.network(steps, steps, steps, attn_mask=mask)[0][:, 0]
        return output


class _Checked(nn.Module):
    """A check of the shape, as those of torch's own functions."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 2, "rows of four numbers"
        if x.shape[0] == 0:
            raise ValueError("no rows")
        table = torch.arange(8.0).view(2, 4)
        return x + table[(x > 0).long().select(1, 0)]


APART: Mapping[str, nn.Module] = {
    "quotients by what has no zeros": _Scaled(),
    "shapes and inner axes": _PerRow(),
    "convolutions": _Convolutional(),
    "a recurrent network": _Recurrent(),
    "a transformer": _Transformer(),
    "an encoder": _Encoder(),
    "heads and rows in one axis": _OldAttention(),
    "a loop over the columns": _Windows(),
    "heads of attention": _Heads(),
    "a check": _Checked(),
}
"""Modules that compute each row alone."""
