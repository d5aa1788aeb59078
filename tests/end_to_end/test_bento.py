"""`bentoml build` packs what serving needs and nothing else, and the bento serves."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_server import BIN, environment, serving, temporary_home
from pictures import encoded, file_part
from PIL import Image

from models.package.repository import ModelRepository


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def bento(home: Path, root: Path) -> Path:
    """The folder of a bento built from the checkout, without access to a package index."""
    offline = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    completed = subprocess.run(
        [BIN / "bentoml", "build", "--output", "tag"],
        cwd=root,
        env=environment(home, offline),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    name, version = completed.stdout.split("__tag__:")[1].strip().split(":")
    assert name == "fitserve"
    return home / "bentos" / name / version


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file by its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_bento_contains_the_service_its_page_and_the_models(bento: Path, root: Path) -> None:
    for folder in ("models", "service"):
        packed = {
            path.relative_to(bento / "src") for path in (bento / "src" / folder).rglob("*.py")
        }
        assert packed == {path.relative_to(root) for path in (root / folder).rglob("*.py")}
    page = root / "service/api/static"
    files = contents(page)
    assert "docs/swagger-ui-bundle.js" in files
    assert contents(bento / "src/service/api/static") == files
    packages = ModelRepository(bento / "src/models")
    assert packages.names() == ModelRepository(root / "models").names() != []
    for label, package in packages:
        assert not isinstance(package, Exception), f"{label}: {package}"
        package.verify()


def test_a_bento_contains_nothing_else(bento: Path) -> None:
    source = bento / "src"
    assert {path.name for path in source.iterdir()} == {"models", "service", "bentofile.yaml"}
    strays = [
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.name == "__pycache__" or path.suffix == ".pyc" or path.name.startswith(".")
    ]
    assert strays == []


def test_a_bento_requires_only_the_libraries_of_the_service(bento: Path, root: Path) -> None:
    def pinned(path: Path) -> set[str]:
        return set(re.findall(r"^[\w.-]+==[\w.+-]+", path.read_text(), re.MULTILINE))

    expected = pinned(bento / "env/python/requirements.txt")
    assert expected == pinned(root / "requirements/serve.txt")
    names = {line.partition("==")[0].lower() for line in expected}
    assert names >= {"bentoml", "torch", "onnxruntime-gpu", "pillow", "orjson"}
    assert not names & {"torchvision", "scikit-learn", "matplotlib", "seaborn", "pytest"}


def test_a_bento_serves_from_any_folder_with_its_own_packages(
    home: Path,
    bento: Path,
    drawn: dict[int, Image.Image],
    tmp_path: Path,
) -> None:
    shutil.rmtree(bento / "src/models/curve-mlp")  # the checkout's packages must not be used
    with (
        serving(home, tmp_path, "fitserve:latest") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        content = client.get("/models").json()
        assert content["refused"] == {}
        served = {model["name"] for model in content["models"]}
        assert "curve-mlp" not in served
        assert served == set(ModelRepository(bento / "src/models").names())
        pixels = [[0] * 784]
        questions = [
            client.post("/classify_digits", json={"images": pixels}),
            client.post("/classify_image", files=[file_part(encoded(drawn[1]))]),
            client.post("/predict_curve", json={"x": [1]}),
            client.post("/classify_points", json={"points": [[0, 1]]}),
            client.get("/models/curve-tanh"),
            client.get("/docs.json"),
            client.get("/"),
            client.get("/playground/main.js"),
            client.get("/models/curve-tanh/report/fitted-curve.png"),
        ]
        assert [question.status_code for question in questions] == [200] * len(questions)
        assert client.post("/predict_curve", json={"x": []}).status_code == 400
    assert list(tmp_path.iterdir()) == []
