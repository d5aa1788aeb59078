"""The tab Networks of the playground: cards, forms and code snippets."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from browser import Visitor, opened
from live_server import BIN, Server, serving, temporary_home
from onnx import TensorProto, helper
from playwright.sync_api import Locator, Page, expect
from small_packages import bfloat16_onnx

from models.__main__ import main
from models.package.card import ModelCard
from models.package.repository import ModelRepository

CLIENTS = BIN.parent / "clients" / "bin" / "python"
LABELS = ("<b>bold</b>", "it's <i>", '"quoted" & more')


def network(path: Path, operator: str, name: str, width: int | str) -> Path:
    """Return a graph of one operator, from rows of numbers to rows of numbers."""
    input_info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
    output_info = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", width])
    node = helper.make_node(operator, [name], ["answer"])
    graph = helper.make_graph([node], "g", [input_info], [output_info])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def added(root: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two added networks with hostile names, one of BF16, and a broken package."""
    folder = tmp_path_factory.mktemp("networks")
    packages = folder / "packages"
    for name, operator, tensor, width, labels in (
        ("labelled", "Softmax", 'it\'s <b>"this"</b>', 3, ["--label", *LABELS]),
        ("lengths", "Abs", "row", "length", []),
    ):
        file = network(folder / f"{name}.onnx", operator, tensor, width)
        options = ["--onnx", str(file), "--repository", str(packages), *labels]
        assert main(["add", name, *options]) == 0
    brain = folder / "brain.onnx"
    brain.write_bytes(bfloat16_onnx())
    assert main(["add", "brain", "--onnx", str(brain), "--repository", str(packages)]) == 0
    shutil.copytree(shipped / "moons-linear", packages / "broken")
    settings = {"FITSERVE_MODEL_REPOSITORY": str(packages)}
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield server


def test_tabs_without_a_served_network_are_hidden(visitor: Visitor, added: Server) -> None:
    page = visitor.open(added.url)
    tabs = page.get_by_role("tab")
    expect(tabs).to_have_text(["Networks", "Now"])  # hidden tabs have no role
    expect(page.get_by_role("tabpanel", name="Networks")).to_be_visible()
    tabs.first.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Now")).to_be_focused()
    page.goto(f"{added.url}/#points")
    expect(page.get_by_role("tabpanel", name="Networks")).to_be_visible()


def test_each_tab_is_shown_if_a_network_supports_it(visitor: Visitor, server: Server) -> None:
    page = visitor.open(server.url)
    expect(page.locator("#serving")).to_contain_text("trained networks.")
    expect(page.get_by_role("tab")).to_have_text(["Digits", "Curves", "Points", "Networks", "Now"])


def chosen(page: Page, name: str) -> Locator:
    """Choose a network from the list, and return its card."""
    page.locator("#network-list").get_by_role("link", name=re.compile(rf"^{name}\b")).click()
    expect(page.locator("#network h3")).to_have_text(re.compile(f"^{name} version"))
    return page.locator("#network")


def response_of_api(
    server: Server, name: str, inputs: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the response of the API."""
    response = httpx.post(f"{server.url}/v2/models/{name}/infer", json={"inputs": inputs})
    assert response.status_code == 200, response.text
    outputs: list[dict[str, Any]] = response.json()["outputs"]
    return outputs


def predicted(page: Page) -> tuple[list[Mapping[str, Any]], Locator]:
    """Press the button of the form; return the sent request and the element of the response."""
    with page.expect_response(re.compile("/infer$")) as response_info:
        page.get_by_role("button", name="Predict").click()
    sent: list[Mapping[str, Any]] = response_info.value.request.post_data_json["inputs"]
    return sent, page.locator("#network form.try .outputs")


def filled(page: Page, name: str, filling: str) -> None:
    page.get_by_label(f"Fill {name} with").select_option(filling)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def number(value: float) -> str:
    """Format a value as the page of a package."""
    return f"{value:.4g}".replace("e-0", "e-") if abs(value) < 1e-3 else f"{value:.4f}"


# Cards.


def test_each_networks_card_is_shown_whole(
    visitor: Visitor, server: Server, repository: ModelRepository
) -> None:
    page = opened(visitor, server, "networks")
    names = list(repository.names())
    expect(page.locator("#network-list a")).to_have_count(len(names))
    for name in names:
        card = repository.get(name).card
        shown = chosen(page, name)
        assert page.url.endswith(f"#networks/{name}")
        content = shown.text_content() or ""
        assert [text for text in texts_of(card) if text not in content] == []
        pictures = [file for file in card.files if file.endswith(".png")]
        expect(shown.locator(f'img[alt^="{name}: "]')).to_have_count(len(pictures))
        for file in pictures:
            alt = f"{name}: {Path(file).stem.replace('-', ' ')}"
            picture = shown.get_by_role("img", name=alt)
            picture.scroll_into_view_if_needed()
            expect(picture).to_have_js_property("complete", True)
            assert picture.evaluate("(image) => image.naturalWidth") > 100


def texts_of(card: ModelCard) -> list[str]:
    """Return the texts of a card that the page must contain."""
    assert card.fit is not None
    test = card.evaluations[0]
    figures = [number(value) for entry in card.evaluations for value in entry.metrics.values()]
    seeds = [number(value) for entry in card.seeds for value in (entry.mean, *entry.values)]
    return [
        card.summary,
        card.intended_use,
        *card.limits,
        *figures,
        *seeds,
        f"{test.samples:,}",
        *(f"{proof.equal_answers:.2%}" for proof in card.parity),
        *(record.sha256 for record in card.files.values()),
        card.fit.data.sha256,
        f"{card.fit.parameter_count:,}",
        f"seed {card.fit.seed}",
        *card.fit.hyperparameters,
        *(spec.meaning for spec in (*card.inputs, *card.outputs)),
    ]


def test_the_list_shows_the_metric_of_each_network(
    visitor: Visitor, server: Server, repository: ModelRepository
) -> None:
    page = opened(visitor, server, "networks")
    for name in repository.names():
        test = repository.get(name).card.evaluations[0]
        entry = page.locator(f"#network-list a[href='#networks/{name}']")
        if "accuracy" in test.metrics:
            measured = f"{100 * test.metrics['accuracy']:.2f}% of {test.samples:,} right"
        else:
            measured = f"mean squared error {test.metrics['mse']:.4f}"
        expect(entry).to_contain_text(measured)


def test_a_network_has_a_url_and_the_back_button_returns(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "networks/moons-tanh")
    title = page.locator("#network h3")
    expect(title).to_contain_text("moons-tanh")
    chosen(page, "curve-mlp")
    page.go_back()
    expect(title).to_contain_text("moons-tanh")
    page.click("#tab-now")
    page.click("#tab-networks")
    expect(title).to_contain_text("moons-tanh")
    page.goto(f"{server.url}/#networks/none-such")
    expect(page.locator("#network-trouble")).to_contain_text("none-such")


# Forms.


def test_the_form_sends_the_example_of_the_card_and_shows_the_response(
    visitor: Visitor, server: Server, repository: ModelRepository
) -> None:
    for name in ("mnist-cnn", "moons-tanh"):
        page = opened(visitor, server, f"networks/{name}")
        sent, outputs = predicted(page)
        example = repository.get(name).card.example
        (recorded,) = example.inputs.values()
        ((tensor),) = sent
        assert tensor["shape"] == [1, *recorded.shape[1:]]
        assert tensor["data"] == list(recorded.data[: len(tensor["data"])])
        (answer,) = response_of_api(server, name, sent)
        expect(outputs.locator(".bars .number")).to_have_text(
            [percent(share) for share in answer["data"]]
        )
        expect(page.locator("#network form.try .given [role=status]")).to_have_text(
            re.compile(r"^Answered in [\d.]+ ms\.$")
        )


def test_typed_numbers_get_the_response_of_the_api(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "networks/curve-tanh")
    page.get_by_label("Rows").fill("3")
    filled(page, "x", "own")
    page.get_by_label("x as JSON").fill("[[0], [5], [10.5]]")
    sent, outputs = predicted(page)
    assert sent == [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [[0], [5], [10.5]]}]
    (answer,) = response_of_api(server, "curve-tanh", sent)
    shown = [float(text) for text in outputs.locator("td.number").all_text_contents()]
    assert shown == pytest.approx(answer["data"], rel=1e-6)


def test_zeros_and_random_numbers_are_as_named(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "networks/mnist-mlp")
    page.get_by_label("Rows").fill("2")
    filled(page, "image", "zeros")
    ((tensor),) = predicted(page)[0]
    assert tensor["shape"] == [2, 28, 28]
    assert tensor["data"] == [0] * 1568
    filled(page, "image", "random")
    ((tensor),) = predicted(page)[0]
    pixels = np.array(tensor["data"])
    assert pixels.dtype.kind == "i"
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    assert len(set(tensor["data"])) > 200
    page.get_by_role("button", name="Draw anew").click()
    assert predicted(page)[0][0]["data"] != tensor["data"]
    chosen(page, "curve-tanh")
    page.get_by_label("Rows").fill("16")
    filled(page, "x", "random")
    places = predicted(page)[0][0]["data"]
    assert len(set(places)) > 8
    assert min(places) >= 0
    assert max(places) <= 20
    assert max(places) > 5


def test_invalid_numbers_are_an_error_of_one_sentence(visitor: Visitor, server: Server) -> None:
    visitor.expect("status of 400")
    page = opened(visitor, server, "networks/curve-tanh")
    filled(page, "x", "own")
    page.get_by_label("x as JSON").fill("[1, 2, 3]")
    page.get_by_role("button", name="Predict").click()
    trouble = page.locator("#network form.try .given .trouble")
    expect(trouble).to_contain_text("does not have the shape [1, 1]")
    page.get_by_label("x as JSON").fill("one and two")
    page.get_by_role("button", name="Predict").click()
    expect(trouble).to_contain_text("no JSON list")
    page.get_by_label("x as JSON").fill("[7]")
    predicted(page)
    expect(trouble).to_be_empty()


# Networks of other origin.


def test_labels_and_names_that_look_like_html_stay_text(visitor: Visitor, added: Server) -> None:
    page = opened(visitor, added, "networks/labelled")
    _, outputs = predicted(page)
    for label in LABELS:
        expect(outputs.get_by_text(label, exact=True)).to_be_visible()
        expect(page.locator("#network")).to_contain_text(label)
    expect(outputs.locator("b, i:not(.bar i)")).to_have_count(0)
    expect(page.locator("#network legend code")).to_have_text('it\'s <b>"this"</b>')


def test_an_unavailable_package_is_shown_with_its_reason(visitor: Visitor, added: Server) -> None:
    page = opened(visitor, added, "networks")
    reason = httpx.get(f"{added.url}/models").json()["refused"]["broken"]
    expect(page.locator("#refused")).to_contain_text(f"broken: {reason}")
    expect(page.locator("#network-list a")).to_have_count(3)


def test_a_dimension_of_any_size_has_a_field(visitor: Visitor, added: Server) -> None:
    page = opened(visitor, added, "networks/lengths")
    field = page.get_by_label("Dimension 2")
    expect(field).to_be_disabled()  # the example has its own
    filled(page, "row", "random")
    field.fill("5")
    page.get_by_label("Rows").fill("2")
    sent, outputs = predicted(page)
    assert sent[0]["shape"] == [2, 5]
    shown = [abs(value) for value in sent[0]["data"]]
    assert [float(text) for text in outputs.locator("td.number").all_text_contents()] == shown
    options = page.get_by_label("Fill row with").locator("option")
    expect(options).to_have_count(4)
    field.fill("4000")
    expect(options).to_have_count(3)  # 8,000 numbers are too many to type


# Code snippets.


def snippet(page: Page, language: str) -> str:
    page.locator(".paste").get_by_role("button", name=language).click()
    text: str = page.locator(".paste pre").text_content() or ""
    return text


def run(*command: str | Path, **variables: str) -> str:
    completed = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **variables}
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.parametrize(
    ("name", "tensor", "filling"),
    [
        ("curve-tanh", "x", "example"),
        ("moons-tanh", "point", "random"),
        ("mnist-cnn", "image", "zeros"),
        ("labelled", 'it\'s <b>"this"</b>', "random"),
        ("lengths", "row", "example"),
    ],
)
def test_the_snippets_give_the_response_of_the_form(
    name: str, tensor: str, filling: str, visitor: Visitor, server: Server, added: Server
) -> None:
    asked_server = added if name in ("labelled", "lengths") else server
    page = opened(visitor, asked_server, f"networks/{name}")
    filled(page, tensor, filling)
    page.get_by_label("Rows").fill("2")
    sent, _ = predicted(page)
    expected = response_of_api(asked_server, name, sent)
    assert ast.literal_eval(run(sys.executable, "-c", snippet(page, "Python"))) == expected
    if shutil.which("curl"):
        assert json.loads(run("sh", "-c", snippet(page, "curl")))["outputs"] == expected
    if CLIENTS.exists():
        text = run(CLIENTS, "-c", snippet(page, "tritonclient"))
        values = [float(text) for text in re.findall(r"-?\d[\d.e+-]*", text)]
        (output,) = expected
        assert values == pytest.approx(output["data"], abs=1e-4)


def test_a_network_of_bfloat16_is_asked_in_binary(visitor: Visitor, added: Server) -> None:
    page = opened(visitor, added, "networks/brain")
    filled(page, "x", "own")
    page.get_by_label("x as JSON").fill("[[0.1, -3]]")
    page.get_by_role("button", name="Predict").click()
    answered = page.locator("#network form.try .outputs")
    expect(answered).to_contain_text("BF16 [1, 2]")
    expect(answered).to_contain_text("0.2001953")  # 0.1 is 0.10009765625 in BF16
    expect(answered).to_contain_text("-6")
    expect(page.locator(".paste").get_by_role("button", name="curl")).to_have_count(0)
    if CLIENTS.exists():
        assert re.search(r"0\.2001\d* +-6", run(CLIENTS, "-c", snippet(page, "tritonclient")))


def test_a_snippet_of_several_inputs_is_complete_at_any_size(page: Page) -> None:
    tensors = [
        {"name": "it's", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1]},
        {"name": 'a "big" one', "shape": [1, 500], "datatype": "UINT8", "data": [7] * 500},
        {"name": "$HOME", "shape": [1, 1], "datatype": "BOOL", "data": [True]},
        {"name": "`id`", "shape": [1, 70], "datatype": "BOOL", "data": [True] * 70},
    ]
    texts = page.evaluate(
        """async (tensors) => {
            const { snippets } = await import("./playground/snippets.js");
            const card = { name: "many", inputs: tensors, outputs: [] };
            return Object.fromEntries(snippets("http://127.0.0.1:9/", card, tensors, false));
        }""",
        tensors,
    )
    expected = [dict(entry) for entry in tensors]
    expected[1]["data"], expected[3]["data"] = [0] * 500, [False] * 70
    body, send = texts["curl"].split(" |\n")
    assert send.endswith("-d @-")
    assert json.loads(run("sh", "-c", body))["inputs"] == expected
    listed = texts["Python"].partition("inputs = ")[2].partition("headers")[0]
    assert eval(listed) == expected  # noqa: S307 - our own code


def test_many_numbers_are_replaced_in_the_snippet_with_a_note(
    visitor: Visitor, server: Server
) -> None:
    page = opened(visitor, server, "networks/mnist-cnn")
    for language in ("curl", "Python", "tritonclient"):
        assert len(snippet(page, language)) < 800
    note = page.locator(".paste p")
    expect(note).to_contain_text("zeros stand for")
    filled(page, "image", "zeros")
    expect(note).to_be_empty()


def test_a_key_is_never_in_a_snippet(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "networks/curve-tanh")
    page.evaluate("sessionStorage.setItem('fitserve-key', 'secret-of-ann')")
    page.reload()
    for language, named in (
        ("curl", '-H "X-API-Key: $KEY"'),
        ("Python", 'os.environ["KEY"]'),
        ("tritonclient", 'os.environ["KEY"]'),
    ):
        text = snippet(page, language)
        assert named in text
        assert "secret-of-ann" not in text
    run(sys.executable, "-c", snippet(page, "Python"), KEY="any")


def test_a_snippet_is_copied_or_selected(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "networks/curve-tanh")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = snippet(page, "Python")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator(".paste [role=status]")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator(".paste [role=status]")).to_contain_text("Ctrl+C")
    assert page.evaluate("String(getSelection())").strip() == text


# Layout.


@pytest.mark.parametrize("name", ["mnist-cnn", "moons-tanh"])
def test_a_card_with_a_response_fits_a_narrow_window(
    name: str, visitor: Visitor, server: Server
) -> None:
    page = opened(visitor, server, f"networks/{name}", width=360, height=740)
    page.get_by_label("Rows").fill("3")
    predicted(page)
    for summary in page.locator("#network summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
