"""Names typed letter by letter: the answers of a real server, and of the playground's form."""

import httpx
import pytest
from browser import Visitor
from live_server import Server
from playwright.sync_api import expect

BEGINNINGS = ["", "johns", "li", "O'Bri", "Zoë", "von der Leyen-Schmidt"]


def predict(client: httpx.Client, texts: list[str]) -> list[dict[str, object]]:
    response = client.post("/models/names-lstm/predict", json={"instances": texts})
    assert response.status_code == 200, response.text
    predictions: list[dict[str, object]] = response.json()["predictions"]
    return predictions


def test_a_text_is_answered_alone_as_in_company(client: httpx.Client) -> None:
    together = predict(client, BEGINNINGS)
    for text, answer in zip(BEGINNINGS, together, strict=True):
        (alone,) = predict(client, [text])
        assert alone["label"] == answer["label"], text
        assert alone["scores"] == pytest.approx(answer["scores"], abs=1e-5)


def test_the_next_letters_are_those_of_names(client: httpx.Client) -> None:
    assert [row["label"] for row in predict(client, ["q", "sc", "johnson"])] == ["u", "h", "end"]


@pytest.mark.parametrize("rows", [[3], [["a", "b"]], [None], ["a", 3]])
def test_what_is_no_text_is_refused_with_a_sentence(
    rows: list[object], client: httpx.Client
) -> None:
    response = client.post("/models/names-lstm/predict", json={"instances": rows})
    assert response.status_code == 400
    assert response.json()["error"].endswith(".")


def test_the_playground_answers_each_letter_while_it_is_typed(
    visitor: Visitor, server: Server
) -> None:
    page = visitor.open(f"{server.url}/#networks/names-lstm")
    form = page.locator("#network .ask")
    field = form.get_by_label("The text")
    field.fill("q")
    expect(form.locator(".answer-text")).to_have_text("u")
    field.press_sequentially("u")
    expect(form.locator(".answer-text")).not_to_have_text("u")
    field.fill("sc")
    expect(form.locator(".answer-text")).to_have_text("h")
