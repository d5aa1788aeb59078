"""The page of the API at `/docs`, in a browser, and the examples of the description.

The fixture `visitor` fails a test if the page logs an error, as for a violation of the
Content-Security-Policy, or calls another host.
"""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Visitor
from live_server import TIMED, Server, serving, temporary_home
from playwright.sync_api import Locator, Page, expect

KEY = "a key that nobody guesses"
FOLDER = Path("service/api/static/docs")


def block(page: Page, path: str) -> Locator:
    """Open the operation of a path."""
    found = page.locator(".opblock", has=page.locator(f'[data-path="{path}"]')).first
    found.locator(".opblock-summary-control").click()
    return found


def execute(operation: Locator) -> Any:
    """Send the prefilled example; return the content of the response, whose status is 200."""
    operation.get_by_role("button", name="Execute").click()
    table = operation.locator(".live-responses-table")
    expect(table.locator("tbody .response-col_status")).to_contain_text("200")
    return json.loads(table.locator(".microlight").first.inner_text())


def test_the_example_of_a_model_is_executed(visitor: Visitor, server: Server) -> None:
    page = visitor.open(f"{server.url}/docs")
    content = execute(block(page, "/models/moons-tanh/predict"))
    assert content["model"] == "moons-tanh"
    assert {row["label"] for row in content["predictions"]} <= {"upper moon", "lower moon"}


@pytest.mark.parametrize("address", ["/docs", "/docs/"])
def test_the_models_come_first(address: str, visitor: Visitor, server: Server) -> None:
    page = visitor.open(server.url + address)
    expect(page.locator(".opblock-tag").first).to_contain_text("Models")
    first = page.locator(".opblock-summary-path").first
    assert first.get_attribute("data-path") == "/models/adder-transformer/predict"


def posts(client: httpx.Client) -> Iterator[tuple[str, dict[str, str], Any]]:
    """Yield the path, the headers and the body of each example in JSON."""
    for path, methods in client.get("/docs.json").json()["paths"].items():
        if "requestBody" not in methods.get("post", {}):
            continue
        headers = {}
        for parameter in methods["post"].get("parameters", ()):
            if parameter["in"] == "header":
                headers[parameter["name"]] = parameter["example"]
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
        content = methods["post"]["requestBody"]["content"].get("application/json")
        if content is not None:
            yield path, headers, content["schema"]["example"]


def test_every_example_works_when_pasted(client: httpx.Client) -> None:
    seen = set()
    for path, headers, example in posts(client):
        response = client.post(path, headers=headers, json=example)
        assert response.status_code == 200, f"{path}: {response.text}"
        seen.add(path)
    names = {model["name"] for model in client.get("/models").json()["models"]}
    assert {f"/models/{name}/predict" for name in names} <= seen
    assert {"/invocations", "/v2/repository/index", "/classify_digits"} <= seen


def test_with_keys_the_page_asks_for_one(
    visitor: Visitor, root: Path, shipped: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"ann {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    settings = TIMED | {
        "FITSERVE_API_KEYS_FILE": str(keys),
        "FITSERVE_MODEL_REPOSITORY": str(shipped),
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        assert httpx.get(f"{server.url}/docs.json").status_code == 401
        visitor.expect("status of 401")
        page = visitor.open(f"{server.url}/docs")
        page.get_by_label("asks for an API key").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        execute(block(page, "/models/curve-tanh/predict"))
        assert KEY not in page.url


def test_the_files_are_those_of_the_npm_package(root: Path, tmp_path: Path) -> None:
    record = json.loads((root / FOLDER / "swagger-ui.json").read_text())
    try:
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{record['package']}@{record['version']}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the npm registry is not reached: {error}")
    content = (tmp_path / packed.stdout.strip()).read_bytes()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    assert record["integrity"] == f"sha512-{digest}"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in record["files"]:
            file = archive.extractfile(f"package/{name}")
            assert file is not None
            assert file.read() == (root / FOLDER / name).read_bytes(), name
    ours = {"index.html", "main.js", "page.css", "swagger-ui.json"}
    assert {path.name for path in (root / FOLDER).iterdir()} == {*record["files"], *ours}
