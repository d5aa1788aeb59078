"""`check` shows what a caller sends and gets, and fails for a package that was changed."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from tiny import write_tiny

from models.__main__ import main
from models.package.model_package import ModelPackage
from models.runtimes.loading import open_runtime


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return write_tiny(tmp_path, "line", runtimes=("onnx",))


def test_the_request_and_the_response_are_those_of_the_network(
    package: ModelPackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "line", "--repository", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "line/1 is right in onnx"
    assert shown[1].startswith("  onnx: ")
    *_, url, option, body = shlex.split(shown[3])
    assert url.endswith("/v2/models/line/infer")
    assert option == "-d"
    (tensor,) = json.loads(body)["inputs"]
    rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    (output,) = json.loads(shown[5])["outputs"]
    found = open_runtime(package, "onnx")({tensor["name"]: rows})[output["name"]]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), found, rtol=1e-6)


def test_a_changed_file_is_reported(
    package: ModelPackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package.path / "model.onnx").write_bytes(b"changed")
    assert main(["check", "line", "--repository", str(tmp_path)]) == 1
    assert "package line/1: model.onnx: it holds 7 bytes" in capsys.readouterr().err
