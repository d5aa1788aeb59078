"""A real server loses its GPU: clients get an error at once, and the worker is replaced."""

from pathlib import Path

import httpx
from faulty_networks import answer, write_sound
from live_server import serving, temporary_home
from waiting import wait_until

# Python runs this first in every process of the server: ONNX Runtime computes on the CPU and
# reports CUDA, and torch reads the state of the GPU from a file.
FAKE_GPU = """
import sys

if any("worker" in argument for argument in sys.orig_argv):
    import pytest
    import torch
    from fake_cuda import fake_onnx_cuda
    from pathlib import Path

    def memory(device):
        if Path({lost!r}).exists():
            raise RuntimeError("CUDA error: GPU has fallen off the bus")
        return 1, 2

    fake_onnx_cuda(pytest.MonkeyPatch())
    torch.cuda.mem_get_info = memory
"""
ASK = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3]}]}


def test_a_lost_gpu_makes_the_server_not_ready_and_its_worker_is_replaced(root: Path) -> None:
    with temporary_home() as home:
        lost = home / "lost"
        (home / "sitecustomize.py").write_text(FAKE_GPU.format(lost=str(lost)))
        write_sound(home / "models", "line")
        settings = {
            "FITSERVE_MODEL_REPOSITORY": str(home / "models"),
            "FITSERVE_DEVICE": "cuda:0",
            "FITSERVE_REQUIRE_DEVICE": "true",
            "PYTHONPATH": f"{home}:{root / 'tests' / 'support'}:{root}",
        }
        with serving(home, root, settings=settings) as server, httpx.Client(timeout=30) as client:

            def status(path: str) -> int:
                return client.get(server.url + path).status_code

            def ask() -> httpx.Response:
                return client.post(f"{server.url}/v2/models/line/infer", json=ASK)

            assert client.get(f"{server.url}/models/line").json()["serving"]["device"] == "cuda:0"
            assert ask().json()["outputs"][0]["data"] == [answer(3)]
            (worker,) = [
                process for process in server.workers() if "worker" in " ".join(process.cmdline())
            ]
            lost.touch()
            wait_until(lambda: status("/readyz") == 503)
            for path in ("/livez", "/v2/health/live", "/v2/health/ready"):
                assert status(path) == 503
            refused = ask()
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json() == {
                "error": "The GPU does not respond; try again in a few seconds."
            }
            wait_until(lambda: not worker.is_running())
            lost.unlink()
            wait_until(lambda: status("/readyz") == 200)
            assert ask().json()["outputs"][0]["data"] == [answer(3)]
            log = server.read_log()
    reason = "cuda:0: CUDA error: GPU has fallen off the bus"
    assert f"a GPU is lost, and this process not ready: {reason}" in log
    assert f"this process ends, as its GPU does not respond: {reason}" in log
