"""The README and its pages in docs/: their commands run as written, and their figures are true."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from live_server import free_port, serving, temporary_home

from models.package.card import ModelCard
from models.package.readme import headline
from models.package.repository import ModelRepository
from models.package.signature import verify_signature
from service.settings import RENAMED, Settings, variable_of
from training.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "endpoints",
            "settings",
            "operations",
            "networks",
            "bring-your-own",
            "training",
        )
    ),
)
PAGES = {name: (ROOT / name).read_text() for name in NAMES}
README = "\n".join(PAGES.values())
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CARDS = [ModelRepository(ROOT / "models").get(name).card for name in RECIPES]


def run(command: str, **environment: str) -> str:
    completed = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert completed.returncode == 0, (
        f"{command}\n{completed.stdout[-2000:]}\n{completed.stderr[-2000:]}"
    )
    return completed.stdout


def here(command: str) -> str:
    """Return the command with the virtual environment of the tests."""
    return command.replace(".venv/bin/", f"{Path(sys.prefix)}/bin/")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server started by the README's own command."""
    assert "make serve" in COMMANDS
    port = free_port()
    home = tmp_path_factory.mktemp("home")
    log = home / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            ["make", "serve", f"PORT={port}", f"VENV={sys.prefix}"],
            cwd=ROOT,
            env={**os.environ, "BENTOML_HOME": str(home)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        else:
            pytest.fail(f"make serve did not become ready:\n{log.read_text()[-3000:]}")
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def test_every_command_is_tested() -> None:
    known = (
        r"make (dev|serve|test|train .*)|curl .*"
        r"|\.venv/bin/(python -m [\w.]+|bentoml|fitserve check|model_signing) .*"
    )
    assert [line for line in COMMANDS if not re.fullmatch(known, line)] == []


def test_the_install_command_names_a_target() -> None:
    """A dry run: the target installs into the environment that runs these tests."""
    assert "make dev" in COMMANDS
    assert run(f"make --dry-run dev VENV={sys.prefix}")


def test_the_signing_command_signs_a_package_for_its_key(tmp_path: Path) -> None:
    (command,) = (line for line in COMMANDS if "model_signing" in line)
    key = ec.generate_private_key(ec.SECP256R1())
    form = PrivateFormat.TraditionalOpenSSL
    private = key.private_bytes(Encoding.PEM, form, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    shutil.copytree(ROOT / "models" / "curve-tanh", tmp_path / "models" / "curve-tanh")
    command = command.replace("iris", "curve-tanh").replace(" models/", f" {tmp_path}/models/")
    run(here(command.replace("key.pem", f"{tmp_path}/key.pem")))
    package = ModelRepository(tmp_path / "models").get("curve-tanh", "1")
    verify_signature(package, tmp_path / "key.pub")


def test_the_curve_request_gets_the_shown_response(port: int) -> None:
    command = next(line for line in COMMANDS if "predict_curve" in line)
    shown = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    actual = json.loads(run(command.replace(":3000", f":{port}")))
    assert actual["model"] == shown["model"]
    assert actual["version"] == shown["version"]
    assert actual["y"] == pytest.approx(shown["y"], abs=1e-4)


def check_protocol_request(page: str, address: str) -> None:
    """Send the page's request to a model, and compare the response with the one after it."""
    request, response = re.findall(
        r"```sh\n(curl.*/v2/models/.*)\n```\n\n```json\n(.*)\n```", page
    )[0]
    shown, actual = json.loads(response), json.loads(run(request.replace(":3000", address)))
    for content in (shown, actual):
        content["values"] = [output.pop("data") for output in content["outputs"]]
    for value, expected_value in zip(actual.pop("values"), shown.pop("values"), strict=True):
        assert value == pytest.approx(expected_value, abs=1e-4)
    assert actual == shown


def test_the_protocol_request_gets_the_shown_response(port: int) -> None:
    check_protocol_request(PAGES["docs/endpoints.md"], f":{port}")


def test_the_sums_get_the_shown_response(port: int) -> None:
    request, response = re.findall(
        r"```sh\n(curl.*adder.*)\n```\n\n```json\n(.*)\n```", PAGES["docs/networks.md"]
    )[0]
    assert json.loads(run(request.replace(":3000", f":{port}"))) == json.loads(response)


def test_the_python_lines_run(port: int) -> None:
    python = Path(sys.prefix, "clients", "bin", "python")
    if not python.exists():
        pytest.skip("the clients are not installed: make test does that")
    (block,) = (block for block in PYTHON if ":3000" in block)
    lines = block.replace(":3000", f":{port}")
    completed = subprocess.run([python, "-c", lines], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("[[")


def test_the_drawn_three_is_a_three(port: int) -> None:
    command = next(line for line in COMMANDS if "classify_image" in line)
    (prediction,) = json.loads(run(command.replace(":3000", f":{port}")))["predictions"]
    assert prediction["digit"] == 3
    assert len(prediction["pixels"]) == 28


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if "python -m" in line and " add " not in line]
)
def test_the_command_lines_run(command: str) -> None:
    assert run(here(command))


def test_the_bento_command_runs(tmp_path: Path) -> None:
    (command,) = (line for line in COMMANDS if line.endswith("bentoml build"))
    assert "Successfully built" in run(here(command), BENTOML_HOME=str(tmp_path))


def test_the_train_command_writes_a_package(tmp_path: Path) -> None:
    (command,) = (line for line in COMMANDS if line.startswith("make train"))
    arguments = shlex.split(command)
    recipes = arguments[-1].removeprefix("RECIPES=")
    brief = shlex.join(
        [
            *arguments[:-1],
            f"RECIPES={recipes} --epochs 3 --no-compare --repository {tmp_path}",
            f"VENV={sys.prefix}",
        ]
    )
    run(brief)
    assert ModelRepository(tmp_path).get("curve-tanh").card.fit is not None


OWN = [
    block
    for name in ("README.md", "docs/bring-your-own.md")
    for block in re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL)
    if "fitserve.save" in block
]


@pytest.mark.timeout(1200)  # ten networks are exported
def test_the_users_own_networks_are_saved_checked_and_served_as_shown(tmp_path: Path) -> None:
    own = {**os.environ, "FITSERVE_MODEL_REPOSITORY": str(tmp_path)}
    for block in OWN:
        subprocess.run([sys.executable, "-c", block], cwd=ROOT, env=own, check=True, timeout=240)
    assert ModelRepository(tmp_path).names() == [
        "delay", "flowers", "forest", "iris", "mean", "resnet18", "reviews", "sentiment", "spam",
    ]  # fmt: skip
    (check,) = (line for line in COMMANDS if "fitserve check" in line)
    shown = run(check.replace(".venv/bin/fitserve", f"{sys.executable} -m fitserve"), **own)
    assert "A caller sends" in shown
    with temporary_home() as home, serving(home, ROOT, settings=own) as server:
        request, response = re.findall(
            r"```sh\n(curl.*/models/iris/predict.*)\n```\n\n```json\n(.*)\n```", PAGES["README.md"]
        )[0]
        address = server.url.removeprefix("http://")
        answer = json.loads(run(request.replace("127.0.0.1:3000", address)))
        (shown_row,), (row,) = json.loads(response)["predictions"], answer["predictions"]
        assert row["label"] == shown_row["label"]
        assert row["scores"] == pytest.approx(shown_row["scores"], abs=1e-4)
        (texts,) = (line for line in COMMANDS if "spam/predict" in line)
        rows = json.loads(run(texts.replace("127.0.0.1:3000", address)))["predictions"]
        assert [row["label"] for row in rows] == ["spam", "ham"]
        (picture,) = (line for line in COMMANDS if "resnet18/predict" in line)
        (row,) = json.loads(run(picture.replace("127.0.0.1:3000", address)))["predictions"]
        assert len(row["scores"]) == 5
        (columns,) = (line for line in COMMANDS if "delay/predict" in line)
        (row,) = json.loads(run(columns.replace("127.0.0.1:3000", address)))["predictions"]
        assert row["unit"] == "minutes"
        (texts,) = (line for line in COMMANDS if "reviews/predict" in line)
        rows = json.loads(run(texts.replace("127.0.0.1:3000", address)))["predictions"]
        assert [row["scores"].keys() for row in rows] == [{"bad", "good"}] * 2


@pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])
def test_the_table_of_networks_shows_the_figures_of_the_cards(card: ModelCard) -> None:
    assert card.fit is not None
    default, tutorial = card.seeds
    percent = default.metric == "accuracy"

    def over(mean: float, deviation: float) -> str:
        return f"{mean:.2%} ± {deviation:.2%}" if percent else f"{mean:.3f} ± {deviation:.3f}"

    row = (
        f"| [`{card.name}`](../models/{card.name}/{card.version}/README.md) | {headline(card)} "
        f"| {over(default.mean, default.standard_deviation)} "
        f"| {over(tutorial.mean, tutorial.standard_deviation)} "
        f"| {len(default.seeds)} | {card.fit.parameter_count:,} |"
    )
    assert row in PAGES["docs/networks.md"]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_listed_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    default = "models" if name == "model_repository" else field.default
    shown = f"`{default}`" if default not in (None, ()) else "none"
    assert f"| `{variable_of(name)}` | {shown} | {field.description} |" in PAGES["docs/settings.md"]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_every_old_name_of_a_setting_is_listed_with_its_new_name(old: str, new: str) -> None:
    assert f"| `FITSERVE_{old}` | `FITSERVE_{new}` |" in PAGES["docs/settings.md"]


def test_every_setting_that_a_page_names_is_one() -> None:
    known = {variable_of(name) for name in Settings.model_fields}
    old = {f"FITSERVE_{name}" for name in RENAMED}
    settings = set(re.findall(r"(?:FITSERVE|AIP)_[A-Z_]*[A-Z]", README)) - {"FITSERVE_DATA_DIR"}
    assert settings - old == known


@pytest.mark.parametrize("connections", ["1", "16", "64"])
def test_the_figures_of_performance_are_those_of_the_benchmarks(connections: str) -> None:
    section = re.findall(r"## Performance\n(.*?)\n## ", README, re.DOTALL)[0]
    measured = re.findall(rf"\| {connections} connections? \|.*?\n\n", BENCHMARKS, re.DOTALL)[0]
    (cells,) = re.findall(r"\| fitserve, V2 JSON \| (.*) \|\n", measured)
    rate, p50, p99, _ = (cell.split()[0] for cell in cells.split(" | "))
    assert f"| {connections} | {rate} | {p50} | {p99} |" in section
    for pattern in (
        r"fitserve, V2 binary \| 256 images \| ([\d,]+) ",
        r"fitserve, V2 JSON \| 300 s \| [\d,]+ \| ([\d,]+) ",
        r"(20\d\d-\d\d-\d\d): AMD EPYC, 2 cores",
    ):
        (figure,) = re.findall(pattern, BENCHMARKS)
        assert figure in section


LINKING = (
    *NAMES,
    *("CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "deploy/README.md"),
    *("deploy/container/README.md", "docs/design.md", "docs/gpu.md", "docs/security-tests.md"),
)


@pytest.mark.parametrize("name", LINKING)
def test_what_a_page_links_to_is_there(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text())
    for target, anchor in links:
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
