"""The six graphs of silero-vad, with the state and the rate beside the audio, chunk after chunk."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import onnxruntime
import pytest
from live_server import Server, serving, temporary_home
from numpy.typing import NDArray
from v2_arrays import Arrays, infer

from models.__main__ import main
from models.kinds.batch_axes import network_layout, rows_first
from models.package.repository import ModelRepository

GRAPHS = Path(".venv/networks/silero_vad/data").absolute()
CALLERS, CHUNKS, CHUNK = 8, 4, 576
RATES = {16_000: CHUNK, 8_000: CHUNK // 2}
"""The samples of a chunk at each rate, with those of the chunk before."""

if not GRAPHS.is_dir():
    pytest.skip("make dev installs silero-vad's graphs", allow_module_level=True)


class Graph(NamedTuple):
    """One of the graphs.

    Attributes:
        states: the shape of each state by its name; -1 stands for the rows.
        names: the name of each state among the outputs.
        has_rate: whether the rate is an input.
        rows: the most rows of a request.
    """

    states: Mapping[str, tuple[int, ...]]
    names: Mapping[str, str]
    has_rate: bool = False
    rows: int = 3


STATE = {"state": (2, -1, 128)}
NEXT = {"stateN": "state"}
NETWORKS: Mapping[str, Graph] = {
    "silero_vad": Graph(STATE, NEXT, has_rate=True),
    "silero_vad_16k_op15": Graph(STATE, NEXT, has_rate=True),
    "silero_vad_op18_ifless": Graph(STATE, NEXT, has_rate=True),
    "silero_vad_half": Graph(STATE, NEXT),
    "silero_vad_openvino_16k": Graph({"state": (2, 1, 128)}, NEXT, rows=1),
    "silero_vad_16k_sequence": Graph(
        {"h": (1, 1, 128), "c": (1, 1, 128)}, {"hn": "h", "cn": "c"}, rows=1
    ),
}


def first_request(name: str, rows: int, rate: int, audio: NDArray[Any]) -> dict[str, Any]:
    graph = NETWORKS[name]
    inputs = {"input": audio}
    for state, shape in graph.states.items():
        inputs[state] = np.zeros([rows if size == -1 else size for size in shape], np.float32)
    if graph.has_rate:
        inputs["sr"] = np.array(rate)
    return inputs


def spoken(seed: int, rows: int, length: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=(rows, length))
    return (np.cumsum(noise, axis=1) * 0.01).astype(np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder = tmp_path_factory.mktemp("silero")
    for name, graph in NETWORKS.items():
        rows = 4 if graph.rows > 1 else 1
        sample = folder / "sample.npz"
        np.savez(sample, **first_request(name, rows, 16_000, spoken(0, rows, CHUNK)))
        arguments = ["add", name, str(GRAPHS / f"{name}.onnx"), "--sample", str(sample)]
        rates = ["--shared", "sr=16000,8000"] if graph.has_rate else []
        assert main([*arguments, *rates, "--repository", str(folder / "models")]) == 0
    return ModelRepository(folder / "models")


@pytest.fixture(scope="module")
def server(root: Path, repository: ModelRepository) -> Iterator[Server]:
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository.root),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MAX_QUEUE_DELAY_SECONDS": "0.005",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


def by_rows(client: httpx.Client, name: str, inputs: Arrays, card: Any) -> Arrays:
    """Return the outputs of the endpoint of rows as V2 would."""
    rows = len(inputs["input"]) if card.axes.has_batch else 1
    first = card.axes.inputs_rows_first(inputs, rows)
    instances = [{key: first[key][row].tolist() for key in first} for row in range(rows)]
    response = client.post(f"/models/{name}/predict", json={"instances": instances})
    assert response.status_code == 200, response.text
    found = response.json()["predictions"]
    outputs = {}
    for spec in card.outputs:
        array = np.array([row[spec.name] for row in found], np.float32)
        shape = rows_first(np.empty([1 if size == -1 else size for size in spec.shape]),
                           spec.batch_axis, 1).shape[1:]  # fmt: skip
        array = array.reshape(rows, *shape) if array.ndim == 1 else array
        outputs[spec.name] = network_layout(array, spec.batch_axis)
    return outputs


@pytest.mark.parametrize("name", NETWORKS)
def test_callers_of_unlike_rates_get_what_onnx_runtime_gives(
    name: str, server: Server, repository: ModelRepository
) -> None:
    graph, card = NETWORKS[name], repository.get(name).card
    session = onnxruntime.InferenceSession(
        (GRAPHS / f"{name}.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    free = {"input"} if "sequence" in name else set()

    def speak(caller: int) -> None:
        rate = 8_000 if caller % 2 and graph.has_rate else 16_000
        rows = 1 + caller % graph.rows
        length = 5 if free else rows
        inputs = first_request(name, rows, rate, spoken(caller, length, RATES[rate]))
        for chunk in range(CHUNKS):
            inputs["input"] = spoken(100 * caller + chunk, length, RATES[rate])
            wanted = dict(zip(names, session.run(names, inputs), strict=True))
            found = infer(client, name, inputs, binary=chunk % 2 == 0)
            written = by_rows(client, name, inputs, card)
            for key, array in wanted.items():
                assert found[key].shape == array.shape
                np.testing.assert_allclose(found[key], array, atol=2e-5)
                np.testing.assert_allclose(written[key].reshape(array.shape), array, atol=2e-5)
            inputs |= {state: found[output] for output, state in graph.names.items()}

    with httpx.Client(base_url=server.url, timeout=120) as client:
        speak(1)
        with ThreadPoolExecutor(CALLERS) as callers:
            list(callers.map(speak, range(CALLERS)))


def test_the_batch_is_where_the_graphs_have_it(repository: ModelRepository) -> None:
    card = repository.get("silero_vad").card
    assert card.axes.inputs == {"input": 0, "state": 1, "sr": None}
    assert card.axes.outputs == {"output": 0, "stateN": 1}
    proved = [
        (values["sr"].data[0], shapes["input"][0])
        for shapes, values in zip(card.batched_shapes, card.batched_values, strict=True)
    ]
    assert set(RATES.items()) <= set(proved)
    assert repository.get("silero_vad_half").card.batching == "rows"
    assert not repository.get("silero_vad_openvino_16k").card.axes.has_batch
    assert not repository.get("silero_vad_16k_sequence").card.axes.has_batch


def test_two_rates_in_one_request_are_refused(server: Server) -> None:
    rows = [
        {key: rows_first(np.asarray(array), {"input": 0, "state": 1}.get(key), 1)[0].tolist()
         for key, array in first_request("silero_vad", 1, rate, spoken(0, 1, CHUNK)).items()}
        for rate in RATES
    ]  # fmt: skip
    response = httpx.post(f"{server.url}/models/silero_vad/predict", json={"instances": rows})
    assert response.status_code == 400
    assert "different values of 'sr'" in response.text
