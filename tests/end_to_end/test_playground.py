"""The playground in a browser: what a user can do, and what the page must never do.

The fixture `visitor` fails a test if the page logs an error or calls another host.
"""

import base64
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from browser import AWAY, Stroke, Visitor, draw
from live_server import TIMED, Server, free_port, serving, temporary_home
from playwright.sync_api import Browser, Page, Response, Route, expect

from models.package.repository import ModelRepository

TABS = ("digits", "curves", "points", "networks", "now")
MAX_BYTES = 155_000  # a fifth of it are the digits and points of examples.json
KEY = "a key that nobody guesses"

ONE: Stroke = [(50, 15), (50, 85)]
SHAPES: dict[int, list[Stroke]] = {
    0: [[(50, 15), (35, 28), (30, 50), (35, 72), (50, 85), (65, 72), (70, 50), (65, 28), (50, 15)]],
    1: [ONE],
    3: [[(32, 22), (50, 14), (66, 25), (63, 40), (46, 47), (65, 55), (69, 72), (52, 85), (31, 77)]],
    4: [[(40, 15), (30, 55), (72, 55)], [(60, 35), (58, 88)]],
    7: [[(28, 20), (72, 20), (55, 50), (45, 84)]],
}


def digit_of(page: Page, model: str = "mnist-cnn") -> Any:
    """The element with the predicted digit of a network."""
    return page.locator(f"#digit-answers [data-model={model}] .prediction b")


def board_content(page: Page) -> str:
    """Return the content of the board as text."""
    return str(page.locator("#board").evaluate("(canvas) => canvas.toDataURL()"))


def panel(page: Page, tab: str) -> Page:
    """Open a tab, and wait until its content is stable."""
    page.click(f"#tab-{tab}")
    expect(page.locator(f"#{tab}")).to_be_visible()
    page.wait_for_timeout(700)  # charts send requests, and draw
    return page


@pytest.fixture(scope="module")
def few(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two packages, for a fast start."""
    packages = tmp_path_factory.mktemp("few")
    for name in ("mnist-cnn", "curve-tanh"):
        shutil.copytree(shipped / name, packages / name)
    return packages


# Tabs.


def test_every_tab_opens_by_click_and_the_back_button_returns(
    page: Page, repository: ModelRepository
) -> None:
    served = len(repository.names())
    expect(page.locator("#serving")).to_contain_text(f"serving {served} trained networks")
    for tab in TABS:
        page.click(f"#tab-{tab}")
        for other in TABS:
            shown = other == tab
            expect(page.locator(f"#{other}")).to_be_visible(visible=shown)
            chosen = page.locator(f"#tab-{other}").get_attribute("aria-selected")
            assert chosen == str(shown).lower()
    page.go_back()
    expect(page.locator(f"#{TABS[-2]}")).to_be_visible()


def test_every_tab_opens_by_the_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator("#tab-digits")).to_be_focused()
    for tab in (*TABS[1:], TABS[0]):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#tab-{tab}")).to_be_focused()
        expect(page.locator(f"#{tab}")).to_be_visible()
    for key, tab in (("ArrowLeft", TABS[-1]), ("Home", TABS[0]), ("End", TABS[-1])):
        page.keyboard.press(key)
        expect(page.locator(f"#tab-{tab}")).to_be_focused()
        expect(page.locator(f"#{tab}")).to_be_visible()


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_has_an_address(tab: str, visitor: Visitor, server: Server) -> None:
    page = visitor.open(f"{server.url}/#{tab}")
    expect(page.locator(f"#{tab}")).to_be_visible()


def test_the_page_is_small(visitor: Visitor, server: Server, root: Path) -> None:
    folder = root / "service/api/static/playground"
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert sum(files.values()) < MAX_BYTES, files
    page = visitor.arrive(server.url)
    responses: list[Response] = []
    page.on("response", lambda response: responses.append(response))  # no built-in names
    page.goto(server.url)
    expect(page.locator("#test-digits button")).to_have_count(10)
    sizes = {
        path: response.request.sizes()["responseBodySize"]
        for response in responses
        if (path := urlsplit(response.url).path) == "/" or path.startswith("/playground/")
    }
    assert {"/", "/playground/main.js", "/playground/style.css"} <= set(sizes)
    assert 10_000 < sum(sizes.values()) < MAX_BYTES, sizes


def test_without_javascript_the_page_links_to_the_api(browser: Browser, server: Server) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("noscript p")).to_be_visible()
    context.close()


# Security.


def test_no_script_but_its_own_runs(page: Page, visitor: Visitor) -> None:
    visitor.expect("Content Security Policy")
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.intruded = 'by a script'";
        document.body.append(script);
        const holder = document.createElement("div");
        holder.innerHTML = `<img src="playground/icon.svg" onload="window.intruded = 1">`;
        document.body.append(holder);
    }""")
    page.wait_for_timeout(500)
    assert page.evaluate("window.intruded") is None


def test_the_page_cannot_call_another_host(page: Page, visitor: Visitor) -> None:
    visitor.expect("Content Security Policy")
    requested = page.evaluate(
        "fetch('http://127.0.0.2/').then(() => 'answered', (error) => String(error))"
    )
    assert "Failed to fetch" in requested


def test_the_visitor_detects_forbidden_actions(browser: Browser, server: Server) -> None:
    someone = Visitor(browser)
    page = someone.open(server.url)
    page.evaluate("console.error('broken')")
    page.evaluate("setTimeout(() => { throw new Error('thrown') })")
    page.wait_for_timeout(200)
    page.goto("about:blank")
    page.set_content("<img src='http://other.example/x.png'>")
    page.wait_for_timeout(200)
    with pytest.raises(AssertionError) as failure:
        someone.leave()
    for message in (
        "console: broken",
        "not caught: thrown",
        "another host: http://other.example/x",
    ):
        assert message in str(failure.value)


# Digits.


@pytest.mark.parametrize("digit", SHAPES)
def test_a_drawn_digit_is_recognised(digit: int, page: Page) -> None:
    draw(page, *SHAPES[digit])
    expect(digit_of(page)).to_have_text(str(digit))
    expect(page.locator("#digit-said")).to_contain_text(f"mnist-cnn sees {digit}, ")
    shares = page.locator("#digit-answers .bars .number").all_text_contents()
    assert len(shares) == 10
    assert shares.index(max(shares, key=lambda share: float(share[:-1]))) == digit


TOUCH = {"down": "touchStart", "move": "touchMove", "up": "touchEnd"}
PEN = {"down": "mousePressed", "move": "mouseMoved", "up": "mouseReleased"}


@pytest.mark.parametrize("pointer", ["touch", "pen"])
def test_touch_and_pen_draw_too(pointer: str, page: Page) -> None:
    page.set_viewport_size(
        {"width": 400, "height": 500}
    )  # so small that a touch could scroll the page
    expect(page.locator("#test-digits button")).to_have_count(10)
    box = page.locator("#board").bounding_box()
    assert box is not None
    page.evaluate("""() => {
        window.pointers = new Set();
        document.querySelector("#board").addEventListener(
            "pointermove", (event) => window.pointers.add(event.pointerType));
    }""")
    devtools = page.context.new_cdp_session(page)

    def move(kind: str, x: float, y: float) -> None:
        position = {"x": box["x"] + x / 100 * box["width"], "y": box["y"] + y / 100 * box["height"]}
        if pointer == "touch":
            points = [] if kind == "up" else [position]
            devtools.send("Input.dispatchTouchEvent", {"type": TOUCH[kind], "touchPoints": points})
        else:
            options = {"button": "left", "buttons": int(kind != "up"), "pointerType": "pen"}
            devtools.send("Input.dispatchMouseEvent", {"type": PEN[kind], **position, **options})

    for stroke in SHAPES[4]:
        move("down", *stroke[0])
        for (ax, ay), (bx, by) in pairwise(stroke):
            for step in range(1, 9):
                move("move", ax + (bx - ax) * step / 8, ay + (by - ay) * step / 8)
        move("up", *stroke[-1])
    expect(digit_of(page)).to_have_text("4")
    assert page.evaluate("[...window.pointers]") == [pointer]
    assert page.evaluate("scrollY") == 0


def test_the_input_of_the_network_is_shown(page: Page) -> None:
    with page.expect_request(re.compile("classify_digits")) as requested:
        draw(page, *SHAPES[3])
    expect(digit_of(page)).to_have_text("3")
    page.wait_for_timeout(300)  # for the last of the ink
    with page.expect_request(re.compile("classify_digits")) as requested:
        page.select_option("#digit-network", "mnist-mlp")
    expect(digit_of(page, "mnist-mlp")).to_have_text("3")
    (sent,) = requested.value.post_data_json["images"]
    assert sum(map(sum, sent)) > 5_000
    drawn = page.locator("#digit-answers canvas").evaluate(
        "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data]"
    )
    assert drawn[::4] == [value for row in sent for value in row]


def test_undo_removes_a_stroke_and_clear_removes_all(page: Page) -> None:
    expect(page.locator("#undo")).to_be_disabled()
    empty = board_content(page)
    draw(page, ONE)
    expect(digit_of(page)).to_have_text("1")
    before = board_content(page)
    assert before != empty
    draw(page, [(15, 15), (85, 85)], [(85, 15), (15, 85)])
    page.click("#undo")
    page.click("#undo")
    expect(digit_of(page)).to_have_text("1")
    assert board_content(page) == before
    draw(page, [(20, 20), (40, 40)])
    page.click("#clear")
    expect(page.locator("#digit-answers")).to_contain_text("Draw a digit")
    expect(page.locator("#undo")).to_be_disabled()
    assert board_content(page) == empty


def test_two_networks_are_shown_next_to_each_other(page: Page) -> None:
    page.select_option("#digit-beside", "mnist-mlp")
    draw(page, *SHAPES[7])
    for model in ("mnist-cnn", "mnist-mlp"):
        expect(digit_of(page, model)).to_have_text("7")
        expect(page.locator("#digit-said")).to_contain_text(f"{model} sees 7")
    page.select_option("#digit-beside", "")
    expect(digit_of(page, "mnist-mlp")).to_have_count(0)


def test_a_test_digit_is_recognised_with_its_label(page: Page) -> None:
    buttons = page.locator("#test-digits button")
    expect(buttons).to_have_count(10)
    for index in range(10):
        buttons.nth(index).click()
        expect(digit_of(page)).to_have_text(str(index))
        expect(page.locator("#digit-answers")).to_contain_text(f"in truth {index}")


def test_on_a_hard_digit_the_two_networks_disagree(page: Page) -> None:
    page.select_option("#digit-beside", "mnist-mlp")
    buttons, announcement = page.locator("#hard-digits button"), page.locator("#digit-said")
    expect(buttons.nth(9)).to_be_visible()
    before = announcement.text_content()
    for index in range(buttons.count()):
        buttons.nth(index).click()
        expect(announcement).not_to_have_text(before or "")
        before = announcement.text_content()
        assert digit_of(page).text_content() != digit_of(page, "mnist-mlp").text_content()


def test_a_chosen_picture_is_recognised(page: Page, root: Path) -> None:
    page.set_input_files("#picture", root / "docs/three.png")
    expect(digit_of(page)).to_have_text("3")
    page.click("#undo")  # back to the board
    expect(page.locator("#digit-answers")).to_contain_text("Draw a digit")


@pytest.mark.parametrize("gesture", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_is_recognised(gesture: str, page: Page, root: Path) -> None:
    content = base64.b64encode((root / "docs/three.png").read_bytes()).decode()
    carried = page.evaluate_handle(
        """(content) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "three.png", { type: "image/png" }));
            return carried;
        }""",
        content,
    )
    if gesture == "drop":
        page.dispatch_event("#board", "dragover", {"dataTransfer": carried})
        page.dispatch_event("#board", "drop", {"dataTransfer": carried})
    else:
        page.evaluate(
            """(clipboardData) => document.dispatchEvent(
                new ClipboardEvent("paste", { clipboardData, bubbles: true }))""",
            carried,
        )
    expect(digit_of(page)).to_have_text("3")


def test_a_file_that_is_not_a_picture_is_an_error(page: Page, visitor: Visitor) -> None:
    visitor.expect("status of 400")
    file = {"name": "note.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.set_input_files("#picture", [file])  # type: ignore[list-item]
    expect(page.locator("#digit-trouble")).to_contain_text("PNG")
    draw(page, ONE)  # the page still works
    expect(digit_of(page)).to_have_text("1")
    expect(page.locator("#digit-trouble")).to_be_empty()


def test_a_digit_is_drawn_with_the_keyboard_alone(page: Page) -> None:
    expect(page.locator("#test-digits button").first).to_be_visible()
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "board":
            break
    expect(page.locator("#board")).to_be_focused()
    for key in ("Shift+ArrowUp", "Shift+ArrowUp", " ", *["Shift+ArrowDown"] * 4, " "):
        page.keyboard.press(key)
    expect(digit_of(page)).to_have_text("1")
    for key in ("ArrowLeft", " ", "ArrowLeft", " ", "Backspace"):
        page.keyboard.press(key)
    expect(digit_of(page)).to_have_text("1")
    page.keyboard.press("Delete")
    expect(page.locator("#digit-answers")).to_contain_text("Draw a digit")


def test_a_late_response_never_overwrites_a_newer_one(page: Page) -> None:
    expect(page.locator("#test-digits button")).to_have_count(10)
    late: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if late:
            route.continue_()
        else:
            late.append(route)

    page.route("**/classify_digits", hold_the_first)
    page.locator("#test-digits button").nth(4).click()
    page.wait_for_timeout(200)
    page.locator("#test-digits button").nth(8).click()
    page.wait_for_timeout(500)  # while a newer request is sent and completed
    assert len(late) == 1
    with page.expect_response("**/classify_digits"):
        late[0].continue_()
    expect(digit_of(page)).to_have_text("8")
    page.wait_for_timeout(500)
    expect(digit_of(page)).to_have_text("8")


# Prefixes, outages and keys.


PROXY = """
user root;
daemon off;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    absolute_redirect off;
    server {{
        listen 127.0.0.1:{port};
        location /some/prefix/ {{ proxy_pass {url}/; }}
    }}
}}
"""


@pytest.fixture
def prefixed(server: Server, tmp_path: Path) -> Iterator[str]:
    """The URL of the server below a prefix, which nginx removes."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (tmp_path / "nginx.conf").write_text(PROXY.format(port=port, url=server.url))
    process = subprocess.Popen([program, "-p", tmp_path, "-c", "nginx.conf", "-e", "error.log"])
    try:
        transport = httpx.HTTPTransport(retries=8)  # until it listens
        with httpx.Client(transport=transport) as client:
            assert client.get(f"http://127.0.0.1:{port}/some/prefix/").status_code == 200
        yield f"http://127.0.0.1:{port}/some/prefix"
    finally:
        process.terminate()
        process.wait(10)


def test_the_page_works_under_a_prefix(prefixed: str, visitor: Visitor) -> None:
    page, host = visitor.arrive(prefixed), urlsplit(prefixed).netloc
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(prefixed)  # without a slash at the end
    draw(page, *SHAPES[7])
    expect(digit_of(page)).to_have_text("7")
    for tab in TABS:
        panel(page, tab)
    page.reload()
    expect(page.locator(f"#{TABS[-1]}")).to_be_visible()
    assert len(requested) > 10
    for url in requested:
        assert url.startswith((prefixed, f"blob:http://{host}/")), url


def test_the_page_recovers_after_an_outage_of_the_server(
    visitor: Visitor, root: Path, few: Path
) -> None:
    visitor.expect(f"{AWAY}|status of 503")  # while it loads
    settings = TIMED | {"FITSERVE_MODEL_REPOSITORY": str(few)}
    port = free_port()
    with ExitStack() as stack:

        def serve() -> Server:
            home = stack.enter_context(temporary_home())
            return stack.enter_context(serving(home, root, settings=settings, port=port))

        server = serve()
        page = visitor.open(server.url)
        draw(page, ONE)
        expect(digit_of(page)).to_have_text("1")
        server.kill()
        server.process.wait(10)

        page.click("#clear")
        draw(page, *SHAPES[3])
        drawn = board_content(page)
        trouble = page.locator("#trouble")
        expect(trouble).to_be_visible()
        expect(trouble).to_contain_text("The server does not answer")
        page.wait_for_timeout(2_500)  # it retries without success
        expect(trouble).to_be_visible()
        assert board_content(page) == drawn

        serve()
        expect(trouble).to_be_hidden()
        assert board_content(page) == drawn
        expect(digit_of(page)).to_have_text("3")
        expect(page.locator("#serving")).to_contain_text("serving 2 trained networks")


def test_the_page_asks_for_a_key_if_the_server_needs_one(
    visitor: Visitor, root: Path, few: Path, tmp_path: Path
) -> None:
    visitor.expect("status of 401")
    keys = tmp_path / "keys"
    keys.write_text(f"ann {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    settings = TIMED | {
        "FITSERVE_MODEL_REPOSITORY": str(few), "FITSERVE_API_KEYS_FILE": str(keys)
    }  # fmt: skip
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        page = visitor.open(server.url)
        form, field = page.locator("#key-form"), page.get_by_label("API key")
        expect(form).to_be_visible()
        field.fill("a wrong one")
        field.press("Enter")
        expect(field).to_have_value("")  # asked again
        expect(form).to_be_visible()
        field.fill(KEY)
        field.press("Enter")
        expect(form).to_be_hidden()
        expect(page.locator("#serving")).to_contain_text("serving 2 trained networks")
        expect(page.locator("#digit-trouble")).to_be_empty()
        draw(page, *SHAPES[7])
        expect(digit_of(page)).to_have_text("7")
        for tab in ("digits", "curves", "networks", "now"):  # no network here is for points
            panel(page, tab)
        page.reload()
        expect(page.locator("#serving")).to_contain_text("serving 2 trained networks")
        expect(form).to_be_hidden()
        assert KEY not in page.content()
        assert KEY not in page.url
        page.goto("about:blank")  # which sends no requests during the shutdown


# Layout, colours and screen readers.


@pytest.mark.parametrize("tab", TABS)
def test_a_narrow_window_is_never_scrolled_sideways(
    tab: str, visitor: Visitor, server: Server
) -> None:
    page = visitor.open(f"{server.url}/#{tab}", width=360, height=740)
    panel(page, tab)
    if tab == "digits":
        page.select_option("#digit-beside", "mnist-mlp")
        draw(page, *SHAPES[3])
        expect(digit_of(page, "mnist-mlp")).to_be_visible()
    wide = page.evaluate("""() => [...document.querySelectorAll("main *")]
        .filter((part) => part.getBoundingClientRect().right > innerWidth + scrollX)
        .map((part) => part.outerHTML.slice(0, 80))""")
    page.evaluate("scrollTo(1000, 0)")
    assert page.evaluate("scrollX") == 0, wide
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, wide


CONTRASTS = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const brightness = ([r, g, b]) => [r, g, b]
        .map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (part) => {
        const colour = channels(getComputedStyle(part).backgroundColor);
        return colour[3] === 0 && part.parentElement ? ground(part.parentElement) : colour;
    };
    const texts = [...document.querySelectorAll("body *")].filter((part) =>
        part.checkVisibility() && !part.disabled && !part.closest("svg, .unseen") &&
        [...part.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
    return texts.map((part) => {
        const pair = [channels(getComputedStyle(part).color), ground(part)].map(brightness);
        const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        return [contrast, part.outerHTML.slice(0, 120)];
    });
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_follows_the_colour_scheme_and_text_has_contrast(
    dark: bool, visitor: Visitor, server: Server
) -> None:
    page = visitor.open(server.url, dark=dark)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert brightness < 40 if dark else brightness > 215, colour
    draw(page, *SHAPES[3])
    for tab in TABS:
        contrasts = panel(page, tab).evaluate(CONTRASTS)
        assert len(contrasts) > 5
        faint = [(round(contrast, 2), text) for contrast, text in contrasts if contrast < 4.5]
        assert faint == [], f"{tab}: below WCAG's 4.5"


NAMED = {
    *("button", "link", "tab", "tabpanel", "textbox", "searchbox", "combobox", "listbox", "slider"),
    *("spinbutton", "checkbox", "radio", "switch", "application", "image", "img", "Canvas"),
    *("SvgRoot", "graphics-document", "meter", "progressbar", "DisclosureTriangle"),
}


@pytest.mark.parametrize("tab", TABS)
def test_every_control_has_an_accessible_name(tab: str, visitor: Visitor, server: Server) -> None:
    page = panel(visitor.open(f"{server.url}/#{tab}"), tab)
    if tab == "digits":
        draw(page, *SHAPES[3])
        expect(digit_of(page)).to_have_text("3")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    nodes = [node for node in tree if not node["ignored"]]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    checked = [(role, name) for role, name in roles if role in NAMED]
    assert len(checked) > 6
    assert [role for role, name in checked if not name.strip()] == []
