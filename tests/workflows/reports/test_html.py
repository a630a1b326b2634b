"""The parts of a self-contained page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.reports.html import TEMPLATES, data_url, render
from workflows.terminal.formatting import printable

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = (
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "{{ 7 * 6 }}",
    "{% include 'report.css' %}",
    "</style></svg><b>",
    "a&b &amp; &#60;",
    "\x1b[31mred\x1b[0m\nnext",
    "\u202egpj.exe",
)


class Page(HTMLParser):
    """The tags, attributes and texts that a browser parses from a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a template that inserts a value wherever our templates insert some."""
    folder = tmp_path_factory.mktemp("templates")
    (folder / "page.html").write_text(
        '{% extends "base.html" %}{% import "macros.html" as macros %}{% block content %}'
        "{{ macros.fact(value, value, value) }}{{ macros.rows([(value, value)]) }}"
        "{{ macros.pairs([(value, value)]) }}{{ macros.figure(image, value, value) }}"
        "{{ macros.charts([chart]) }}{{ macros.table(table) }}<p>{{ value }}</p>{% endblock %}"
    )
    return folder


def fill(folder: Path, value: str) -> str:
    """Return the page of that template with one value in all places."""
    from workflows.reports.charts import chart
    from workflows.reports.table import Table

    return render(
        folder / "page.html",
        title=value,
        value=value,
        image=b"\x89PNG",
        chart=chart(value, {value: [(0.0, 1.0)]}, unit=value, across=value),
        table=Table(value, [value, value + "x"], [[value, value]], (value,)),
    )


def check_text(folder: Path, value: str) -> None:
    """Check that a value adds neither tags nor attributes, and is read as it is spelled."""
    html = fill(folder, value)
    plain, page = Page(fill(folder, "plain")), Page(html)
    assert page.tags == plain.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in plain.attributes]
    expected = [text.replace("plain", printable(value)).strip() for text in plain.texts]
    assert [text.strip() for text in page.texts if text.strip()] == list(filter(None, expected))
    assert dict(page.attributes)["alt"] == printable(value)
    assert not set(html) & {"\x1b", "\u202e"}  # they could reorder or hide text


@given(value=st.text(min_size=1))
def test_a_value_is_text_wherever_it_is_inserted(folder: Path, value: str) -> None:
    """In the title, tables, captions, charts and attributes."""
    check_text(folder, value)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_text_wherever_it_is_inserted(folder: Path, value: str) -> None:
    """Markup, quotes, templates and control characters do nothing."""
    check_text(folder, value)


def test_a_missing_value_is_an_error(tmp_path: Path) -> None:
    """A page with a gap would look as if there were nothing to show."""
    (tmp_path / "page.html").write_text("<p>{{ rows }}</p>")
    with pytest.raises(jinja2.UndefinedError, match="'rows' is undefined"):
        render(tmp_path / "page.html")


def test_a_page_loads_nothing(folder: Path) -> None:
    """Its policy would refuse it."""
    page = Page(fill(folder, "plain"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in page.attributes
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert [value for name, value in page.attributes if name in ("src", "href")] == [
        "data:image/png;base64,iVBORw=="
    ]
    style = (TEMPLATES / "report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_the_kind_of_an_embedded_image_is_that_of_its_bytes() -> None:
    """A JPEG is not declared as a PNG."""
    assert data_url(b"\xff\xd8\xff\xe0") == "data:image/jpeg;base64,/9j/4A=="
