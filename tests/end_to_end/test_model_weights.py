"""Two models that need one core: the heavier one gets more of it."""

import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from faulty_networks import write_slow
from live_server import serving, temporary_home

STEPS = 15_000  # a hundredth of a second on an idle core
BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3.0]}]}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")
def test_a_model_of_more_weight_gets_more_of_a_core(root: Path, tmp_path: Path) -> None:
    for name in ("heavy", "light"):
        write_slow(tmp_path, name, STEPS)
    settings = {
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MODEL_REPOSITORY": str(tmp_path),
        "FITSERVE_MODEL_WEIGHTS": '{"heavy": 8}',
        "FITSERVE_INTRA_OP_THREADS": "1",
    }
    under = ("taskset", "--cpu-list", "0")
    answered = {"heavy": 0, "light": 0}
    with temporary_home() as home, serving(home, root, settings=settings, under=under) as server:
        end = time.monotonic() + 6

        def ask(name: str) -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while time.monotonic() < end:
                    response = client.post(f"/v2/models/{name}/infer", json=BODY)
                    assert response.status_code == 200, response.text
                    answered[name] += 1

        # Three callers of each model, so that it always has the next batch.
        threads = [threading.Thread(target=ask, args=(name,)) for name in list(answered) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answered["light"] > 0
    assert answered["heavy"] > 2 * answered["light"], answered
