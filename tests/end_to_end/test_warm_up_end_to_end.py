"""A server of networks with expensive rows starts, serves, and starts faster the second time."""

import re
from pathlib import Path

import httpx
from faulty_networks import answer, write_large, write_slow
from live_server import Server, serving, temporary_home

STEPS = 150_000  # iterations of a loop per row: about 0.1 s on an idle machine
ROW_BYTES = 64 * 2**20


def test_networks_with_expensive_rows_have_small_batches_and_are_timed_once(
    root: Path, tmp_path: Path
) -> None:
    """With 256 rows, one would take half a minute per batch, and the other 16 GB."""
    repository = tmp_path / "models"
    write_slow(repository, "slow", STEPS)
    write_large(repository, "large", ROW_BYTES)
    settings = {"FITSERVE_MODEL_REPOSITORY": str(repository), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home:
        with serving(home, root, settings=settings) as server:
            first = _placements(server)
            _check_answers(server)
        with serving(home, root, settings=settings) as server:
            assert _placements(server) == first
            _check_answers(server)
    assert first.keys() == {"slow", "large"}
    for name, max_rows in (("slow", 4), ("large", 128)):
        limits = re.search(r"batches of at most (\d+) rows? to limit their \w+ \(", first[name])
        assert limits
        assert int(limits[1]) <= max_rows


def _placements(server: Server) -> dict[str, str]:
    """Return the lines of the log about the models, by name. They have the timings."""
    return dict(re.findall(r"serving (\w+)/1 with (.*)", server.read_log()))


def _check_answers(server: Server) -> None:
    rows = [1.0, 5.0, 2.0]
    for name in ("slow", "large"):
        inputs = [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": rows}]
        response = httpx.post(
            f"{server.url}/v2/models/{name}/infer", json={"inputs": inputs}, timeout=60
        )
        assert response.status_code == 200, response.text
        assert response.json()["outputs"][0]["data"] == [answer(x) for x in rows]
