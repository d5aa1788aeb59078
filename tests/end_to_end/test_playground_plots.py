"""The curves and points of the playground show the responses of the service."""

import re

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

GUESS = "no training data here: the curves guess"
CURVES = ("curve-linear", "curve-mlp", "curve-tanh")
UPPER, LOWER = (0.0, 1.0), (1.0, -0.5)  # the centres of the moons


@pytest.fixture
def curves(page: Page) -> Locator:
    """The tab of the curves, with its values."""
    panel = opened(page, "Curves")
    expect(value_of(panel, "curve-tanh")).not_to_be_empty()
    return panel


@pytest.fixture
def points(page: Page) -> Locator:
    """The tab of the points, with the surface and prediction of the default network."""
    panel = opened(page, "Points")
    expect(panel.get_by_text("training points on the wrong side")).to_be_visible()
    expect(panel.locator("#point-answer")).not_to_be_empty()
    return panel


def opened(page: Page, name: str) -> Locator:
    """Choose a tab, and return its panel."""
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


def value_of(panel: Locator, name: str) -> Locator:
    """The cell of the table with the value of a curve."""
    return panel.get_by_role("row").filter(has_text=name).locator("data")


def x_of(panel: Locator) -> float:
    """The x of the shown values."""
    return float(panel.get_by_role("slider").input_value())


def expect_values(panel: Locator, client: httpx.Client) -> None:
    """Expect the response of the service for the shown x in the table."""
    x = x_of(panel)
    expect(panel.get_by_text(f"x = {x:g}", exact=True)).to_be_visible()
    for name in CURVES:
        [y] = client.post("/predict_curve", json={"x": [x], "model": name}).json()["y"]
        expect(value_of(panel, name)).to_have_text(f"{y:.3f}")
        expect(panel.get_by_role("status")).to_contain_text(f"{name} {y:.3f}")


def expect_answer(panel: Locator, client: httpx.Client, model: str, x1: float, x2: float) -> None:
    """Expect the response of the service for this point in the panel, with the point."""
    body = {"points": [[x1, x2]], "model": model}
    [response] = client.post("/classify_points", json=body).json()["predictions"]
    text = panel.locator("#point-answer")
    expect(text).to_contain_text(f"({x1:g}, {x2:g})")
    expect(text.locator(".label")).to_have_text(response["label"])
    shares = [f"{100 * share:.1f}%" for share in response["probabilities"]]
    expect(text.locator(".bars .number")).to_have_text(shares)
    expect(panel.get_by_role("status")).to_contain_text(response["label"])


def click_at(panel: Locator, x1: float, x2: float) -> tuple[float, float]:
    """Click in the plane, and return the chosen point.

    The surface under the plot fills the plane, from -1.8 to 2.8 by -1.3 to 1.8.
    """
    box = panel.locator("canvas").bounding_box()
    assert box is not None
    across, down = (x1 + 1.8) / 4.6, (1.8 - x2) / 3.1
    panel.page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
    return point_of(panel)


def point_of(panel: Locator) -> tuple[float, float]:
    """The chosen point."""
    x1, x2 = (float(panel.get_by_label(name).input_value()) for name in ("x1", "x2"))
    return x1, x2


@pytest.mark.parametrize("x", [-5.0, 4.2, 25.0])
def test_the_values_of_the_curves_are_the_services(
    curves: Locator, client: httpx.Client, x: float
) -> None:
    curves.get_by_role("slider").fill(f"{x:g}")
    assert x_of(curves) == x
    expect_values(curves, client)


def test_the_pointer_and_the_keyboard_move_along_the_curves(
    curves: Locator, client: httpx.Client
) -> None:
    box = curves.locator("#curve-plot > svg").bounding_box()
    assert box is not None
    curves.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    pointed = x_of(curves)
    assert 0 < pointed < 4
    expect_values(curves, client)
    curves.get_by_role("slider").press("ArrowRight")
    assert x_of(curves) == pytest.approx(pointed + 0.1)
    expect_values(curves, client)


def test_the_range_without_data_is_shaded_and_described(curves: Locator) -> None:
    expect(curves.locator("svg").get_by_text(GUESS)).to_have_count(2)
    warning = curves.locator("#curve-beyond")
    for x, text in ((-0.1, GUESS), (0, ""), (20, ""), (20.1, GUESS)):
        curves.get_by_role("slider").fill(str(x))
        expect(warning).to_have_text(text)


def test_a_curve_is_hidden_and_shown(curves: Locator) -> None:
    lines = curves.locator("#curve-plot path.line")
    before = lines.count()
    box = curves.get_by_role("checkbox", name="curve-tanh")
    box.uncheck()
    expect(lines).to_have_count(before - 1)
    box.check()
    expect(lines).to_have_count(before)


def test_each_curve_has_the_error_of_its_card(curves: Locator, client: httpx.Client) -> None:
    for name in CURVES:
        tests = [
            entry
            for entry in client.get(f"/models/{name}").json()["evaluations"]
            if entry["split"] == "test"
        ]
        row = curves.get_by_role("row").filter(has_text=name)
        expect(row.get_by_role("cell").last).to_have_text(f"{tests[0]['metrics']['mse']:.3f}")


@pytest.mark.parametrize("place", [UPPER, LOWER, (0.5, 0.1)])
def test_a_clicked_point_is_classified(
    points: Locator, client: httpx.Client, place: tuple[float, float]
) -> None:
    x1, x2 = click_at(points, *place)
    assert (x1, x2) == pytest.approx(place, abs=0.02)
    expect_answer(points, client, "moons-tanh", x1, x2)


def test_a_point_is_classified_by_keyboard(points: Locator, client: httpx.Client) -> None:
    for label, value in zip(("x1", "x2"), LOWER, strict=True):
        points.get_by_label(label).fill(f"{value:g}")
    points.get_by_label("x2").press("Enter")
    expect_answer(points, client, "moons-tanh", *LOWER)
    plane = points.get_by_role("application")
    plane.press("ArrowUp")
    plane.press("Shift+ArrowLeft")
    expect_answer(points, client, "moons-tanh", 0.75, -0.45)


def test_the_prediction_is_of_the_chosen_network(points: Locator, client: httpx.Client) -> None:
    figures = points.locator("#point-figures")
    expect(figures).to_contain_text("0 of the")
    position = click_at(points, 0.3, 0.3)
    expect_answer(points, client, "moons-tanh", *position)
    points.get_by_label("Network").select_option("moons-linear")
    expect_answer(points, client, "moons-linear", *position)
    expect(figures).to_contain_text("88.7% of 10,000")
    expect(figures).not_to_contain_text(re.compile(r"\b0 of the"))


def test_the_line_fails_on_xor_and_two_hidden_units_do_not(
    points: Locator, client: httpx.Client
) -> None:
    figures = points.locator("#point-figures")
    network = points.get_by_label("Network")
    network.select_option("perceptron-xor")
    expect(figures).to_have_text(
        "It has 1 of the 4 training points on the wrong side, and 75.0% of 4 test points right."
    )
    expect(points.locator("#point-legend")).to_contain_text("on the wrong side")
    network.select_option("xor-mlp")
    expect(figures).to_contain_text("0 of the 4 training points")
    expect_answer(points, client, "xor-mlp", *click_at(points, 1.0, 0.0))


def test_the_surface_has_the_colour_of_the_prediction(
    points: Locator, client: httpx.Client
) -> None:
    places = [UPPER, LOWER, (-1.5, -1.0), (2.5, 1.5)]
    responses = client.post("/classify_points", json={"points": places}).json()["predictions"]
    for (x1, x2), response in zip(places, responses, strict=True):
        red, _, blue, _ = points.locator("canvas").evaluate(
            """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(
                x * canvas.width, y * canvas.height, 1, 1).data]""",
            [(x1 + 1.8) / 4.6, (1.8 - x2) / 3.1],
        )
        assert ("upper moon" if blue > red else "lower moon") == response["label"]
