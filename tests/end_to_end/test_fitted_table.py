"""A table is learned by `fitserve fit --table`, and a real server answers its raw rows."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from live_server import serving, temporary_home
from small_tables import write_shops


def test_a_fitted_table_is_asked_with_rows_of_raw_values(root: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    command = [
        sys.executable, "-m", "fitserve", "fit", "--table", str(write_shops(tmp_path)),
        "--target", "sales", "--unit", "euros", "--leave-out", "grade", "--epochs", "12",
        "--threads", "1", "--repository", str(models),
    ]  # fmt: skip
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=200)
    settings = {"FITSERVE_MODEL_REPOSITORY": str(models), "FITSERVE_DEVICE": "cpu"}
    row = {"day": "2013-05-05", "size": 30.0, "visitors": None, "open": True, "region": "north"}
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        path = f"{server.url}/models/shops/predict"
        rows = [row, {**row, "region": None}]
        found = httpx.post(path, json={"instances": rows}, timeout=60).json()
        wrong = httpx.post(path, json={"instances": [{**row, "region": "nort"}]}, timeout=60)
    first, second = (answer["value"] for answer in found["predictions"])
    assert first == pytest.approx(3 * 30 + 20 + 15, abs=15)
    assert second < first
    assert wrong.status_code == 400
    assert "'region' in row 1 is none of its categories, 'north', 'south', 'west'" in wrong.text
