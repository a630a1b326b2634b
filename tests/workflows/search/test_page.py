"""The page in a real browser: what a person does with a mouse, with keys, and with pictures."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.commands import wait_until
from tests.workflows.search.conftest import Opener
from tests.workflows.search.serving import Running, serving
from tests.workflows.search.toy import CLASSES, Toy, make_store, paint
from workflows.search import engine as engine_room

DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,900",
)  # fmt: skip

NARROW = {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def running(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_room, "open_model", lambda _, **__: toy)
        engine = engine_room.open_engine(tmp_path_factory.mktemp("run"))
    engine.measure_hubs()
    with serving(engine, csls=True) as started:
        yield started
    engine.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if DRIVER is None:
        pytest.skip("there is no chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """What a person sees of it, and does."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, address: str = "") -> Page:
        self.driver.get(f"{self.url}{address}")
        return self.settled()

    def settled(self) -> Page:
        """Wait until nothing is being searched."""
        busy = "return document.body.getAttribute('aria-busy')"
        assert wait_until(lambda: self.driver.execute_script(busy) == "false", 20)
        return self

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    @property
    def q(self) -> str:
        """What the address says is searched for."""
        return parse_qs(urlsplit(self.driver.current_url).query).get("q", [""])[0]

    def names(self) -> list[str]:
        """The pictures that are shown."""
        found = "return [...document.querySelectorAll('a.picture')].map(one => one.dataset.name)"
        return list(self.driver.execute_script(found))

    def shown(self, picture: int = 0) -> bool:
        """Whether the browser could draw a picture."""
        width = "return document.querySelectorAll('a.picture img')[arguments[0]].naturalWidth"
        return bool(self.driver.execute_script(width, picture))

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """The name of the picture, or the id, that has the focus."""
        script = "const e = document.activeElement; return e.dataset.name || e.id || e.tagName"
        return str(self.driver.execute_script(script))

    def drag(self, kind: str, data: bytes | int | None, name: str = "x.png") -> None:
        """Drop a file, or paste it: bytes, or so many zeros; None: it is none, but a link."""
        told = base64.b64encode(data).decode() if isinstance(data, bytes) else data
        self.driver.execute_script(DRAG, kind, told, name)

    def waits_for(self, q: str) -> bool:
        """Whether the address comes to say it."""
        return bool(wait_until(lambda: self.q == q, 10)) and bool(self.settled())

    def complaints(self) -> list[str]:
        """What the browser has against it: breaches of policy, scripts that failed."""
        return [e["message"] for e in self.driver.get_log("browser") if "400" not in e["message"]]


DRAG = """
const [kind, what, name] = arguments;
const data = new DataTransfer();
const bytes = typeof what === 'number' ? new Uint8Array(what)
  : Uint8Array.from(atob(what || ''), c => c.charCodeAt(0));
if (what === null) data.setData('text/uri-list', 'http://example.org/x.png');
else data.items.add(new File([bytes], name));
const all = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
for (const one of kind.split(' ')) document.body.dispatchEvent(
  one === 'paste' ? new ClipboardEvent(one, all) : new DragEvent(one, all));
"""
DROP = "dragenter dragover drop"


@pytest.fixture
def page(running: Running, chromium: Any) -> Iterator[Page]:
    chromium.get_log("browser")
    yield Page(chromium, running.url).open()
    assert Page(chromium, running.url).complaints() == []


def png(label: int, seed: int = 7) -> bytes:
    file = io.BytesIO()
    paint(label, seed).save(file, "PNG")
    return file.getvalue()


def test_to_begin_with_there_is_something_to_click(page: Page) -> None:
    """Examples, pictures, and how many are searched."""
    assert "53 images are searched" in page["status"].text
    assert len(page.names()) == 24
    assert wait_until(page.shown, 10)
    page.driver.find_element("css selector", "#words a").click()
    assert page.waits_for("red")
    assert "images for red" in page["status"].text


def test_what_is_typed_is_searched_as_it_is_typed(page: Page, running: Running) -> None:
    """The same that the server answers; one step back is where it was before."""
    page["query"].send_keys("blue")
    assert page.waits_for("blue")
    images = running.search("blue", k=36).json()["images"]
    assert page.names() == [f"#{hit['split']}:{hit['row']}" for hit in images]
    assert page.driver.title == "blue - Tesserae"
    page["query"].send_keys(" + red")
    assert page.waits_for("blue + red")
    page.driver.back()
    assert page.waits_for("")
    assert page["query"].get_attribute("value") == ""
    page.driver.forward()
    assert page.waits_for("blue + red")


def test_a_picture_is_searched_on_from(page: Page) -> None:
    """And back again; its words lead to pictures, too."""
    page.open("?q=green")
    before = page.names()
    page.driver.find_element("css selector", "a.picture").click()
    assert page.waits_for(before[0])
    assert before[0] not in page.names()
    words = page.driver.find_elements("css selector", "#words a")
    assert words[0].text.startswith("green")
    words[1].click()
    assert wait_until(lambda: page.q not in (before[0], "green"), 10)
    page.driver.back()
    page.driver.back()
    assert page.waits_for("green")
    assert page.names() == before
    page.driver.find_element("css selector", ".caption a").click()
    assert page.waits_for("green")


def test_a_picture_is_added_to_the_query(page: Page) -> None:
    """By its button, with Shift, with a key."""
    page.open("?q=green")
    first, second, third = page.names()[:3]
    add = page.driver.find_element("css selector", "#pictures .add")
    page.driver.execute_script("arguments[0].click()", add)
    assert page.waits_for(f"green + {first}")
    page.open("?q=green")
    click = "document.querySelectorAll('a.picture')[1].dispatchEvent(new MouseEvent('click', %s))"
    page.driver.execute_script(click % "{ bubbles: true, cancelable: true, shiftKey: true }")
    assert page.waits_for(f"green + {second}")
    page.open("?q=green")
    page.driver.execute_script("document.querySelectorAll('a.picture')[2].focus()")
    page.press("+")
    assert page.waits_for(f"green + {third}")
    assert page.focused() == "query"


def test_everything_can_be_done_with_keys(page: Page) -> None:
    """To the query, among the pictures, on from one of them, and back to nothing."""
    from selenium.webdriver.common.keys import Keys

    page.press("/")
    assert page.focused() == "query"
    page.press("yellow", Keys.ENTER)
    assert page.waits_for("yellow")
    names = page.names()
    columns = page.driver.execute_script(
        "const tops = [...document.querySelectorAll('a.picture')].map(e => e.offsetTop +"
        " e.parentElement.offsetTop); return tops.filter(top => top === tops[0]).length"
    )
    assert 2 < columns < 12
    for key, place in [
        (Keys.ARROW_DOWN, 0),
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_DOWN, 1 + columns),
        (Keys.ARROW_LEFT, columns),
        (Keys.ARROW_UP, 0),
        (Keys.END, len(names) - 1),
        (Keys.ARROW_RIGHT, len(names) - 1),
        (Keys.HOME, 0),
    ]:
        page.press(key)
        assert page.focused() == names[place], key
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.driver.execute_script(outline) == "solid"
    page.press(Keys.ENTER)
    assert page.waits_for(names[0])
    assert wait_until(lambda: page.focused() == page.names()[0], 10)
    page.press(Keys.ARROW_UP)
    assert page.focused() == "query"
    page.press(Keys.ESCAPE)
    assert page.waits_for("")
    assert page.focused() == "query"


@pytest.mark.parametrize("way", [DROP, "paste"])
def test_a_picture_is_handed_in(page: Page, way: str) -> None:
    """Dropped or pasted; shown as the model sees it; combined with words; taken away again."""
    page.drag(way, png(3))
    assert page.waits_for("@")
    assert page["given"].is_displayed()
    assert page["drop"].is_displayed() is False
    width = "return document.getElementById('given-picture').naturalWidth"
    assert wait_until(lambda: page.driver.execute_script(width) == 16, 10)
    assert page.driver.find_element("css selector", "#words a").text.startswith("yellow")
    page["query"].send_keys(" - red")
    assert page.waits_for("@ - red")
    page.driver.refresh()
    page.settled()
    assert "images for @ - red" in page["status"].text
    page["forget"].click()
    assert page.waits_for("")
    assert not page["given"].is_displayed()
    page.driver.back()
    assert page.waits_for("@ - red")


def test_a_picture_is_chosen(page: Page, tmp_path: Path) -> None:
    """From a folder; what was typed stays."""
    (tmp_path / "blue.png").write_bytes(png(2))
    page["query"].send_keys("- yellow")
    page["file"].send_keys(str(tmp_path / "blue.png"))
    assert page.waits_for("@ - yellow")
    assert page["status"].text.startswith("36 images for @ - yellow")


def test_a_picture_that_the_server_forgot_is_handed_in_again(page: Page, running: Running) -> None:
    """By the page, which still has it."""
    page.drag(DROP, png(1))
    assert page.waits_for("@")
    running.service.upload_cache._uploads.clear()
    page["query"].send_keys(" + blue")
    assert page.waits_for("@ + blue")
    assert "images for @ + blue" in page["status"].text
    running.service.upload_cache._uploads.clear()
    page.driver.refresh()
    page.settled()
    assert "no longer in the cache" in page["error"].text
    page.driver.get_log("browser")  # it has said that the picture is gone


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello", "the file is no image (a text file): expected JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "the file is a HEIC image"),
        (b"\xff\xd8\xff\xe0 cut off", "cannot be read"),
        (21 * 2**20, "is too large: expected at most 20 MB"),
        (None, "Only files can be dropped here"),
    ],
)
def test_what_is_no_picture_is_told(page: Page, data: bytes | int | None, says: str) -> None:
    """And the page goes on."""
    page.drag(DROP, data)
    assert wait_until(lambda: says in page["error"].text, 10), page["error"].text
    page.settled()
    assert "Processing" not in page["status"].text  # nobody waits for an answer any more
    page.driver.get_log("browser")
    page["query"].send_keys("red")
    assert page.waits_for("red")
    assert not page["error"].is_displayed()


def test_what_is_passed_over_is_said(page: Page) -> None:
    """With what was found by the rest."""
    page.open("?q=a+photo+of+red")
    assert page.names()
    assert "Unknown words, ignored: a, photo, of." in page["status"].text


def test_half_a_word_is_no_mistake_but_a_whole_one_is(page: Page) -> None:
    """What is shown stays while it is typed; Enter is meant."""
    from selenium.webdriver.common.keys import Keys

    page.open("?q=green")
    before = page.names()
    page["query"].clear()
    page["query"].send_keys("yell")
    assert page.waits_for("yell")
    assert "did you mean yellow" in page["status"].text
    assert not page["error"].is_displayed()
    assert page.names() == before
    page["query"].send_keys(Keys.ENTER)
    assert wait_until(lambda: page["error"].is_displayed(), 10)
    assert "'yell' is not known: did you mean yellow?" in page["error"].text
    assert page.names() == []


def test_options_are_part_of_the_address(page: Page) -> None:
    """Split, class, and what is near to everything; more of them."""
    page.open("?q=red&split=val&class=crane&csls=1")
    assert {name.split(":")[0] for name in page.names()} == {"#val"}
    assert len(page.names()) == 4
    assert page["split"].get_attribute("value") == "val"
    assert page["class"].get_attribute("value") == "crane"
    assert page["csls"].is_selected()
    page.open("?q=red")
    assert len(page.names()) == 36
    page["further"].click()
    page.settled()
    assert wait_until(lambda: len(page.names()) == 53, 10)
    assert not page["further"].is_displayed()
    page.open("?q=red&class=nobody")
    assert "no class 'nobody'" in page["error"].text


def test_nothing_found_is_said(page: Page) -> None:
    """In words."""
    page.open("?q=red&split=val&class=nameless")
    assert page["status"].text.startswith("2 images for red")
    page.driver.execute_script(
        'window.fetch = async () => new Response(\'{"query": "x", "images": [], "words": []}\')'
    )
    page["query"].send_keys("dish")
    assert wait_until(lambda: page["status"].text == "No images for x.", 10)


def test_a_server_that_is_gone_is_told(page: Page) -> None:
    """With what to do."""
    page.driver.execute_script("window.fetch = async () => { throw new TypeError('gone'); }")
    page["query"].send_keys("red\n")
    assert wait_until(lambda: "The server cannot be reached" in page["error"].text, 10)
    page.driver.execute_script("window.fetch = async () => new Response('<html>', { status: 502 })")
    page["query"].send_keys("\n")
    assert wait_until(lambda: "The server responded with 502" in page["error"].text, 10)


def test_it_fits_a_phone(page: Page) -> None:
    """Nothing is wider than it."""
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", NARROW)
    try:
        for address in ("", "?q=red+%2B+blue", "?q=nothing+known"):
            page.open(address)
            page.driver.execute_script("document.getElementById('more').open = true")
            width = "return document.documentElement.scrollWidth"
            assert page.driver.execute_script(width) <= 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_as_the_person_likes(page: Page, scheme: str) -> None:
    """Text stands out from the ground by a contrast of at least 4.5 in both."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.open("?q=red")
    ground = rgb(page, "body", "backgroundColor")
    assert (sum(ground) > 600) is (scheme == "light")
    for place in ("body", "#status", ".key", ".score", "summary"):
        assert contrast(rgb(page, place, "color"), ground) >= 4.5, place
    button = "button[type=submit]"
    shown = contrast(rgb(page, button, "color"), rgb(page, button, "backgroundColor"))
    assert shown >= 4.5
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def rgb(page: Page, place: str, what: str) -> tuple[int, ...]:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    said = page.driver.execute_script(script, place, what)
    return tuple(int(float(value)) for value in said.strip("rgba()").split(",")[:3])


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Of WCAG 2."""

    def light(colour: tuple[int, ...]) -> float:
        parts = [value / 255 for value in colour]
        parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    lighter, darker = sorted((light(one), light(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_every_picture_says_what_it_is(page: Page) -> None:
    """To who cannot see it; every field and button has a name."""
    page.open("?q=red")
    alts = page.driver.execute_script(
        "return [...document.querySelectorAll('img')].map(one => one.alt)"
    )
    assert all(alts)
    assert "red, crimson thing, train row" in " ".join(alts)
    unnamed = page.driver.execute_script(
        "return [...document.querySelectorAll('button, input, select')].filter(one =>"
        " !(one.textContent || one.getAttribute('aria-label') || one.labels?.length))"
        ".map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_names_from_data_are_text(chromium: Any, tmp_path: Path, open_run: Opener) -> None:
    """Markup, text that runs the other way, escapes: shown as they are spelled; nothing runs."""
    nasty = (
        "<script>document.title='no'</script>",
        "<img src=x onerror=\"document.title='no'\">",
        "\u202egpj.exe",
        "\x1b[31mred",
        "a\nb",
        "'\"><svg onload=alert(1)>",
        "javascript:alert(1)",
    )
    classes = tuple((wnid, name) for (wnid, _), name in zip(CLASSES, nasty, strict=True))
    store = make_store(tmp_path / "nasty", train=14, val=7, bad=0)
    engine = open_run(Toy(store, classes), tmp_path / "run")
    with serving(engine) as started:
        page = Page(chromium, started.url)
        for address in ("", "?q=red", "?q=<img+src=x+onerror=alert(1)>", "?q=red&class=<b>"):
            page.open(address)
            assert "no" not in page.driver.title.split()
            assert not page.driver.find_elements("css selector", "#pictures script, #pictures svg")
            assert not page.driver.find_elements("css selector", "img[src=x], main script")
        page.open("?q=red")
        shown = page["pictures"].text + page["words"].text
        for name in nasty[:2] + nasty[5:]:
            assert name in shown
        for spelled in ("\\u{202e}gpj.exe", "\\u{1b}[31mred", "a\\u{a}b"):
            assert spelled in shown
        assert page.complaints() == []
