"""Requests of unequal lengths share batches, and each gets what the network gives for it alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from live_server import Server, serving, temporary_home
from unequal_rows import rows_of_length, write_masked_mean

from models.adding.add import add
from models.proofs.padding_proof import Pad
from models.sources.max_length import MaxLength

LONGEST = 40
CALLERS = 8


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masked_mean(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def server(root: Path, file: Path) -> Iterator[Server]:
    repository = file.parent / "models"
    longest = [MaxLength(None, LONGEST)]
    add(repository, "mean", file, pads=[Pad("x", 7.0)], masks=["mask"], max_lengths=longest)
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MAX_QUEUE_DELAY_SECONDS": "0.02",  # so that requests meet in a batch
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


def test_mixed_lengths_share_batches_and_change_no_answer(server: Server, file: Path) -> None:
    network = onnxruntime.InferenceSession(file.read_bytes())

    def ask(length: int) -> None:
        rows = rows_of_length(length, count=1 + length % 3)
        if length % 4 == 0:
            rows["mask"][:, length // 2 :] = 0
        tensors = [
            {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in rows.items()
        ]
        response = client.post("/v2/models/mean/infer", json={"inputs": tensors})
        assert response.status_code == 200, response.text
        wanted = network.run(["mean", "centred"], rows)
        for output, expected in zip(response.json()["outputs"], wanted, strict=True):
            assert output["shape"] == list(expected.shape)
            answered = np.array(output["data"], np.float32).reshape(output["shape"])
            np.testing.assert_allclose(answered, expected, rtol=1e-5, atol=1e-5)

    with (
        httpx.Client(base_url=server.url, timeout=30) as client,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        list(callers.map(ask, [*range(1, LONGEST + 1)] * 3))
        statistics = client.get("/v2/models/mean/stats").json()["model_stats"][0]
    assert statistics["inference_count"] >= 3 * LONGEST
    assert statistics["execution_count"] < 3 * LONGEST
