"""The forms of the playground for networks of one's own, in a browser; and their answers."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import Visitor
from live_server import Server, serving, temporary_home
from own_forms import GENRES, PETS, save_forms
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect
from table_networks import ROWS, expected, save_flights


@pytest.fixture(scope="module")
def forms(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `pets`, `rides`, `genres` and `flights`."""
    folder = tmp_path_factory.mktemp("forms")
    save_forms(folder)
    save_flights(folder)
    settings = {"FITSERVE_MODEL_REPOSITORY": str(folder), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield server


def form_of(visitor: Visitor, server: Server, model: str) -> tuple[Page, Locator]:
    """Open the page of a network; return it, and its form."""
    page = visitor.open(f"{server.url}/#networks/{model}")
    form = page.locator("#network .ask")
    expect(form).to_be_visible()
    return page, form


def picture() -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("gesture", ["choose", "drop"])
def test_a_picture_is_answered_by_labels_with_bars(
    gesture: str, visitor: Visitor, forms: Server
) -> None:
    page, form = form_of(visitor, forms, "pets")
    if gesture == "choose":
        file: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": picture()}
        form.locator("input[type=file]").set_input_files(file)
    else:
        carried = page.evaluate_handle(
            """(content) => {
                const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
                const carried = new DataTransfer();
                carried.items.add(new File([bytes], "a.png", { type: "image/png" }));
                return carried;
            }""",
            base64.b64encode(picture()).decode(),
        )
        page.dispatch_event(".picture-drop", "drop", {"dataTransfer": carried})
    answer = httpx.post(f"{forms.url}/models/pets/predict", files={"picture": picture()}).json()
    (prediction,) = answer["predictions"]
    expect(form.locator(".answer-text")).to_have_text(prediction["label"])
    expect(form.locator(".bars .number")).to_have_text(
        [f"{100 * score:.1f}%" for score in prediction["scores"].values()]
    )
    assert set(prediction["scores"]) == set(PETS)
    expect(form.locator("img")).to_be_visible()


def test_a_file_that_is_no_picture_gets_a_sentence(visitor: Visitor, forms: Server) -> None:
    visitor.expect("status of 400")
    _, form = form_of(visitor, forms, "pets")
    file: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": b"none"}
    form.locator("input[type=file]").set_input_files(file)
    expect(form.locator(".trouble")).to_contain_text("PNG")


def test_fields_are_filled_from_the_card_and_a_number_has_its_unit(
    visitor: Visitor, forms: Server
) -> None:
    _, form = form_of(visitor, forms, "rides")
    card = httpx.get(f"{forms.url}/models/rides").json()
    for name in ("kilometres", "passengers", "night"):
        example = card["example"]["inputs"][name]["data"][0]
        assert float(form.get_by_label(name).input_value()) == pytest.approx(example)
    form.get_by_label("kilometres").fill("10")
    form.get_by_label("night").fill("1")
    form.get_by_role("button", name="Ask").click()
    expect(form.locator(".answer-text")).to_have_text("45 minutes")


def test_a_row_of_a_table_has_a_field_for_each_column(visitor: Visitor, forms: Server) -> None:
    _, form = form_of(visitor, forms, "flights")
    for name, shown in (("distance miles", "1400"), ("day", "2013-01-01"), ("origin", "JFK")):
        assert form.get_by_label(name).input_value() == shown
    form.get_by_label("origin").select_option("LGA")
    form.get_by_label("late").select_option("true")
    form.get_by_label("carrier").fill("B6")
    form.get_by_label("dep_time").fill("")
    form.get_by_role("button", name="Ask").click()
    changed = {"origin": "LGA", "late": True, "carrier": "B6", "dep_time": None}
    answer = float(f"{expected({**ROWS[0], **changed}):.5g}")
    expect(form.locator(".answer-text")).to_have_text(str(int(answer)))
    visitor.expect("status of 400")
    form.get_by_label("distance miles").fill("6001")
    form.get_by_role("button", name="Ask").click()
    expect(form.locator(".trouble")).to_contain_text("it must be from 0 to 6000 miles")


def test_several_labels_are_answered(visitor: Visitor, forms: Server) -> None:
    _, form = form_of(visitor, forms, "genres")
    for at, value in enumerate(("2", "-2", "1")):
        form.get_by_label(f"x {at + 1}").fill(value)
    form.get_by_role("button", name="Ask").click()
    expect(form.locator(".answer-text")).to_have_text(f"{GENRES[0]}, {GENRES[2]}")
    expect(form.locator(".bars .number")).to_have_text(["88.1%", "73.1%", "11.9%"])
    for at in range(3):
        form.get_by_label(f"x {at + 1}").fill("-2")
    form.get_by_role("button", name="Ask").click()
    expect(form.locator(".answer-text")).to_have_text("no label")


def test_a_pair_of_texts_is_sent_by_its_names(visitor: Visitor, forms: Server) -> None:
    page, _ = form_of(visitor, forms, "genres")
    page.evaluate(
        """async () => {
            const { askForm } = await import("./playground/ask.js");
            const text = { example: ["a question", "an answer"], max_tokens: 64 };
            const card = { name: "pairs", text, inputs: [{ shape: [-1, -1] }] };
            document.body.replaceChildren(askForm(card));
        }"""
    )
    page.route("**/models/pairs/predict", lambda route: route.fulfill(json={"predictions": [0.5]}))
    page.get_by_label("The first text").fill("Who sat?")
    page.get_by_label("The second text").fill("The cat sat.")
    with page.expect_request("**/models/pairs/predict") as asked:
        page.get_by_role("button", name="Ask").click()
    assert asked.value.post_data_json == {
        "instances": [{"text": "Who sat?", "text_pair": "The cat sat."}]
    }


def test_a_request_chooses_its_labels(forms: Server) -> None:
    body = {"instances": [[2, -2, 1]], "parameters": {"top": 1}}
    answer = httpx.post(f"{forms.url}/models/genres/predict", json=body).json()
    (prediction,) = answer["predictions"]
    assert prediction["labels"] == [GENRES[0]]
    assert prediction["scores"] == pytest.approx({GENRES[0]: 0.880797})
    body["parameters"] = {"best": 1}
    refused = httpx.post(f"{forms.url}/models/genres/predict", json=body)
    assert refused.status_code == 400
    assert "'top', 'threshold'" in refused.json()["error"]


def test_every_example_of_these_networks_works_when_pasted(forms: Server) -> None:
    paths = httpx.get(f"{forms.url}/docs.json").json()["paths"]
    for name in ("pets", "rides", "genres", "flights"):
        operation = paths[f"/models/{name}/predict"]["post"]
        example = operation["requestBody"]["content"]["application/json"]["schema"]["example"]
        response = httpx.post(f"{forms.url}/models/{name}/predict", json=example)
        assert response.status_code == 200, response.text
        shown = operation["responses"]["200"]["content"]["application/json"]["example"]
        assert list(response.json()) == list(shown)
