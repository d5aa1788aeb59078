"""Two workers of a real server on one GPU, whose memory is too small for both at full size."""

import re
from pathlib import Path

import httpx
from faulty_networks import answer, write_sound
from live_server import serving, temporary_home
from waiting import wait_until

# Python runs this first in every process of the server: ONNX Runtime computes on the CPU and
# reports CUDA. The worker that loads second finds memory for 16 rows, and both for 4 later.
FAKE_GPU = """
import os, sys

if any("worker" in argument for argument in sys.orig_argv):
    import pytest
    import torch
    from fake_cuda import fake_onnx_cuda
    from pathlib import Path

    home = Path({home!r})

    def memory_holds():
        if (home / "full").exists():
            return 4
        try:
            (home / "first").open("x").write(str(os.getpid()))
        except FileExistsError:
            pass
        return 64 if (home / "first").read_text() == str(os.getpid()) else 16

    def fault(rows):
        if (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / "loading-cuda-0").exists():
            (home / "in turn").touch()
        full = "Available memory of 128 is smaller than requested bytes of 256"
        return RuntimeError(full) if rows > memory_holds() else None

    fake_onnx_cuda(pytest.MonkeyPatch(), fault)
    torch.cuda.mem_get_info = lambda device: (300, 1000)
"""


def test_two_workers_share_a_gpu_and_all_predictions_are_correct(root: Path) -> None:
    with temporary_home() as home:
        (home / "sitecustomize.py").write_text(FAKE_GPU.format(home=str(home)))
        write_sound(home / "models", "line")
        settings = {
            "FITSERVE_MODEL_REPOSITORY": str(home / "models"),
            "FITSERVE_DEVICE": "cuda:0",
            "FITSERVE_REQUIRE_DEVICE": "true",
            "FITSERVE_MAX_BATCH_ROWS": "64",
            "FITSERVE_MAX_QUEUE_SECONDS": "60",  # otherwise slow runs lead to smaller batches
            "BENTOML_CONFIG_OPTIONS": "services.fitserve.workers=2",
            "PYTHONPATH": f"{home}:{root / 'tests' / 'support'}:{root}",
        }
        numbers = [float(number) for number in range(64)]
        body = {
            "inputs": [{"name": "x", "shape": [64, 1], "datatype": "FP32", "data": numbers}]
        }  # fmt: skip

        with serving(home, root, settings=settings) as server:

            def shown(name: str, labels: str = "") -> float | None:
                match = re.search(
                    rf"^{name}{re.escape(labels)} (\S+)$",
                    httpx.get(f"{server.url}/metrics").text,
                    re.MULTILINE,
                )
                return float(match[1]) if match else None

            def ask() -> None:
                for _ in range(10):  # each on its own connection, which either worker may accept
                    response = httpx.post(
                        f"{server.url}/v2/models/line/infer", json=body, timeout=60
                    )
                    assert response.status_code == 200, response.text
                    assert response.json()["outputs"][0]["data"] == [answer(x) for x in numbers]

            wait_until(lambda: shown("fitserve_workers") == 2)
            wait_until(lambda: shown("fitserve_gpu_memory_bytes", '{device="cuda:0",kind="used"}'))
            for kind, size in (("used", 700), ("total", 1000)):
                labels = f'{{device="cuda:0",kind="{kind}"}}'
                assert shown("fitserve_gpu_memory_bytes", labels) == size
            assert (home / "in turn").exists()
            ask()
            (home / "full").touch()
            ask()
            log = server.read_log()
    assert len(re.findall(r"serving line/1 with onnx on cuda:0", log)) == 2
    smaller = "line/1: batches of at most 16 rows, since the memory of cuda:0 holds no more"
    assert log.count(smaller) == 1
