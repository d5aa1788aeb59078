"""Values that a network cannot compute, in every format: 400 with a reason, and no other effect.

Each network is added as a user would, and computes valid input before and after.
"""

import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from live_server import Server, serving, temporary_home
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from models.__main__ import main
from models.kinds.tensor_spec import TensorSpec
from models.package.repository import ModelRepository

WORDS = 50
BLACK = np.zeros((1, 28, 28), np.uint8)
TABLE = np.arange(3.0 * WORDS, dtype=np.float32).reshape(WORDS, 3)
DATATYPES = {"int64": "INT64", "float32": "FP32", "uint8": "UINT8"}

node = helper.make_node


class Lookup(nn.Module):
    """Rows of a table by their indices, in TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(TABLE.copy()), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """FP32 [N, L, 3] of tokens [N, L]."""
        return nn.functional.embedding(tokens, self.table)


Declared = list[tuple[str, int, list[str | int]]]


def onnx_file(
    nodes: list[Any], inputs: Declared, outputs: Declared, **constants: NDArray[Any]
) -> bytes:
    """Return a graph; each input and output is (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return content


def lookup(*, plain: bool = False) -> bytes:
    """The same in ONNX; unless it is plain, with a sum in between, so no range is known."""
    nodes = [node("Add", ["tokens", "none"], ["sums"]), node("Gather", ["table", "sums"], ["rows"])]
    return onnx_file(
        [node("Gather", ["table", "tokens"], ["rows"])] if plain else nodes,
        [("tokens", T.INT64, ["batch", "length"])],
        [("rows", T.FLOAT, ["batch", "length", 3])],
        table=TABLE,
        none=np.array(0, np.int64),
    )


def pair() -> bytes:
    """Return a network with the sum of two sequences of one length."""
    return onnx_file(
        [node("Add", ["a", "b"], ["sum"])],
        [("a", T.FLOAT, ["batch", "one"]), ("b", T.FLOAT, ["batch", "other"])],
        [("sum", T.FLOAT, ["batch", "length"])],
    )


def filtered() -> bytes:
    """Return a network for pictures of at least 5 x 5 pixels, which removes two on each side."""
    return onnx_file(
        [node("MaxPool", ["pixels"], ["seen"], kernel_shape=[5, 5])],
        [("pixels", T.FLOAT, ["batch", 1, "height", "width"])],
        [("seen", T.FLOAT, ["batch", 1, "less", "lesser"])],
    )


def digits() -> bytes:
    """Return ten probabilities of an image, whose largest pixel is an index into 200 rows."""
    return onnx_file(
        [
            node("Cast", ["image"], ["numbers"], to=T.FLOAT),
            node("ReduceMax", ["numbers", "axes"], ["largest"], keepdims=0),
            node("Cast", ["largest"], ["index"], to=T.INT64),
            node("Gather", ["table", "index"], ["probabilities"]),
        ],
        [("image", T.UINT8, ["batch", 28, 28])],
        [("probabilities", T.FLOAT, ["batch", 10])],
        table=np.full((200, 10), 0.1, np.float32),
        axes=np.array([1, 2]),
    )


def add(folder: Path, name: str, content: bytes, *options: str) -> None:
    """Add the network to the repository in the folder."""
    (folder / f"{name}.onnx").write_bytes(content)
    repository = ("--repository", str(folder / "repository"))
    assert main(["add", name, "--onnx", str(folder / f"{name}.onnx"), *options, *repository]) == 0


def sample(folder: Path, name: str, **rows: NDArray[Any]) -> tuple[str, str]:
    """Return the option with these sample rows."""
    np.savez(folder / f"{name}.npz", **rows)
    return "--sample", str(folder / f"{name}.npz")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that do not accept every value of their shapes."""
    folder = tmp_path_factory.mktemp("picky")
    random = np.random.default_rng(0)
    tokens = random.integers(0, WORDS, (8, 4))
    add(folder, "lookup", lookup(), *sample(folder, "tokens", tokens=tokens))
    add(folder, "ranged", lookup(plain=True))
    a, b = random.normal(size=(2, 8, 3)).astype(np.float32)
    add(folder, "pair", pair(), *sample(folder, "pair", a=a, b=b))
    add(folder, "filtered", filtered())
    images = random.integers(0, 200, (8, 28, 28)).astype(np.uint8)
    add(folder, "digits", digits(), *sample(folder, "digits", image=images))
    module = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(Lookup().eval()), module)
    (folder / "lookup.pt").write_bytes(module.getvalue())
    add(
        folder, "scripted", lookup(), *sample(folder, "tokens", tokens=tokens),
        "--torchscript", str(folder / "lookup.pt"),
    )  # fmt: skip
    (folder / "repository" / "scripted" / "1" / "model.onnx").unlink()
    return folder / "repository"


@pytest.fixture(scope="module")
def server(root: Path, repository: Path) -> Iterator[Server]:
    """A server of these networks; its log must not contain faults of its own."""
    scripted = repository / "scripted" / "1" / "card.json"
    card = json.loads(scripted.read_text())
    del card["files"]["model.onnx"]  # otherwise the faster of both would serve
    scripted.write_text(json.dumps(card))
    settings = {"FITSERVE_MODEL_REPOSITORY": str(repository), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        log = started.read_log()
        assert not re.search(r"request \S+ failed|Traceback|refused", log), started.tail()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the server."""
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def ask(
    client: httpx.Client, name: str, format_name: str, **inputs: NDArray[Any]
) -> httpx.Response:
    """Send the request as JSON, with binary tensors, or as raw bytes."""
    path = f"/v2/models/{name}/infer"
    tail = b"".join(array.tobytes() for array in inputs.values())
    if format_name == "raw":
        return client.post(path, content=tail, headers={"Inference-Header-Content-Length": "0"})
    tensors = [
        {"name": key, "shape": array.shape, "datatype": DATATYPES[array.dtype.name]}
        | (
            {"data": array.ravel().tolist()}
            if format_name == "json"
            else {"parameters": {"binary_data_size": array.nbytes}}
        )
        for key, array in inputs.items()
    ]
    header = json.dumps({"inputs": tensors}).encode()
    if format_name == "json":
        return client.post(path, content=header)
    sizes = {"Inference-Header-Content-Length": str(len(header))}
    return client.post(path, content=header + tail, headers=sizes)


def ids(*values: int) -> NDArray[np.int64]:
    """Return one row of indices."""
    return np.array([values], np.int64)


def floats(*shape: int) -> NDArray[np.float32]:
    """Return ones."""
    return np.ones(shape, np.float32)


NOT_TAKEN = {
    "a word beyond the table": (
        "lookup", {"tokens": ids(3, WORDS)}, {"tokens": ids(3, 4)},
        r"Model 'lookup' cannot compute this request: indices element out of data bounds, idx=50 "
        r"must be within the inclusive range \[-50,49\]\.",
    ),
    "a word beyond the table, in TorchScript": (
        "scripted", {"tokens": ids(3, WORDS)}, {"tokens": ids(3, 4)},
        r"Model 'scripted' cannot compute this request: index out of range in self\.",
    ),
    "a word beyond the range": (
        "ranged", {"tokens": ids(3, WORDS)}, {"tokens": ids(3, 4)},
        r"The input 'tokens' holds 50; model 'ranged' takes 0 to 49\.",
    ),
    "a negative index": (
        "ranged", {"tokens": ids(-1, 3)}, {"tokens": ids(0, 3)},
        r"The input 'tokens' holds -1; model 'ranged' takes 0 to 49\.",
    ),
    "lengths that do not fit": (
        "pair", {"a": floats(1, 3), "b": floats(1, 4)}, {"a": floats(1, 4), "b": floats(1, 4)},
        r"Model 'pair' cannot compute this request: Attempting to broadcast .* 3 by 4\.",
    ),
    "an image too small": (
        "filtered", {"pixels": floats(1, 1, 3, 3)}, {"pixels": floats(1, 1, 9, 9)},
        r"Model 'filtered' cannot compute this request: Calculated output dimension is negative.*",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "format_name"),
    [
        (case, format_name)
        for case, (name, *_) in NOT_TAKEN.items()
        for format_name in ("json", "binary", "raw")
        # A raw request needs one input with one free dimension.
        if format_name != "raw" or name not in ("pair", "filtered")
    ],
)
def test_a_bad_value_is_refused_with_one_sentence_in_every_format(
    case: str, format_name: str, client: httpx.Client
) -> None:
    name, wrong, right, sentence = NOT_TAKEN[case]
    assert ask(client, name, format_name, **right).status_code == 200
    response = ask(client, name, format_name, **wrong)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert re.fullmatch(sentence, error), error
    assert "\n" not in error
    assert not re.search(r"(?<!\w)/\w", error), error
    assert ask(client, name, format_name, **right).status_code == 200


def test_the_typed_endpoints_refuse_bad_values(client: httpx.Client) -> None:
    white = BLACK.copy()
    white[0, 0, 0] = 255
    for images, status in ((BLACK, 200), (white, 400), (BLACK, 200)):
        body = {"images": images.tolist(), "model": "digits"}
        response = client.post("/classify_digits", json=body)
        assert response.status_code == status, response.text
        if status == 400:
            assert "Model 'digits' cannot compute this request" in response.json()["error"]


def test_a_picture_with_pixels_outside_the_range_is_refused(client: httpx.Client) -> None:
    file = io.BytesIO()
    picture = Image.new("L", (40, 40), 255)
    picture.paste(0, (15, 5, 25, 35))
    picture.save(file, "PNG")
    response = client.post(
        "/classify_image", files={"images": file.getvalue()}, data={"model": "digits"}
    )
    assert response.status_code == 400, response.text
    assert "Model 'digits' cannot compute this request: indices" in response.json()["error"]


def test_the_card_and_its_page_show_the_range(client: httpx.Client, repository: Path) -> None:
    spec = client.get("/models/ranged").json()["inputs"][0]
    assert (spec["minimum"], spec["maximum"], spec["enforced"]) == (0, WORDS - 1, True)
    package = ModelRepository(repository).get("ranged")
    assert isinstance(package.card.inputs[0], TensorSpec)
    assert "0 to 49; others are refused" in (package.path / "README.md").read_text()


def test_a_bad_value_is_counted_as_bad_input(client: httpx.Client) -> None:
    counted = re.compile(r'fitserve_\w+\{[^}]*reason="(\w+)"[^}]*\} ([\d.]+)')
    ask(client, "lookup", "json", tokens=ids(WORDS))
    counts = dict(counted.findall(client.get("/metrics").text))
    assert float(counts.get("bad_input", 0)) > 0, counts
    assert float(counts.get("model_fault", 0)) == 0, counts
