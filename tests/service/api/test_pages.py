"""The pages: the playground, the models, the OpenAPI description."""

import json
import logging
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route
from tiny import write_tiny

from models.package.model_package import ModelPackage, write_package
from service.api.openapi.description import openapi_of
from service.api.pages import create_pages
from service.api.rows.routes import DIALECTS
from service.api.rows.status import MODEL_PAGES, PAGES
from service.api.state import ServiceState
from service.api.static_pages import FOLDER, MEDIA_TYPES, STATIC_PAGES
from service.api.v2.routes import PREFIX, ROUTES
from service.inference.registry import ModelRegistry
from service.service import FitServe
from service.settings import VERSION, Settings


class Pages(NamedTuple):
    """The mounted application, over a registry of one good package and one broken."""

    app: Starlette
    package: ModelPackage

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Request one page."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            return await client.get(path, headers=headers)


PICTURE = b"\x89PNG\r\n\x1a\n and so on"


def with_report(package: ModelPackage) -> ModelPackage:
    """Write the package again, with a report of two pictures and another file."""
    names = ("loss.png", "spoilt.png", "note.html")
    files = {file: package.load(file) for file in package.card.files if file.startswith("model.")}
    files |= {f"report/{name}": PICTURE for name in names}
    shutil.rmtree(package.path)
    return write_package(package.path.parents[1], package.card, files)


@pytest.fixture(scope="module")
async def pages(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Pages]:
    root = tmp_path_factory.mktemp("packages")
    package = with_report(write_tiny(root, "line", runtimes=("onnx",)))
    (write_tiny(root, "broken", runtimes=("onnx",)).path / "model.onnx").write_bytes(b"")
    state = ServiceState(
        ModelRegistry(Settings(model_repository=root, device="cpu", max_batch_rows=4)),
        openapi=openapi_of(FitServe, "fitserve", VERSION),
    )
    app = create_pages(state)
    await state.registry.open()
    yield Pages(app, package)
    await state.registry.close()


@pytest.fixture(scope="module")
async def specification(pages: Pages) -> dict[str, Any]:
    response = await pages.get("/docs.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    content: dict[str, Any] = response.json()
    return content


async def test_models_lists_summaries_and_the_reasons_of_unavailable_models(pages: Pages) -> None:
    response = await pages.get("/models")
    assert response.status_code == 200
    content = response.json()
    assert list(content) == ["models", "refused", "loading"]
    assert content["loading"] == []
    (model,) = content["models"]
    card = json.loads(pages.package.card.model_dump_json())
    same = ("name", "version", "summary", "task", "batching")
    assert tuple(model) == (*same, "inputs", "outputs", "evaluations", "serving")
    for key in same:
        assert model[key] == card[key]
    for side in ("inputs", "outputs"):
        for spec in card[side]:
            spec.pop("labels")
        assert model[side] == card[side]
    assert model["serving"] == {"runtime": "onnx", "device": "cpu"}
    assert list(content["refused"]) == ["broken"]
    assert "model.onnx: it holds 0 bytes" in content["refused"]["broken"]


async def test_the_page_of_a_model_is_its_card_with_its_placement(pages: Pages) -> None:
    response = await pages.get("/models/line")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    serving = content.pop("serving")
    assert content == json.loads(pages.package.card.model_dump_json())
    assert (serving["runtime"], serving["device"]) == ("onnx", "cpu")
    assert set(serving["seconds_by_batch_rows"]["onnx"]) == {"1", "2", "4"}


async def test_the_description_of_a_model_is_built_once(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card may have megabytes, and its encoding blocks the event loop."""
    before = [(await pages.get(path)).content for path in ("/models", "/models/line")]
    for name in ("model_dump", "model_dump_json"):
        monkeypatch.delattr(BaseModel, name)
    assert [(await pages.get(path)).content for path in ("/models", "/models/line")] == before


@pytest.mark.parametrize("name", ["lines", "Line", "line%2F1", "%00", "é"])
async def test_an_unknown_model_is_a_404_that_names_the_list(pages: Pages, name: str) -> None:
    response = await pages.get(f"/models/{name}")
    assert response.status_code == 404
    if (
        response.headers["content-type"] == "application/json"
    ):  # otherwise the path is not that of a model
        assert list(response.json()) == ["error"]
        assert re.fullmatch(
            r"Request for unknown model: .* is not found; GET /models has the others\.",
            response.json()["error"],
        )


async def test_an_unavailable_model_is_a_503(pages: Pages) -> None:
    response = await pages.get("/models/broken")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json() == {
        "error": "Model 'broken' is unavailable since the service started; see its log."
    }


# The playground.


async def test_the_pages_may_only_call_this_service(pages: Pages) -> None:
    for path, images in (("/", "blob:"), ("/docs", "data:")):
        response = await pages.get(path)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert set(re.findall(r"(?<= )[^\s;]+(?=[;\s]|$)", policy)) - DIRECTIVES == {
            *("'none'", "'self'", images)
        }


DIRECTIVES = {
    *("script-src", "style-src", "connect-src", "img-src"),
    *("base-uri", "form-action", "frame-ancestors"),
}


@pytest.mark.parametrize(
    ("file", "media_type"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("main.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("examples.json", "application/json"),
    ],
)
async def test_a_file_of_the_page_has_its_media_type(
    pages: Pages, file: str, media_type: str
) -> None:
    response = await pages.get(f"/playground/{file}")
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.content == (FOLDER / "playground" / file).read_bytes()


async def test_every_file_in_the_folder_is_sent(pages: Pages) -> None:
    for page in STATIC_PAGES:
        assert len(page.paths) > 5
    for file in FOLDER.glob("*/*"):
        if file.suffix in MEDIA_TYPES:
            path = f"/{file.relative_to(FOLDER)}"
            assert (await pages.get(path)).status_code == 200, path


@pytest.mark.parametrize("path", ["/", "/playground/main.js", "/models/line/report/loss.png"])
async def test_a_cached_file_is_not_sent_again(pages: Pages, path: str) -> None:
    first = await pages.get(path)
    tag = first.headers["etag"]
    assert "no-cache" in first.headers["cache-control"]  # it revalidates each time
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = await pages.get(path, {"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = await pages.get(path, {"If-None-Match": '"0123456789abcdef"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize(
    "file",
    [
        *("nothing.js", "main", "MAIN.JS", "", "main.js%00", "%2fetc%2fpasswd"),
        *("%2e%2e%2fsettings.py", "%2e%2e%2f%2e%2e%2fREADME.md", "%2e%2e%5csettings.py"),
    ],
)
async def test_an_unknown_file_of_the_page_is_not_found(pages: Pages, file: str) -> None:
    assert (await pages.get(f"/playground/{file}")).status_code == 404


# Pictures.


async def test_a_picture_of_a_report_is_sent_as_it_is(pages: Pages) -> None:
    response = await pages.get("/models/line/report/loss.png")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.content == PICTURE


@pytest.mark.parametrize(
    "file", ["other.png", "note.html", "loss.PNG", "..%2fcard.json", "%00.png", "unlisted.png"]
)
async def test_a_picture_that_the_card_does_not_list_is_not_found(pages: Pages, file: str) -> None:
    (pages.package.path / "report/unlisted.png").write_bytes(PICTURE)
    response = await pages.get(f"/models/line/report/{file}")
    assert response.status_code == 404
    if (
        response.headers["content-type"] == "application/json"
    ):  # otherwise the path is not that of a picture
        assert response.json()["error"].endswith("; there are: report/loss.png, report/spoilt.png.")


async def test_a_changed_picture_is_not_sent(
    pages: Pages, logged: Callable[[], list[logging.LogRecord]]
) -> None:
    for content in (PICTURE + b"more", bytes(len(PICTURE))):
        (pages.package.path / "report/spoilt.png").write_bytes(content)
        response = await pages.get("/models/line/report/spoilt.png")
        assert response.status_code == 500
        assert response.json()["error"].startswith(
            "The picture 'report/spoilt.png' of model 'line' is not the one of its card any more."
        )
        assert content not in response.content
        assert logged()[-1].exc_info is not None  # the log names the file and the reason


async def test_pictures_of_unknown_and_unavailable_models_fail_like_their_cards(
    pages: Pages,
) -> None:
    assert (await pages.get("/models/lines/report/loss.png")).status_code == 404
    assert (await pages.get("/models/broken/report/loss.png")).status_code == 503


# The OpenAPI description.


def operations(specification: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in specification["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_endpoint_is_described(specification: dict[str, Any], pages: Pages) -> None:
    described = {(path, method) for path, method, _ in operations(specification)}
    typed = {(api.route, "post") for api in FitServe.apis.values()}
    assert {path for path, _ in typed} == {
        "/classify_digits",
        "/classify_image",
        "/predict_curve",
        "/classify_points",
    }
    routes = [route for route in pages.app.routes if isinstance(route, Route)]
    mounted = {(route.path, "get") for route in routes} - {("/docs.json", "get")}
    probes = {(path, "get") for path in ("/livez", "/readyz", "/healthz")}
    protocol = {(PREFIX + path, method.lower()) for path, (method, _) in ROUTES.items()}
    rows = {(dialect.endpoint, "post") for dialect in DIALECTS.values() if dialect.endpoint}
    rows |= {(path, "get") for path in (*PAGES, *MODEL_PAGES)} | {("/models/line/predict", "post")}
    assert described == typed | probes | mounted | protocol | rows


def test_the_description_refers_to_no_other_host(specification: dict[str, Any]) -> None:
    assert specification["openapi"].startswith("3.")
    assert specification["info"]["title"] == "fitserve"
    assert specification["info"]["version"] == VERSION
    assert specification["info"]["description"].startswith("Digits, curves and points")
    assert "://" not in json.dumps(specification)


def test_every_reference_is_resolvable(specification: dict[str, Any]) -> None:
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(specification)))
    assert "#/components/schemas/Error" in references
    for reference in references:
        node: Any = specification
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_every_typed_endpoint_describes_its_errors(specification: dict[str, Any]) -> None:
    for api in FitServe.apis.values():
        responses = specification["paths"][api.route]["post"]["responses"]
        refused = ["400", "401", "403", "404", "408", "413", "415", "421", "429", "431"]
        assert list(responses) == ["200", *refused, "500", "501", "503", "504", "505"]
        for status, response in responses.items():
            assert response["description"]
            if status != "200":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}
    schema = specification["components"]["schemas"]["Error"]
    assert schema["required"] == ["error"]


def test_every_json_endpoint_has_an_example_and_every_field_a_description(
    specification: dict[str, Any],
) -> None:
    seen = 0
    for _, method, operation in operations(specification):
        if method != "post" or "requestBody" not in operation:
            continue
        ((media_type, content),) = operation["requestBody"]["content"].items()
        for field in content["schema"]["properties"].values():
            assert field["description"]
        if media_type == "application/json":
            seen += 1
            missing = set(content["schema"]["properties"]) - set(content["schema"]["example"])
            assert missing <= {"parameters"}
        else:
            assert media_type == "multipart/form-data"
    assert seen == 9


def test_a_path_s_parameters_have_examples(specification: dict[str, Any]) -> None:
    (parameter,) = specification["paths"]["/models/{name}"]["get"]["parameters"]
    assert parameter["name"] == "name"
    assert parameter["required"] is True
    assert parameter["example"]
    assert "404" in specification["paths"]["/models/{name}"]["get"]["responses"]
