"""Garments as pictures: the answers of a real server, of all the ways to send one."""

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from models.package.repository import ModelRepository


@pytest.fixture(scope="module")
def boot(repository: ModelRepository) -> bytes:
    """The first garment of the test split, an ankle boot, as PNG."""
    rows = repository.get("fashion-cnn").card.example.inputs["garment"].array()
    stream = io.BytesIO()
    Image.fromarray(rows[0].astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_is_named_however_it_is_sent(boot: bytes, client: httpx.Client) -> None:
    path, text = "/models/fashion-cnn/predict", base64.b64encode(boot).decode()
    answers = [
        client.post(path, files={"picture": boot}),
        client.post(path, json={"instances": [text]}),
        client.post(path, json={"instances": [{"b64": text}]}),
    ]
    first, *others = [answer.json()["predictions"] for answer in answers]
    assert others == [first, first]
    assert first[0]["label"] == "ankle boot"
    assert len(first[0]["scores"]) == 10


def test_an_inverted_photograph_is_another_matter(boot: bytes, client: httpx.Client) -> None:
    """The limits of the card say so: the background must be black."""
    stream = io.BytesIO()
    Image.eval(Image.open(io.BytesIO(boot)), lambda pixel: 255 - pixel).save(stream, "PNG")
    answer = client.post("/models/fashion-cnn/predict", files={"picture": stream.getvalue()})
    assert answer.status_code == 200
    assert any("invert" in limit for limit in client.get("/models/fashion-cnn").json()["limits"])


def test_the_endpoint_of_digits_takes_no_garments(boot: bytes, client: httpx.Client) -> None:
    answer = client.post("/classify_image", files={"images": boot}, data={"model": "fashion-cnn"})
    assert answer.status_code == 400
    assert "fashion-cnn" in answer.json()["error"]
