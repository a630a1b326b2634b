"""Pieces of a self-contained page."""

import io
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workflows import page
from workflows.page import bar, contact_sheet, encode_png, sheet_figures, sheet_style, table, text


def decoded(png: bytes) -> np.ndarray:
    """The pixels of a PNG, by Pillow, which checks its checksums."""
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_a_png_gives_back_the_pixels(height, width, seed, smooth):
    """Of noise, and of gradients that all filters' branches meet."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if smooth:
        pixels = np.cumsum(pixels // 16, axis=1).astype(np.uint8)

    np.testing.assert_array_equal(pixels, decoded(encode_png(pixels)))


def test_a_photograph_is_smaller_as_a_png_than_as_pixels():
    """The filter does its work."""
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    pixels = np.stack([x + y, x, 255 - y], axis=-1).astype(np.uint8)

    assert len(encode_png(pixels)) < pixels.nbytes / 20


@given(st.integers(0, 20), st.integers(1, 6))
def test_a_contact_sheet_holds_every_picture_pixel_by_pixel(count, size):
    """At the place where the page looks for it."""
    images = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)
    sheet = contact_sheet(images, [str(i) for i in range(count)])
    pixels = decoded(sheet.png)

    for place, image in enumerate(images):
        row, column = divmod(place, sheet.columns)
        tile = pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
        np.testing.assert_array_equal(image, tile)
        assert f"-{column * size}px -{row * size}px" in sheet_figures(sheet, "x")


@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 8, 8, 3), 3), ((2, 8, 9, 3), 2), ((2, 8, 8), 2)]
)
def test_a_contact_sheet_of_other_shapes_is_refused(shape, labels):
    """With both."""
    with pytest.raises(ValueError, match=rf"of {labels} labels needs .*, got \(2, 8"):
        contact_sheet(np.zeros(shape, np.uint8), ["x"] * labels)


@given(st.text())
def test_text_holds_no_markup(value):
    """Nor anything that ends an attribute."""
    assert not set(text(value)) & set("<>\"'")


class Cells(HTMLParser):
    """What a browser reads as the text of cells."""

    def __init__(self, page):
        super().__init__()
        self.cells = []
        self.tags = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.cells.append(data)


def test_a_table_has_its_cells_in_order_and_aligned():
    """Numbers to the right."""
    html = table([">Rows", "=Name", "|", "Plain"], [["1", text("<b>"), bar(0.5), "x"]])

    assert Cells(html).cells == ["Rows", "Name", "Plain", "1", "<b>", "x"]
    assert '<td class="number">1</td><td class="word">' in html
    assert "width: 50.0%" in html


@pytest.mark.parametrize(("share", "width"), [(-1, "0.0%"), (0.254, "25.4%"), (7, "100.0%")])
def test_a_bar_stays_in_its_cell(share, width):
    """Whatever rounding did to the figures."""
    assert f"width: {width}" in bar(share)


def test_a_label_is_text_wherever_it_is_shown():
    """Under the picture, and where it is read aloud."""
    sheet = contact_sheet(np.zeros((1, 4, 4, 3), np.uint8), ['"><script>alert(1)</script>'])
    cells = Cells(sheet_figures(sheet, "x"))

    assert "script" not in cells.tags
    assert cells.cells == ['"><script>alert(1)</script>']


def test_a_page_asks_for_nothing_outside_itself():
    """And its policy would refuse it."""
    sheet = contact_sheet(np.zeros((1, 4, 4, 3), np.uint8), ["x"])
    html = page.page("t", ["<p>x</p>"], sheet_style(sheet, "x"))

    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "url(data:image/png;base64," in html
