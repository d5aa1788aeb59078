"""Networks that take text: a pipeline of words, and a table of mixed columns.

Each is saved by one call, served, and compared with scikit-learn: over V2 in JSON and in binary, in
rows, and through an unmodified client of Triton; alone and by 8 concurrent callers.
"""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from infer_messages import raw_of, read_answer
from live_server import BIN, Server, serving, temporary_home
from messages import LENGTH
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fitserve
from models.package.repository import ModelRepository

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.timeout(600)
CALLERS, REQUESTS = 8, 6
CLIENT = BIN.parent / "clients/bin/python"

RANDOM = np.random.default_rng(0)
WORDS = ["cheap", "offer", "now", "noon", "lunch", "Zürich", "ÜBER", "café", "日本語", "I", "x1"]
TEXTS = [" ".join(RANDOM.choice(WORDS, RANDOM.integers(0, 9))) for _ in range(80)]
UNSEEN = [
    "",
    "?!",
    "a b c",
    "CHEAP café über",
    "offer\nnow\tzürich",
    "nothing known " * 200,
    "a\0b",
]
KINDS = np.where(["cheap" in text for text in TEXTS], "spam", "ham")
COUNT = 80
TABLE = pd.DataFrame(
    {
        "city": RANDOM.choice(["Roma", "Köln", "Paris"], COUNT),
        "plan": RANDOM.choice(["free", "paid"], COUNT),
        "age": RANDOM.integers(18, 80, COUNT),
        "income": RANDOM.normal(3e4, 1e4, COUNT),
    }
)
LEAVES = np.where((TABLE.age > 40) ^ (TABLE.city == "Roma"), "yes", "no")


def spam() -> Any:
    words = TfidfVectorizer(ngram_range=(1, 2))
    return make_pipeline(words, LogisticRegression()).fit(TEXTS, KINDS)


def leaving() -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer(
        [
            ("texts", OneHotEncoder(handle_unknown="ignore"), ["city", "plan"]),
            ("numbers", numbers, ["age", "income"]),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(TABLE, LEAVES)


class Own:
    """A network, with its rows as the service and as the estimator take them."""

    def __init__(self, network: Any, rows: Any, columns: dict[str, Any]) -> None:
        self.columns = columns
        self.labels = network.classes_.tolist()
        self.names = network.predict(rows).tolist()
        self.scores = network.predict_proba(rows)


def table_with(**changed: Any) -> Any:
    return TABLE.assign(**changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def networks(folder: Path) -> dict[str, Own]:
    words, table = spam(), leaving()
    fitserve.save("spam", words, TEXTS[:30], repository=folder)
    fitserve.save("leaving", table, TABLE[:30], repository=folder)
    texts = [*TEXTS, *UNSEEN]
    other = table_with(city=["Unknown", "", *TABLE.city[2:]])
    columns = {
        name: other[name].to_numpy(object if name in ("city", "plan") else np.float32)[:, None]
        for name in other
    }
    return {
        "spam": Own(words, texts, {"text": np.array(texts, object)[:, None]}),
        "leaving": Own(table, other, columns),
    }


@pytest.fixture(scope="module")
def server(root: Path, folder: Path, networks: dict[str, Own]) -> Iterator[Server]:
    settings = {"FITSERVE_MODEL_REPOSITORY": str(folder), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def inputs_of(own: Own, chosen: Any, *, binary: bool) -> tuple[list[Any], bytes]:
    """Return the inputs of some rows, and the bytes of those that are binary."""
    inputs, tail = [], b""
    for name, column in own.columns.items():
        rows = column[chosen]
        kind = "BYTES" if rows.dtype == object else "FP32"
        entry: dict[str, Any] = {"name": name, "shape": rows.shape, "datatype": kind}
        if binary:
            tail += (raw := raw_of(rows))
            entry["parameters"] = {"binary_data_size": len(raw)}
        else:
            entry["data"] = rows.ravel().tolist()
        inputs.append(entry)
    return inputs, tail


def infer(client: httpx.Client, name: str, own: Own, chosen: Any, *, binary: bool) -> Any:
    inputs, tail = inputs_of(own, chosen, binary=binary)
    body = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary}}).encode()
    headers = {LENGTH: str(len(body))} if binary else {}
    response = client.post(f"/v2/models/{name}/infer", content=body + tail, headers=headers)
    assert response.status_code == 200, response.text
    length = response.headers.get(LENGTH)
    return read_answer(response.content, None if length is None else int(length)).outputs


def check(own: Own, chosen: Any, outputs: Any) -> None:
    assert outputs["label"] == [own.names[at] for at in chosen]
    np.testing.assert_allclose(outputs["probabilities"], own.scores[chosen], atol=1e-5)


@pytest.mark.parametrize("name", ["spam", "leaving"])
def test_text_is_answered_as_scikit_learn_answers(
    name: str, networks: dict[str, Own], folder: Path, client: httpx.Client
) -> None:
    own, card = networks[name], ModelRepository(folder).get(name).card
    assert card.batching == "rows"
    assert [spec.name for spec in card.inputs] == [*own.columns]
    every = range(len(own.names))
    for binary in (False, True):
        check(own, every, infer(client, name, own, every, binary=binary))

    def once(number: int) -> None:
        random = np.random.default_rng(number)
        chosen = random.choice(len(own.names), random.integers(1, 9))
        check(own, chosen, infer(client, name, own, chosen, binary=number % 2 == 0))
        in_rows(client, name, own, chosen)

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(once, range(CALLERS * REQUESTS)))


def in_rows(client: httpx.Client, name: str, own: Own, chosen: Any) -> None:
    """Compare `/models/{name}/predict`, with a text or an object for a row."""
    rows: list[Any] = [
        {label: column[at, 0] for label, column in own.columns.items()} for at in chosen
    ]
    if len(own.columns) == 1:
        rows = [row["text"] for row in rows]
    rows = json.loads(json.dumps(rows, default=float))
    response = client.post(f"/models/{name}/predict", json={"instances": rows})
    assert response.status_code == 200, response.text
    for at, row in zip(chosen, response.json()["predictions"], strict=True):
        assert row["label"] == own.names[at]
        assert row["score"] == pytest.approx(own.scores[at].max(), abs=1e-5)
        assert row["scores"] == pytest.approx(dict(zip(own.labels, own.scores[at], strict=True)),
                                              abs=1e-5)  # fmt: skip


def test_every_dialect_takes_columns_of_text_and_numbers(
    networks: dict[str, Own], client: httpx.Client
) -> None:
    own = networks["leaving"]
    rows = [[column[at, 0] for column in own.columns.values()] for at in range(4)]
    split = {"columns": [*own.columns], "data": json.loads(json.dumps(rows, default=float))}
    records = [dict(zip(own.columns, row, strict=True)) for row in split["data"]]
    lines = "\n".join([",".join(own.columns), *(",".join(map(str, row)) for row in rows)])
    header = {"X-Model": "leaving"}
    for path, body in (
        ("/invocations", {"json": {"dataframe_split": split}}),
        ("/invocations", {"json": {"dataframe_records": records}}),
        ("/invocations", {"content": lines, "type": "text/csv"}),
        ("/v1/models/leaving:predict", {"json": {"instances": records}}),
    ):
        headers = {**header, "Content-Type": body.pop("type", "application/json")}
        response = client.post(path, headers=headers, **body)
        assert response.status_code == 200, response.text
        for at, row in enumerate(response.json()["predictions"]):
            assert row["label"] == own.names[at]
            np.testing.assert_allclose(row["probabilities"], own.scores[at], atol=1e-5)
    columns = {"inputs": {"text": TEXTS[:3]}}
    answered = client.post("/v1/models/spam:predict", json=columns).json()["outputs"]
    assert answered["label"] == networks["spam"].names[:3]
    csv = client.post("/invocations", content="cheap offer\n\"lunch, at\"\n",
                      headers={"X-Model": "spam", "Content-Type": "text/csv"})  # fmt: skip
    assert [row["label"] for row in csv.json()["predictions"]] == ["spam", "ham"]
    wrong = lines.replace(str(rows[0][2]), "old", 1)
    refused = client.post("/invocations", content=wrong,
                          headers={**header, "Content-Type": "text/csv"})  # fmt: skip
    assert refused.status_code == 400
    assert "holds a value that is no number" in refused.text


def test_metadata_and_classes_name_the_texts(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/spam").json()
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    config = client.get("/v2/models/spam/config").json()
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    asked = [{"name": "probabilities", "parameters": {"classification": 1}}]
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["cheap offer"]}
    response = client.post("/v2/models/spam/infer", json={"inputs": [tensor], "outputs": asked})
    (found,) = response.json()["outputs"][0]["data"]
    assert found.endswith(":1:spam")


_TRITONCLIENT = """
import sys
import numpy as np
import tritonclient.http as triton
url, texts = sys.argv[1], sys.argv[2:]
client = triton.InferenceServerClient(url)
rows = np.array([[text.encode()] for text in texts], np.object_)
for binary in (False, True):
    tensor = triton.InferInput("text", rows.shape, "BYTES")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    outputs = [triton.InferRequestedOutput("label", binary_data=binary)]
    print([one.decode() if isinstance(one, bytes) else one
           for one in client.infer("spam", [tensor], outputs=outputs).as_numpy("label").tolist()])
"""


@pytest.mark.skipif(not CLIENT.exists(), reason="`make test` builds it")
def test_tritons_client_sends_and_gets_texts(networks: dict[str, Own], server: Server) -> None:
    texts = [text for text in networks["spam"].columns["text"][:, 0] if "\0" not in text][-9:]
    at = [networks["spam"].columns["text"][:, 0].tolist().index(text) for text in texts]
    done = subprocess.run(
        [CLIENT, "-c", _TRITONCLIENT, server.url.removeprefix("http://"), *texts],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str([networks["spam"].names[one] for one in at])] * 2


def test_rows_without_some_numbers_are_left_out_of_the_checks(tmp_path: Path) -> None:
    sample = TABLE[:30].assign(income=[np.nan, *TABLE.income[1:30]])
    fitserve.save("leaving", leaving(), sample, repository=tmp_path)
    card = ModelRepository(tmp_path).get("leaving").card
    assert card.parity[0].samples == 29
    assert "Rows that lack numbers are left out of its checks." in card.limits


def test_a_mapping_of_columns_is_a_table(tmp_path: Path) -> None:
    columns = {name: TABLE[name][:30].to_list() for name in TABLE}
    fitserve.save("leaving", leaving(), columns, repository=tmp_path)
    assert [spec.datatype for spec in ModelRepository(tmp_path).get("leaving").card.inputs] == [
        "BYTES", "BYTES", "FP32", "FP32",
    ]  # fmt: skip


def words_like(pattern: str, **options: Any) -> Any:
    return CountVectorizer(token_pattern=pattern, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (CountVectorizer(analyzer="char"), "fit it with analyzer='word'"),
        (CountVectorizer(stop_words="english", ngram_range=(1, 2)), "without one of the two"),
        (words_like(r"\S+"), "token_pattern=.* may match other words"),
        (words_like(r"(?u)\b\w(?=\w)\b|\w+"), "may match other words"),
    ],
    ids=["characters", "stop words", "no space", "looks ahead"],
)
def test_words_that_onnx_would_split_otherwise_are_refused(
    words: Any, message: str, tmp_path: Path
) -> None:
    network = make_pipeline(words, LogisticRegression()).fit(TEXTS, KINDS)
    with pytest.raises(fitserve.ExportError, match=message):
        fitserve.save("net", network, TEXTS[:9], repository=tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        words_like(r"(?u)\b\w+\b", lowercase=False, binary=True),
        words_like("[a-z]+", ngram_range=(1, 2)),
        CountVectorizer(stop_words="english", max_features=5),
    ],
    ids=["all words", "small letters", "stop words"],
)
def test_words_of_other_vectorizers_are_those_of_scikit_learn(words: Any, tmp_path: Path) -> None:
    network = make_pipeline(words, LogisticRegression()).fit(TEXTS, KINDS)
    fitserve.save("net", network, [*TEXTS, *UNSEEN[:-1]], repository=tmp_path)
    card = ModelRepository(tmp_path).get("net").card
    assert (card.batching, card.parity[0].samples) == ("rows", len(TEXTS) + len(UNSEEN) - 1)
