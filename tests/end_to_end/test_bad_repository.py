"""A repository with every kind of broken package: the good one serves; no response has a path."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from faulty_networks import write_sound
from live_server import Server, serving, temporary_home
from onnx import TensorProto, helper

from models.package.model_package import ModelPackage, write_package

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")

PICTURE = b"\x89PNG\r\n\x1a\n and so on"

DENIED = "it cannot be read (Permission denied)"
REFUSED = {
    "card-device": "package card-device/1: card.json: it is a link: put the file itself there",
    "card-latin1": "package card-latin1/1: card.json: it is not readable JSON (byte ",
    "card-pipe": "package card-pipe/1: card.json: it is a pipe: put the file itself there",
    "closed-folder": f"package closed-folder: its folder: {DENIED}",
    "closed-version": f"package closed-version/1: card.json: {DENIED}",
    "empty-card": "package empty-card/1: card.json: it is not readable JSON (",
    "file-large": f"package file-large/1: model.onnx: it holds {2**40:,} bytes where the card says",
    "file-link": "package file-link/1: model.onnx: it is a link: put the file itself there",
    "outside-data": "package outside-data/1: model.onnx: it cannot be loaded (",
}


class Bad(NamedTuple):
    """A server of the repository, and the folder of the good package."""

    server: Server
    good: Path


def replace(file: Path, content: bytes | None = None) -> Path:
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    return file


def spoil(root: Path, name: str) -> None:
    path = write_sound(root, name).path
    card, network = path / "card.json", path / "model.onnx"
    if name == "card-device":
        replace(card).symlink_to("/dev/zero")
    elif name == "card-latin1":
        replace(card, card.read_bytes().replace(b"fails", b"f\xe9ils"))
    elif name == "card-pipe":
        os.mkfifo(replace(card))
    elif name == "closed-folder":
        path.parent.chmod(0)
    elif name == "closed-version":
        path.chmod(0)
    elif name == "empty-card":
        replace(card, b"")
    elif name == "file-large":
        os.truncate(network, 2**40)
    elif name == "file-link":
        network.rename(root / "elsewhere.onnx")
        network.symlink_to(root / "elsewhere.onnx")
    else:
        package = ModelPackage.read(path)
        shutil.rmtree(path)
        write_package(root, package.card, {"model.onnx": outside()})


def outside() -> bytes:
    """Return a network with weights in another file, whose path is in ONNX Runtime's error."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [weights],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def bad(root: Path) -> Iterator[Bad]:
    """A server run by a user who may not read all of the repository."""
    with temporary_home() as home:
        repository = home / "my models"
        package = write_sound(repository, "good")
        files = {"model.onnx": package.load("model.onnx"), "report/loss.png": PICTURE}
        shutil.rmtree(package.path)
        good = write_package(repository, package.card, files).path
        for name in REFUSED:
            spoil(repository, name)
        under: list[str] = []
        if os.geteuid() == 0:  # root reads everything, unless this capability is removed
            if shutil.which("setpriv") is None:
                pytest.skip("root reads everything, and there is no setpriv to take that away")
            under = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        settings = {
            "FITSERVE_MODEL_REPOSITORY": str(repository),
            "FITSERVE_DEVICE": "cpu",
        }
        with serving(home, root, settings=settings, under=under) as server:
            yield Bad(server, good)
        for closed in ("closed-folder", "closed-version/1"):
            (repository / closed).chmod(0o700)


def test_the_good_package_serves_and_each_bad_one_has_a_reason(bad: Bad) -> None:
    content = httpx.get(f"{bad.server.url}/models").json()
    assert [model["name"] for model in content["models"]] == ["good"]
    assert list(content["refused"]) == sorted(REFUSED)
    for name, reason in content["refused"].items():
        assert reason.startswith(REFUSED[name])
        assert "\n" not in reason
    index = httpx.post(f"{bad.server.url}/v2/repository/index").json()
    assert {entry["name"]: entry["reason"] for entry in index} == {
        "good": "", **content["refused"]
    }  # fmt: skip


def test_no_response_has_a_path_of_the_machine_but_the_log_does(bad: Bad) -> None:
    home = str(bad.good.parents[2])
    responses = [
        httpx.get(f"{bad.server.url}/models").text,
        httpx.post(f"{bad.server.url}/v2/repository/index").text,
        *(httpx.get(f"{bad.server.url}/models/{name}").text for name in REFUSED),
        *(httpx.get(f"{bad.server.url}/v2/models/{name}").text for name in REFUSED),
        httpx.get(f"{bad.server.url}/models/good/report/none.png").text,
    ]
    for response in responses:
        assert home not in response
        assert "/dev/null" not in response
    log = bad.server.read_log()
    for name in REFUSED:
        assert f"my models/{name}" in log
    assert "Traceback" not in log


def test_only_the_picture_of_the_loaded_card_is_served(bad: Bad) -> None:
    """Any other picture is refused, even with a card that matches it on disk."""
    url, picture = f"{bad.server.url}/models/good/report/loss.png", bad.good / "report" / "loss.png"
    assert httpx.get(url).content == PICTURE
    for spoiled in (PICTURE[::-1], PICTURE + b"!"):
        picture.write_bytes(spoiled)
        response = httpx.get(url)
        assert (response.status_code, str(bad.good) in response.text) == (500, False)
    os.mkfifo(replace(picture))
    assert httpx.get(url, timeout=20).status_code == 500
    replace(picture, PICTURE)
    assert httpx.get(url).content == PICTURE
