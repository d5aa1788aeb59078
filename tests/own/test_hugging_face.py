"""Folders of Hugging Face: served, and compared with Transformers' own pipelines.

Each is asked alone and by 8 concurrent callers with texts of unequal lengths.
"""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import transformers
from hugging_face import FOLDERS, MAX_TOKENS, TEXTS, make
from live_server import Server, serving, temporary_home
from PIL import Image

from models.__main__ import main
from models.kinds.tokens import TOKENIZER_FILE
from models.package.repository import ModelRepository

CALLERS, REQUESTS = 8, 6
CLASSIFIERS = ("sequence", "several", "left")
FOR_TEXTS = (*CLASSIFIERS, "tokens", "embeddings")

pytestmark = pytest.mark.timeout(900)  # the first test adds every folder


class Added:
    """The folders, the repository, and the server of both."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.repository, self.url = folder, folder / "packages", server.url

    def card(self, name: str) -> Any:
        return ModelRepository(self.repository).get(name).card

    def predict(self, client: httpx.Client, name: str, rows: list[Any]) -> list[Any]:
        response = client.post(f"{self.url}/models/{name}/predict", json={"instances": rows})
        assert response.status_code == 200, response.text
        found: list[Any] = response.json()["predictions"]
        return found

    def loaded(self, name: str, kind: str) -> Any:
        network = getattr(transformers, kind).from_pretrained(self.folder / name)
        return network.eval()

    def tokenizer(self, name: str) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder / name)


@pytest.fixture(scope="module")
def added(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Added]:
    folder = tmp_path_factory.mktemp("folders")
    for name in FOLDERS:
        source = make(name, folder / name)
        assert main(["add", name, str(source), "--repository", str(folder / "packages")]) == 0
    settings = {"FITSERVE_MODEL_REPOSITORY": str(folder / "packages"), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield Added(folder, server)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as opened:
        yield opened


def own_answers(added: Added, name: str, texts: list[Any]) -> list[Any]:
    """Return what Transformers itself answers to each text alone."""
    if name in CLASSIFIERS:
        pipeline = transformers.pipeline("text-classification", str(added.folder / name))
        answers = [pipeline(text, top_k=None, truncation=True) for text in texts]
        return [{one["label"]: one["score"] for one in answer} for answer in answers]
    tokenizer = added.tokenizer(name)
    kind = "AutoModelForTokenClassification" if name == "tokens" else "AutoModel"
    network, found = added.loaded(name, kind), []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        with torch.inference_mode():
            result = network(**inputs)
        if name == "tokens":
            found.append(result.logits.softmax(-1)[0].numpy())
        else:
            found.append([result.last_hidden_state[0].numpy(), result.pooler_output[0].numpy()])
    return found


def check(added: Added, name: str, texts: list[str], rows: list[Any], wanted: list[Any]) -> None:
    """Compare predictions with Transformers' answers to the same texts."""
    for text, row, answer in zip(texts, rows, wanted, strict=True):
        if name in CLASSIFIERS:
            assert row["scores"] == pytest.approx(answer, rel=1e-4, abs=1e-6)
            assert row["label"] == max(answer, key=answer.get)
        elif name == "tokens":
            labels = added.card(name).outputs[0].labels
            best = answer[1:-1].argmax(axis=-1)  # without the first and the last, special token
            assert [one["label"] for one in row] == [labels[at] for at in best]
            scores = [one["score"] for one in row]
            np.testing.assert_allclose(scores, answer[1:-1].max(axis=-1), rtol=1e-4)
            for one in row:
                part = text[one["start"] : one["end"]].lower()
                assert one["token"].removeprefix("##") in (part, "[UNK]") or not part.isascii()
        else:
            for output, expected in zip(added.card(name).outputs, answer, strict=True):
                found = np.array(row[output.name])
                assert found.shape == expected.shape
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", FOR_TEXTS)
def test_texts_are_answered_as_by_transformers_alone_and_together(
    name: str, added: Added, client: httpx.Client
) -> None:
    wanted = own_answers(added, name, list(TEXTS))
    check(added, name, list(TEXTS), added.predict(client, name, list(TEXTS)), wanted)
    for text, answer in zip(TEXTS, wanted, strict=True):
        check(added, name, [text], added.predict(client, name, [{"text": text}]), [answer])


@pytest.mark.parametrize("name", FOR_TEXTS)
def test_callers_with_texts_of_unequal_lengths_get_no_wrong_answer(
    name: str, added: Added, client: httpx.Client
) -> None:
    wanted = own_answers(added, name, list(TEXTS))
    random = np.random.default_rng(0)
    chosen = [
        random.choice(len(TEXTS), random.integers(1, 4)).tolist() for _ in range(CALLERS * REQUESTS)
    ]

    def once(places: list[int]) -> None:
        texts = [TEXTS[at] for at in places]
        rows = added.predict(client, name, texts)
        check(added, name, texts, rows, [wanted[at] for at in places])

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(once, chosen))


def test_a_tokenizer_that_pads_on_the_left_has_no_padding_on_the_right(added: Added) -> None:
    assert added.tokenizer("left").padding_side == "left"
    card = added.card("left")
    assert card.batching == "rows", "texts of one length share a batch"
    assert card.padding is None


def test_the_answers_tell_texts_apart(added: Added, client: httpx.Client) -> None:
    """Otherwise the comparisons above could not fail."""
    rows = added.predict(client, "sequence", list(TEXTS))
    assert len({round(row["score"], 3) for row in rows}) > len(TEXTS) / 2


def test_a_pair_is_answered_as_by_transformers(added: Added, client: httpx.Client) -> None:
    row = {"text": "the cat sat", "text_pair": "a dog barked loudly"}
    pipeline = transformers.pipeline("text-classification", str(added.folder / "sequence"))
    wanted = {one["label"]: one["score"] for one in pipeline(row, top_k=None)}
    (found,) = added.predict(client, "sequence", [row])
    assert found["scores"] == pytest.approx(wanted, rel=1e-4)


def test_v2_clients_send_the_tokens(added: Added, client: httpx.Client) -> None:
    inputs = added.tokenizer("sequence")(TEXTS[0])
    tensors = [
        {"name": name, "shape": [1, len(values)], "datatype": "INT64", "data": values}
        for name, values in inputs.items()
    ]
    response = client.post(f"{added.url}/v2/models/sequence/infer", json={"inputs": tensors})
    assert response.status_code == 200, response.text
    (row,) = added.predict(client, "sequence", [TEXTS[0]])
    scores = list(added.loaded("sequence", "AutoModelForSequenceClassification").config.id2label)
    assert len(response.json()["outputs"][0]["data"]) == len(scores)
    assert max(response.json()["outputs"][0]["data"]) == pytest.approx(row["score"], rel=1e-5)


def test_other_protocols_take_texts(added: Added, client: httpx.Client) -> None:
    wanted = client.post(
        f"{added.url}/v1/models/sequence:predict", json={"instances": list(TEXTS)}
    ).json()["predictions"]
    table = {"columns": ["text"], "data": [[text] for text in TEXTS]}
    requests: list[tuple[str, Any, str]] = [
        ("/v1/models/sequence:predict", {"inputs": {"text": TEXTS}}, "outputs"),
        ("/invocations", {"dataframe_split": table}, "predictions"),
        ("/invocations", {"dataframe_records": [{"text": text} for text in TEXTS]}, "predictions"),
        ("/invocations", {"inputs": {"text": TEXTS}}, "predictions"),
        ("/invocations", list(TEXTS), "predictions"),
    ]  # fmt: skip
    for path, body, field in requests:
        headers = {"X-Model": "sequence"}
        response = client.post(f"{added.url}{path}", json=body, headers=headers)
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(response.json()[field], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "status", "message"),
    [
        (["a", 3], 400, "A row must be a text"),
        ([{"text": "a", "pair": "b"}], 400, "A row must be a text"),
        (["a"] * 4_097, 400, "at most 4,096"),
        (["a" * 131_073], 413, "A text may have 131,072 characters"),
        ([3], 400, "A row must be an object with the inputs"),
    ],
)
def test_what_is_no_text_gets_a_sentence(
    rows: list[Any], status: int, message: str, added: Added, client: httpx.Client
) -> None:
    url = f"{added.url}/models/sequence/predict"
    response = client.post(url, json={"instances": rows})
    assert (response.status_code, message in response.json()["error"]) == (status, True)


def test_pictures_are_answered_as_by_transformers(added: Added, client: httpx.Client) -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (50, 40, 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    processor = transformers.AutoImageProcessor.from_pretrained(
        added.folder / "pictures", backend="pil"
    )
    network = added.loaded("pictures", "AutoModelForImageClassification")
    with torch.inference_mode():
        wanted = network(**processor(image, return_tensors="pt")).logits.softmax(-1)[0]
    files = {"image": stream.getvalue()}
    response = client.post(f"{added.url}/models/pictures/predict", files=files)
    scores = response.json()["predictions"][0]["scores"]
    assert [scores["cat"], scores["dog"]] == pytest.approx(wanted.tolist(), rel=1e-4)


def test_the_card_records_the_proof_of_the_texts(added: Added) -> None:
    card = added.card("embeddings")
    assert card.parity[0].tolerance == "1e-05 relative, for texts"
    assert card.parity[0].batch_sizes == (1, card.parity[0].samples)
    assert card.text.max_tokens == MAX_TOKENS
    assert TOKENIZER_FILE in card.files


@pytest.mark.parametrize("name", FOR_TEXTS)
def test_the_description_and_check_show_a_text(
    name: str, added: Added, client: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    description = client.get(f"{added.url}/docs.json").json()
    body = description["paths"][f"/models/{name}/predict"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    (text,) = schema["example"]["instances"]
    assert text == added.card(name).text.example
    assert len(added.predict(client, name, [text])) == 1
    assert main(["check", name, "--repository", str(added.repository)]) == 0
    lines = capsys.readouterr().out.splitlines()
    command = lines[lines.index("A caller with a text sends") + 1]
    assert text in command
    assert f"/models/{name}/predict" in command
