"""The adder as it is served: a text in, its sum out, by programs and in the playground."""

import concurrent.futures

import httpx
import pytest
from browser import Visitor
from live_server import Server
from playwright.sync_api import expect

PATH = "/models/adder-transformer/predict"
SUMS = {"7+45": 52, "0+0": 0, "999+999": 1998, "100+9": 109, " 012 + 30 =": 42}


def test_texts_are_answered_with_their_sums(client: httpx.Client) -> None:
    response = client.post(PATH, json={"instances": list(SUMS)})
    assert response.status_code == 200, response.text
    assert response.json()["predictions"] == list(SUMS.values())


def test_sums_of_unequal_lengths_that_are_asked_at_once_are_those_asked_alone(
    client: httpx.Client,
) -> None:
    asked = [f"{first}+{second}" for first in (3, 40, 500) for second in (8, 77, 912)] * 4
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        responses = list(
            pool.map(lambda text: client.post(PATH, json={"instances": [text]}), asked)
        )
    answers = [response.json()["predictions"][0] for response in responses]
    assert answers == [sum(map(int, text.split("+"))) for text in asked]


@pytest.mark.parametrize("text", ["seven + 8", "1234+5", "1+2+3", "-1+2", ""])
def test_a_text_that_is_no_sum_is_refused_and_others_are_answered(
    text: str, client: httpx.Client
) -> None:
    response = client.post(PATH, json={"instances": [text]})
    assert response.status_code == 400
    assert "token" in response.json()["error"]
    assert client.post(PATH, json={"instances": ["1+2"]}).json()["predictions"] == [3]


def test_a_sum_is_typed_in_the_playground(visitor: Visitor, server: Server) -> None:
    page = visitor.open(f"{server.url}/#networks/adder-transformer")
    form = page.locator("#network .ask")
    form.get_by_role("textbox").fill("386 + 217")
    form.get_by_role("button", name="Ask").click()
    expect(form.locator(".answer-text")).to_have_text("603")
