"""The parts of a self-contained page."""

import io
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workflows.reports.html import (
    bar,
    contact_sheet,
    encode_jpeg,
    page,
    sheet_figures,
    sheet_style,
    table,
    text,
)


def decoded(jpeg: bytes) -> np.ndarray:
    """Return the pixels of a JPEG, decoded by Pillow."""
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image).astype(int)


@given(st.integers(0, 20), st.integers(1, 3))
def test_a_contact_sheet_contains_every_image(count, blocks):
    """Each image is at the position that the page shows, in nearly the same colour."""
    size = 8 * blocks
    colours = np.random.default_rng(count).integers(0, 256, (count, 1, 1, 3), np.uint8)
    images = np.broadcast_to(colours, (count, size, size, 3))
    sheet = contact_sheet(images, [str(i) for i in range(count)])
    pixels = decoded(sheet.jpeg)

    for index, image in enumerate(images):
        row, column = divmod(index, sheet.columns)
        tile = pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
        np.testing.assert_allclose(tile, image, atol=4)
        assert f"-{column * size}px -{row * size}px" in sheet_figures(sheet, "x")


def test_a_jpeg_of_a_photograph_is_close_to_it():
    """Edges and colours are nearly unchanged."""
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    pixels = np.stack([4 * x, 4 * y, 128 + 100 * np.sin(x / 3)], axis=-1).astype(np.uint8)

    np.testing.assert_allclose(decoded(encode_jpeg(pixels)), pixels, atol=12)


@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 8, 8, 3), 3), ((2, 8, 9, 3), 2), ((2, 8, 8), 2)]
)
def test_a_contact_sheet_of_other_shapes_is_refused(shape, labels):
    """The error names the number of labels and the shape."""
    with pytest.raises(ValueError, match=rf"of {labels} labels needs .*, got \(2, 8"):
        contact_sheet(np.zeros(shape, np.uint8), ["x"] * labels)


@given(st.text())
def test_text_is_escaped(value):
    """Quotes, which would end an attribute, are escaped, too."""
    assert not set(text(value)) & set("<>\"'")


class Cells(HTMLParser):
    """The text of table cells, as a browser parses it."""

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
    """Columns of numbers are aligned to the right."""
    html = table([">Rows", "=Name", "|", "Plain"], [["1", text("<b>"), bar(0.5), "x"]])

    assert Cells(html).cells == ["Rows", "Name", "Plain", "1", "<b>", "x"]
    assert '<td class="number">1</td><td class="word">' in html
    assert "width: 50.0%" in html


@pytest.mark.parametrize(("share", "width"), [(-1, "0.0%"), (0.254, "25.4%"), (7, "100.0%")])
def test_a_bar_stays_in_its_cell(share, width):
    """Shares below 0 and above 1, as rounding gives them, are clipped."""
    assert f"width: {width}" in bar(share)


def test_a_label_is_escaped_in_text_and_attributes():
    """A label is shown below the image, and read aloud by screen readers."""
    sheet = contact_sheet(np.zeros((1, 4, 4, 3), np.uint8), ['"><script>alert(1)</script>'])
    cells = Cells(sheet_figures(sheet, "x"))

    assert "script" not in cells.tags
    assert cells.cells == ['"><script>alert(1)</script>']


def test_a_page_is_self_contained():
    """The content security policy would refuse external content."""
    sheet = contact_sheet(np.zeros((1, 4, 4, 3), np.uint8), ["x"])
    html = page("t", ["<p>x</p>"], sheet_style(sheet, "x"))

    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "url(data:image/jpeg;base64," in html
