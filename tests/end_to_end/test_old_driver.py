"""An NVIDIA driver that is too old for the wheels: one log line says so, and the CPU serves."""

import json
from pathlib import Path

import httpx
import onnxruntime
import pytest
import torch
from faulty_networks import write_sound
from live_server import serving, temporary_home
from stub_driver import write_stub_driver

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


@pytest.mark.skipif(
    not (PROVIDER.is_file() and torch.version.cuda), reason="no wheels with CUDA are installed here"
)
def test_an_old_driver_is_one_line_of_the_log_with_both_versions(root: Path) -> None:
    with temporary_home() as home:
        libraries = (Path(torch.__file__).parent / "lib").glob("*.so")
        write_stub_driver(home / "driver", PROVIDER, *libraries, version=12_020)
        write_sound(home / "models", "line")
        settings = {
            "FITSERVE_MODEL_REPOSITORY": str(home / "models"),
            "FITSERVE_LOG_FORMAT": "json",
            "LD_LIBRARY_PATH": str(home / "driver"),
        }
        with serving(home, root, settings=settings) as server:
            model = httpx.get(f"{server.url}/models/line").json()
        lines = [json.loads(line) for line in server.read_log().splitlines()]
    assert model["serving"]["device"] == "cpu"
    (entry,) = [line for line in lines if "driver" in line["message"]]
    assert entry["level"] == "WARNING"
    assert entry["message"] == (
        "FITSERVE_DEVICE=auto: models compute on the CPU: the NVIDIA driver supports CUDA 12.2, "
        f"and torch {torch.__version__} needs CUDA 13.0: update the driver"
    )
