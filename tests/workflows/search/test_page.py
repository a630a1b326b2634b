"""Tests of the page in a real browser: mouse, keyboard and uploads."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser import contrast, emulated, images_without_text, page_width, rgb
from tests.commands import wait_until
from tests.images import prepare_inline
from tests.workflows.search.conftest import Opener
from tests.workflows.search.serving import Running, serving
from tests.workflows.search.toy import (
    CLASSES,
    SIZE,
    Toy,
    make_copied_store,
    make_store,
    paint,
)
from workflows.search import engine as engine_room


@pytest.fixture(scope="module")
def running(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_room, "open_model", lambda _, **__: toy)
        engine = engine_room.open_engine(tmp_path_factory.mktemp("run"))
    engine.measure_hubs()
    with serving(engine, csls=True) as started:
        yield started
    engine.close()


class Page:
    """The page in a browser, with the actions of a user."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, address: str = "") -> Page:
        self.driver.get(f"{self.url}{address}")
        return self.settled()

    def settled(self) -> Page:
        """Wait until no search is running."""
        busy = "return document.body.getAttribute('aria-busy')"
        assert wait_until(lambda: self.driver.execute_script(busy) == "false", 20)
        return self

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    @property
    def q(self) -> str:
        """The query in the address."""
        return parse_qs(urlsplit(self.driver.current_url).query).get("q", [""])[0]

    def names(self) -> list[str]:
        """Return the names of the images on the page."""
        script = "return [...document.querySelectorAll('a.image')].map(one => one.dataset.name)"
        return list(self.driver.execute_script(script))

    def is_drawn(self, picture: int = 0) -> bool:
        """Return True if the browser has drawn an image."""
        width = "return document.querySelectorAll('a.image img')[arguments[0]].naturalWidth"
        return bool(self.driver.execute_script(width, picture))

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """Return the name of the focused image, or the id of the focused element."""
        script = "const e = document.activeElement; return e.dataset.name || e.id || e.tagName"
        return str(self.driver.execute_script(script))

    def drag(self, kind: str, data: bytes | int | None, name: str = "x.png") -> None:
        """Drop or paste a file of bytes, or of a number of zeros; None drops a link."""
        content = base64.b64encode(data).decode() if isinstance(data, bytes) else data
        self.driver.execute_script(DRAG, kind, content, name)

    def waits_for(self, q: str) -> bool:
        """Return True once the address has the query *q*."""
        return bool(wait_until(lambda: self.q == q, 10)) and bool(self.settled())

    def complaints(self) -> list[str]:
        """Return the browser's errors: violations of policy and failed scripts."""
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


def test_the_page_starts_with_examples_and_images(page: Page) -> None:
    """The page shows examples, images and the number of images."""
    assert "53 images can be searched" in page["status"].text
    assert len(page.names()) == 24
    assert wait_until(page.is_drawn, 10)
    page.driver.find_element("css selector", "#words a").click()
    assert page.waits_for("red")
    assert "images for red" in page["status"].text


def test_copies_of_an_image_are_listed_with_it(
    chromium: Any, open_run: Opener, tmp_path: Path
) -> None:
    """Each is a link that searches with it; an option shows them as images of their own."""
    with serving(open_run(Toy(make_copied_store(tmp_path / "copies")))) as running:
        page = Page(chromium, running.url).open("?q=red")
        assert len(page.names()) == 14
        details = page.driver.find_elements("css selector", "#images .copies")
        assert sorted(one.text for one in details) == ["and 1 copy", "and 1 copy", "and 2 copies"]
        (two,) = [one for one in details if "2 copies" in one.text]
        two.find_element("css selector", "summary").click()
        links = two.find_elements("css selector", "a")
        assert {link.text for link in links} <= {"5.png", "a.png", "b.png"}
        q = links[0].get_attribute("data-q")
        links[0].click()
        assert page.waits_for(q)
        assert q not in page.names()
        page.open("?q=red&fold=0")
        assert len(page.names()) == 18
        assert page.driver.find_elements("css selector", "#images .copies") == []
        page["help"].find_element("css selector", "summary").click()
        assert page["unfolded"].is_selected()
        page["unfolded"].click()
        assert wait_until(lambda: len(page.names()) == 14, 10)
        assert "fold" not in page.driver.current_url
        assert page.complaints() == []


def test_results_are_downloaded_by_links(page: Page, running: Running) -> None:
    """The links have the query, the options and the number of images on the page."""
    assert not page["downloads"].is_displayed()
    page.open("?q=green&split=val&k=5")
    links = page["downloads"].find_elements("css selector", "a")
    assert [link.text for link in links] == ["table (CSV)", "document (JSON)", "images (ZIP)"]
    address = urlsplit(links[1].get_attribute("href"))
    reply = running.ask(f"{address.path}?{address.query}")
    hits = json.loads(reply.body)["images"]
    assert page.names() == [f"#{hit['split']}:{hit['row']}" for hit in hits]
    page.open("")
    assert not page["downloads"].is_displayed()


def test_images_without_a_class_are_called_by_their_files(
    chromium: Any, open_run: Opener, tmp_path: Path
) -> None:
    """A store without classes has no filter by class."""
    for index in range(3):
        (tmp_path / "source").mkdir(exist_ok=True)
        paint(index, 1).save(tmp_path / "source" / f"photo{index}.png")
    store = str(tmp_path / "store")
    prepare_inline(tmp_path / "source", store, sizes=(SIZE,))
    with serving(open_run(Toy(store))) as running:
        page = Page(chromium, running.url).open("?q=red")
        captions = page.driver.find_elements("css selector", "#images .caption")
        assert captions[0].text.startswith("photo0.png")
        page["help"].find_element("css selector", "summary").click()
        assert not page["class"].is_displayed()
        assert page.complaints() == []


def test_a_query_is_searched_while_it_is_typed(page: Page, running: Running) -> None:
    """The images equal the server's; one step back leads to the previous state."""
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


def test_a_click_on_an_image_searches_with_it(page: Page) -> None:
    """Back leads to the previous answers; words and class names are links, too."""
    page.open("?q=green")
    before = page.names()
    page.driver.find_element("css selector", "a.image").click()
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


def test_an_image_is_added_to_the_query(page: Page) -> None:
    """The button, Shift-click and the + key add an image."""
    page.open("?q=green")
    first, second, third = page.names()[:3]
    add = page.driver.find_element("css selector", "#images .add")
    page.driver.execute_script("arguments[0].click()", add)
    assert page.waits_for(f"green + {first}")
    page.open("?q=green")
    click = "document.querySelectorAll('a.image')[1].dispatchEvent(new MouseEvent('click', %s))"
    page.driver.execute_script(click % "{ bubbles: true, cancelable: true, shiftKey: true }")
    assert page.waits_for(f"green + {second}")
    page.open("?q=green")
    page.driver.execute_script("document.querySelectorAll('a.image')[2].focus()")
    page.press("+")
    assert page.waits_for(f"green + {third}")
    assert page.focused() == "query"


def test_the_page_can_be_used_with_the_keyboard(page: Page) -> None:
    """Keys move to the query, between images, search with one and clear the query."""
    from selenium.webdriver.common.keys import Keys

    page.press("/")
    assert page.focused() == "query"
    page.press("yellow", Keys.ENTER)
    assert page.waits_for("yellow")
    names = page.names()
    columns = page.driver.execute_script(
        "const tops = [...document.querySelectorAll('a.image')].map(e => e.offsetTop +"
        " e.parentElement.offsetTop); return tops.filter(top => top === tops[0]).length"
    )
    assert 2 < columns < 12
    for key, index in [
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
        assert page.focused() == names[index], key
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


@pytest.mark.parametrize("events", [DROP, pytest.param("paste", marks=pytest.mark.slow)])
def test_an_image_is_uploaded(page: Page, events: str) -> None:
    """An image is dropped or pasted, shown, combined with words and removed."""
    page.drag(events, png(3))
    assert page.waits_for("@")
    assert page["uploaded"].is_displayed()
    assert page["drop"].is_displayed() is False
    width = "return document.getElementById('uploaded-image').naturalWidth"
    assert wait_until(lambda: page.driver.execute_script(width) == 16, 10)
    assert page.driver.find_element("css selector", "#words a").text.startswith("yellow")
    page["query"].send_keys(" - red")
    assert page.waits_for("@ - red")
    page.driver.refresh()
    page.settled()
    assert "images for @ - red" in page["status"].text
    page["remove-upload"].click()
    assert page.waits_for("")
    assert not page["uploaded"].is_displayed()
    page.driver.back()
    assert page.waits_for("@ - red")


def test_an_image_file_can_be_chosen(page: Page, tmp_path: Path) -> None:
    """The text of the query stays."""
    (tmp_path / "blue.png").write_bytes(png(2))
    page["query"].send_keys("- yellow")
    page["file"].send_keys(str(tmp_path / "blue.png"))
    assert page.waits_for("@ - yellow")
    assert page["status"].text.startswith("36 images for @ - yellow")


def test_an_evicted_image_is_uploaded_again(page: Page, running: Running) -> None:
    """The page has kept the file; after a reload it reports that the upload is missing."""
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
    ("data", "expected"),
    [
        (b"hello", "the file is not an image (a text file): expected JPEG"),
        pytest.param(
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "the file is a HEIC image",
            marks=pytest.mark.slow,
        ),
        pytest.param(b"\xff\xd8\xff\xe0 cut off", "cannot be read", marks=pytest.mark.slow),
        (21 * 2**20, "is too large: expected at most 20 MB"),
        (None, "Only files can be dropped here"),
    ],
)
def test_a_file_that_is_no_image_is_reported(
    page: Page, data: bytes | int | None, expected: str
) -> None:
    """The page stays usable after the error."""
    page.drag(DROP, data)
    assert wait_until(lambda: expected in page["error"].text, 10), page["error"].text
    page.settled()
    assert "Processing" not in page["status"].text  # nobody waits for an answer any more
    page.driver.get_log("browser")
    page["query"].send_keys("red")
    assert page.waits_for("red")
    assert not page["error"].is_displayed()


def test_unknown_words_are_shown(page: Page) -> None:
    """The status lists them beside the answers."""
    page.open("?q=a+photo+of+red")
    assert page.names()
    assert "Unknown words, ignored: a, photo, of." in page["status"].text


def test_an_incomplete_word_is_no_error_until_enter(page: Page) -> None:
    """The answers stay while a word is typed; Enter makes it an error."""
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
    assert "'yell' is unknown: did you mean yellow?" in page["error"].text
    assert page.names() == []


def test_options_are_part_of_the_address(page: Page) -> None:
    """Split, class, CSLS and the number of images are in the address."""
    page.open("?q=red&split=val&class=crane&csls=1")
    assert {name.split(":")[0] for name in page.names()} == {"#val"}
    assert len(page.names()) == 4
    assert page["split"].get_attribute("value") == "val"
    assert page["class"].get_attribute("value") == "crane"
    assert page["csls"].is_selected()
    page.open("?q=red")
    assert len(page.names()) == 36
    page["more-images"].click()
    page.settled()
    assert wait_until(lambda: len(page.names()) == 53, 10)
    assert not page["more-images"].is_displayed()
    page.open("?q=red&class=nobody")
    assert "no class 'nobody'" in page["error"].text


def test_an_empty_answer_is_reported(page: Page) -> None:
    """The status says that there are no images."""
    page.open("?q=red&split=val&class=nameless")
    assert page["status"].text.startswith("2 images for red")
    page.driver.execute_script(
        'window.fetch = async () => new Response(\'{"query": "x", "images": [], "words": []}\')'
    )
    page["query"].send_keys("dish")
    assert wait_until(lambda: page["status"].text == "No images for x.", 10)


def test_an_unreachable_server_is_reported(page: Page) -> None:
    """The error names the probable cause."""
    page.driver.execute_script("window.fetch = async () => { throw new TypeError('gone'); }")
    page["query"].send_keys("red\n")
    assert wait_until(lambda: "The server cannot be reached" in page["error"].text, 10)
    page.driver.execute_script("window.fetch = async () => new Response('<html>', { status: 502 })")
    page["query"].send_keys("\n")
    assert wait_until(lambda: "The server responded with 502" in page["error"].text, 10)


def test_the_page_fits_a_phone(page: Page) -> None:
    """Nothing is wider than the screen."""
    with emulated(page.driver, width=360, height=780, mobile=True):
        for address in ("", "?q=red+%2B+blue", "?q=nothing+known"):
            page.open(address)
            page.driver.execute_script("document.getElementById('help').open = true")
            assert page_width(page.driver) <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Text has a contrast of at least 4.5 in the light and the dark scheme."""
    with emulated(page.driver, scheme=scheme):
        page.open("?q=red")
        ground = rgb(page.driver, "body", "backgroundColor")
        assert (sum(ground) > 600) is (scheme == "light")
        for selector in ("body", "#status", ".key", ".score", "summary"):
            assert contrast(rgb(page.driver, selector, "color"), ground) >= 4.5, selector
        button = "button[type=submit]"
        colours = (rgb(page.driver, button, name) for name in ("color", "backgroundColor"))
        assert contrast(*colours) >= 4.5


def test_images_and_controls_have_accessible_names(page: Page) -> None:
    """Images have a text alternative, fields and buttons a name."""
    page.open("?q=red")
    assert images_without_text(page.driver) == []
    alts = page.driver.execute_script("return [...document.images].map(image => image.alt)")
    assert "red, crimson thing, train row" in " ".join(alts)
    unnamed = page.driver.execute_script(
        "return [...document.querySelectorAll('button, input, select')].filter(one =>"
        " !(one.textContent || one.getAttribute('aria-label') || one.labels?.length))"
        ".map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_names_from_data_are_text(chromium: Any, tmp_path: Path, open_run: Opener) -> None:
    """Markup, bidirectional text and escapes in names are shown as text and never run."""
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
            assert not page.driver.find_elements("css selector", "#images script, #images svg")
            assert not page.driver.find_elements("css selector", "img[src=x], main script")
        page.open("?q=red")
        text = page["images"].text + page["words"].text
        for name in nasty[:2] + nasty[5:]:
            assert name in text
        for spelled in ("\\u{202e}gpj.exe", "\\u{1b}[31mred", "a\\u{a}b"):
            assert spelled in text
        assert page.complaints() == []
