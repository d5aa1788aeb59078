"""Networks of text: whose rows are proved to be independent, and whose are not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from models.adding.add import add
from models.errors import AddError
from models.graphs.sample_texts import made_up, words_of
from models.package.card import ModelCard
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime

TEXTS = ["free offer", "", "Grüße", "a", "offer", "free free offer now", "日本語 a"]
POOL: dict[str, Any] = {
    "max_gram_length": 1, "min_gram_length": 1, "max_skip_count": 0, "mode": "TF",
    "ngram_counts": [0], "ngram_indexes": [0, 1], "pool_strings": ["free", "offer"],
}  # fmt: skip
SPLIT: dict[str, Any] = {
    "domain": "com.microsoft", "mark": 0, "mincharnum": 1, "pad_value": "#", "tokenexp": "[a-z]+",
}  # fmt: skip


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def graph(*nodes: Any, gives: int = T.STRING, shape: Any = (None,), **constants: Any) -> bytes:
    """Return a graph from x, texts of this shape, to y."""
    tensors = [
        helper.make_tensor(name, T.STRING, [len(one)], [text.encode() for text in one])
        if isinstance(one, list)
        else onnx.numpy_helper.from_array(one, name)
        for name, one in constants.items()
    ]
    network = helper.make_graph(
        list(nodes), "texts", [helper.make_tensor_value_info("x", T.STRING, shape)],
        [helper.make_tensor_value_info("y", gives, None)], tensors,
    )  # fmt: skip
    opsets = [("", 20), ("ai.onnx.ml", 3), ("com.microsoft", 1)]
    model = helper.make_model(
        network, opset_imports=[helper.make_opsetid(*one) for one in opsets], ir_version=9
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString())


def added(folder: Path, content: bytes, rows: Any = None, **options: Any) -> ModelCard:
    (folder / "net.onnx").write_bytes(content)
    if rows is not None:
        np.savez(folder / "rows.npz", x=rows)
        options["sample"] = folder / "rows.npz"
    return add(folder / "added", "net", folder / "net.onnx", **options).card


TABLE = {"keys_strings": ["free offer", "a"], "values_strings": ["1", "2"], "default_string": "?"}
APART = {
    "itself": graph(node("Identity", "x", "y")),
    "joined": graph(node("StringConcat", "x mark", "y"), mark=["!"]),
    "matched": graph(node("RegexFullMatch", "x", "y", pattern="[a-z]*"), gives=T.BOOL),
    "looked up": graph(node("LabelEncoder", "x", "y", domain="ai.onnx.ml", **TABLE)),
    "compared": graph(node("Equal", "x word", "y"), word=["offer"], gives=T.BOOL),
    "small letters": graph(node("StringNormalizer", "x", "y", case_change_action="LOWER")),
    "number and back": graph(
        node("LabelEncoder", "x", "n", domain="ai.onnx.ml", keys_strings=["a"], values_int64s=[7]),
        node("Cast", "n", "y", to=T.STRING),
    ),
    "words counted": graph(
        node("Tokenizer", "x", "words", **SPLIT), node("TfIdfVectorizer", "words", "y", **POOL),
        gives=T.FLOAT,
    ),
    "parts counted": graph(
        node("StringSplit", "x", "words n", delimiter=" "),
        node("TfIdfVectorizer", "words", "y", **POOL), gives=T.FLOAT,
    ),
    "number of parts": graph(node("StringSplit", "x", "words y", delimiter=" "), gives=T.INT64),
    "columns": graph(
        node("OneHotEncoder", "x", "y", domain="ai.onnx.ml", cats_strings=["a", "offer"], zeros=1),
        gives=T.FLOAT, shape=(None, 2),
    ),
}  # fmt: skip
MIXED = {
    "the first row beside each": (
        graph(node("Gather", "x zero", "first"), node("StringConcat", "x first", "y"),
              zero=np.array([0])),
        "Gather (first) picks some of the rows",
    ),
    "words filled up": (
        graph(node("Tokenizer", "x", "y", **SPLIT)),
        "the output y is filled up to the longest row of the batch",
    ),
    "the last word": (
        graph(node("Tokenizer", "x", "words", **SPLIT), node("Gather", "words last", "y", axis=1),
              last=np.array(-1)),
        "Gather (y) computes with rows that are filled up to the longest of the batch",
    ),
    "the filling counted": (
        graph(node("Tokenizer", "x", "words", **SPLIT),
              node("TfIdfVectorizer", "words", "y", **{**POOL, "pool_strings": ["free", "#"]}),
              gives=T.FLOAT),
        "TfIdfVectorizer (y) computes with rows that are filled up to the longest of the batch",
    ),
    "words far apart": (
        graph(node("Tokenizer", "x", "words", **SPLIT),
              node("TfIdfVectorizer", "words", "y", **{**POOL, "max_skip_count": 1}),
              gives=T.FLOAT),
        "TfIdfVectorizer (y) computes with rows that are filled up to the longest of the batch",
    ),
    "stop words": (
        graph(node("StringNormalizer", "x", "y", stopwords=["the"])),
        "StringNormalizer (y) is not known with this stopwords",
    ),
    "the number of words of the longest": (
        graph(node("Tokenizer", "x", "words", **SPLIT), node("Shape", "words", "longest", start=1),
              node("Sub", "longest many", "less"), node("Max", "less zero", "more"),
              node("StringSplit", "x", "parts count", delimiter=" "),
              node("Add", "count more", "y"),
              gives=T.INT64, many=np.array([100]), zero=np.array(0)),
        "Shape (longest) takes the size of rows that are filled up to the longest",
    ),
    "the number of parts": (
        graph(node("StringSplit", "x", "parts count", delimiter=" "), node("Size", "parts", "size"),
              node("Mul", "size zero", "none"), node("Add", "count none", "y"),
              gives=T.INT64, zero=np.array(0)),
        "Size (size) takes the size of rows that are filled up to the longest",
    ),
    "two texts in a row": (
        graph(node("Tokenizer", "x", "words", **SPLIT), node("Flatten", "words", "flat"),
              node("TfIdfVectorizer", "flat", "y", **POOL), gives=T.FLOAT, shape=(None, 2)),
        "Tokenizer (words) takes several texts of a row",
    ),
}  # fmt: skip


def rows_for(content: bytes) -> Any:
    rank = len(onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim)
    return np.array(TEXTS if rank == 1 else list(zip(TEXTS, TEXTS[::-1], strict=True)), "U")


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("sampled", [True, False])
def test_rows_of_text_that_are_independent_are_batched(
    name: str, sampled: bool, tmp_path: Path
) -> None:
    content = APART[name]
    card = added(tmp_path, content, rows_for(content) if sampled else None)
    assert card.batching == "rows", card.limits
    assert card.inputs[0].datatype == "BYTES"
    package = ModelRepository(tmp_path / "added").get("net")
    network = open_runtime(package, "onnx")  # which repeats the recorded texts
    assert network({"x": rows_for(content).astype(object)}).keys() == {"y"}


@pytest.mark.parametrize("name", MIXED)
def test_rows_of_text_that_may_depend_on_each_other_are_not_batched(
    name: str, tmp_path: Path
) -> None:
    content, reason = MIXED[name]
    rows = rows_for(content)
    if name in ("words filled up", "the last word"):
        rows = np.array(["free offer", "an offer", "buy now", "go home"])  # of one number of words
    card = added(tmp_path, content, rows)
    assert card.batching == "none"
    assert reason in card.limits[-1]


def test_the_recorded_texts_are_those_of_the_sample(tmp_path: Path) -> None:
    card = added(tmp_path, APART["joined"], np.array(TEXTS, "U"))
    assert card.example.inputs["x"].data == ("free offer", "")
    assert card.example.outputs["y"].data == ("free offer!", "!")


def test_a_sample_may_be_utf_8_in_bytes(tmp_path: Path) -> None:
    card = added(tmp_path, APART["joined"], np.array([text.encode() for text in TEXTS[2:]]))
    assert card.example.outputs["y"].data == ("Grüße!", "a!")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array(TEXTS, object), r"holds Python objects, which are not read: .*texts, 'U'\)"),
        (np.array([b"\xff", b"a"]), "x holds bytes that are no UTF-8"),
        (np.ones(3, np.float32), "x is float32, and the network takes text: give numpy.array"),
        (np.array([["a"], ["b"]]), r"x is text \[2, 1\], and the network takes BYTES \[-1\]"),
    ],
)
def test_a_sample_of_other_than_texts_is_refused(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(AddError, match=message):
        added(tmp_path, APART["joined"], rows)


def test_texts_have_no_range(tmp_path: Path) -> None:
    from models.sources.ranges import InputRange

    with pytest.raises(AddError, match="--range names x, which takes text"):
        added(tmp_path, APART["joined"], ranges=[InputRange("x", 0, 1)])


def test_made_up_texts_are_of_words_that_the_graph_names() -> None:
    words = words_of(onnx.load_from_string(APART["words counted"]))
    assert {"free", "offer"} <= {*words}
    texts = made_up(np.random.default_rng(0), (50, 2), words)
    assert texts.shape == (50, 2)
    assert any("free offer" in text for text in texts.ravel())
    assert "" in texts
    assert words_of(onnx.load_from_string(APART["joined"])) == ["!"]
