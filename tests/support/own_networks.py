"""Networks as other people write them, each with rows that it takes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeCV, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

ROWS = 12
"""The rows with which the server is asked."""


class Own(NamedTuple):
    """A network, and its rows: a mapping of the arguments, or an array."""

    network: Any
    rows: Any
    shorter: Any = None
    """Rows with other sizes of the free dimensions, if it has any."""


class SequenceClassifier(nn.Module):
    """Embedding, a recurrent layer, and the last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.layer = kind(16, 24, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs, _ = self.layer(self.embed(tokens))
        return self.head(outputs[:, -1])


class Encoder(nn.Module):
    """A small Transformer encoder with learned positions and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(100, 32), nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.embed(tokens) + self.place(places)
        hidden = self.layers(hidden, src_key_padding_mask=~mask)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return {"logits": self.head(pooled), "pooled": pooled}


class UNet(nn.Module):
    """Down, up, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.down(image)
        return self.out(torch.cat([skip, self.up(self.deep(skip))], dim=1))


class Variational(nn.Module):
    """An autoencoder that samples in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(20, 8), nn.Linear(4, 20)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, deviation = self.encode(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * deviation.exp() if self.training else mean
        return self.decode(code), mean, deviation


class Siamese(nn.Module):
    """The similarity of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(self.body(left), self.body(right))


class Mixed(nn.Module):
    """A table: numbers, and categories that are embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 4) for size in (7, 12, 30))
        self.norm = nn.BatchNorm1d(5)
        self.body = nn.Sequential(nn.Linear(17, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        embedded = [table(categories[:, at]) for at, table in enumerate(self.tables)]
        return self.body(torch.cat([self.norm(numbers), *embedded], dim=1))


class Dueling(nn.Module):
    """The values of actions, as reinforcement learning writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU())
        self.value, self.advantage = nn.Linear(32, 1), nn.Linear(32, 4)

    def forward(self, state: Tensor) -> Tensor:
        hidden = self.body(state)
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)


class Waves(nn.Module):
    """Convolutions over a signal of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 8, 5, padding=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveAvgPool1d(1)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.body(signal).squeeze(-1)).log_softmax(dim=1)


class Graphs(nn.Module):
    """Graph convolutions with a dense adjacency matrix for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        weights = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
        hidden = torch.relu(weights @ self.first(nodes))
        return (weights @ self.second(hidden)).mean(dim=1)


def generator() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2), nn.Unflatten(1, (8, 4, 4)),
        nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def normal(*shape: int) -> Any:
    return torch.randn(ROWS, *shape)


def tokens(length: int) -> Any:
    return torch.randint(0, 100, (ROWS, length))


def vision(make: Callable[..., nn.Module], **options: Any) -> Callable[[], Own]:
    return lambda: Own(make(weights=None, num_classes=10, **options), normal(3, 64, 64))


TORCH: dict[str, Callable[[], Own]] = {
    "lstm": lambda: Own(SequenceClassifier(nn.LSTM), tokens(9), tokens(5)),
    "gru": lambda: Own(SequenceClassifier(nn.GRU), tokens(9), tokens(5)),
    "rnn": lambda: Own(SequenceClassifier(nn.RNN), tokens(9), tokens(5)),
    "encoder": lambda: Own(
        Encoder(),
        {"tokens": tokens(9), "mask": torch.rand(ROWS, 9) > 0.3},
        {"tokens": tokens(5), "mask": torch.ones(ROWS, 5, dtype=torch.bool)},
    ),
    "u-net": lambda: Own(UNet(), normal(1, 16, 16)),
    "variational": lambda: Own(Variational(), normal(20)),
    "siamese": lambda: Own(Siamese(), {"left": normal(10), "right": normal(10)}),
    "mixed": lambda: Own(
        Mixed(), {"numbers": normal(5), "categories": torch.randint(0, 7, (ROWS, 3))}
    ),
    "dueling": lambda: Own(Dueling(), normal(8)),
    "waves": lambda: Own(Waves(), normal(2, 40), normal(2, 25)),
    "graphs": lambda: Own(
        Graphs(), {"nodes": normal(7, 6), "adjacency": (torch.rand(ROWS, 7, 7) > 0.5).float()}
    ),
    "generator": lambda: Own(generator(), normal(16)),
    "double": lambda: Own(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double(),
                          normal(4).double()),
    "resnet": vision(torchvision.models.resnet18),
    "squeezenet": vision(torchvision.models.squeezenet1_1),
    "mobilenet": vision(torchvision.models.mobilenet_v3_small),
    "shufflenet": vision(torchvision.models.shufflenet_v2_x0_5),
    "mnasnet": vision(torchvision.models.mnasnet0_5),
    "regnet": vision(torchvision.models.regnet_y_400mf),
}  # fmt: skip

CANCER, WINE, DIABETES = load_breast_cancer(), load_wine(), load_diabetes()
WINES = np.array(["first", "second", "third"])[WINE.target]


def table(estimator: Any, data: Any, target: Any = None) -> Callable[[], Own]:
    return lambda: Own(
        estimator.fit(data.data, data.target if target is None else target), data.data
    )


def boosted(library: str, kind: str, data: Any) -> Callable[[], Own]:
    def make() -> Own:
        module = __import__(library)
        quiet = {"verbose": -1} if library == "lightgbm" else {}
        network = getattr(module, kind)(n_estimators=12, **quiet).fit(data.data, data.target)
        return Own(network, data.data)

    return make


SKLEARN: dict[str, Callable[[], Own]] = {
    "logistic": table(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)), WINE, WINES
    ),
    "sgd": table(make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss")), CANCER),
    "bayes": table(GaussianNB(), WINE, WINES),
    "discriminant": table(LinearDiscriminantAnalysis(), WINE, WINES),
    "mlp": table(make_pipeline(StandardScaler(), MLPClassifier(max_iter=80)), WINE, WINES),
    "tree": table(DecisionTreeClassifier(max_depth=4), CANCER),
    "ada": table(AdaBoostClassifier(n_estimators=10), CANCER),
    "gradient": table(GradientBoostingClassifier(n_estimators=8), WINE, WINES),
    "histogram": table(HistGradientBoostingClassifier(max_iter=8), WINE, WINES),
    "voting": table(
        VotingClassifier(
            [("a", DecisionTreeClassifier(max_depth=3)), ("b", GaussianNB())],
            voting="soft",
            flatten_transform=False,
        ),
        WINE,
        WINES,
    ),
    "neighbours": table(KNeighborsClassifier(3), WINE, WINES),
    "ridge": table(make_pipeline(PolynomialFeatures(2), RidgeCV()), DIABETES),
    "svr": table(make_pipeline(MinMaxScaler(), SVR()), DIABETES),
    "forest": table(RandomForestRegressor(10), DIABETES),
    "extra": table(ExtraTreesRegressor(10), DIABETES),
    "mlp-values": table(MLPRegressor(hidden_layer_sizes=(16,), max_iter=60), DIABETES),
    "pca": table(PCA(3), WINE),
    "svd": table(TruncatedSVD(2), WINE),
    "xgboost": boosted("xgboost", "XGBClassifier", WINE),
    "xgboost-values": boosted("xgboost", "XGBRegressor", DIABETES),
    "lightgbm": boosted("lightgbm", "LGBMClassifier", WINE),
    "lightgbm-values": boosted("lightgbm", "LGBMRegressor", DIABETES),
}
"""41 networks with those of torch."""
