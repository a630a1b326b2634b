"""HTML pages from jinja2 templates; what is common to all of them is in `templates/`.

Every value is escaped where a template inserts it, and a value that is missing is an error. A page
loads no external resources, and its content security policy forbids it to.
"""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.terminal.formatting import (
    array_text,
    bytes_text,
    per_second,
    printable,
    seconds_text,
    share_text,
    three_digits,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
"""The folder of the page's frame, the stylesheet and the macros, which every template may use."""


def render(template: Path, **values: Any) -> str:
    """Return the HTML of a template.

    Args:
        template: The file of the template. It may include, import and extend those beside it and
            those in `workflows/reports/templates`.
        values: The values that it inserts, by name. Text is escaped, and control characters in it,
            newlines too, are shown as visible escapes.

    Raises:
        jinja2.TemplateNotFound: The file does not exist.
        jinja2.UndefinedError: The template inserts a value that is missing.
    """
    return _environment(template.parent).get_template(template.name).render(values)


@functools.cache
def _environment(folder: Path) -> Environment:
    # Imported here, so that only a command that writes a page pays for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "thousands": "{:,}".format,
        "three_digits": three_digits,
        "array": array_text,
        "bytes": bytes_text,
        "duration": seconds_text,
        "share": share_text,
        "per_second": per_second,
        "data_url": data_url,
    }
    return environment


def _visible(value: Any) -> Any:
    r"""Return a value to insert; control characters become visible escapes, such as `\x1b`."""
    if not isinstance(value, str) or value.isprintable() or hasattr(value, "__html__"):
        return value
    return printable(value)


def data_url(image: bytes) -> str:
    """Return the `data:` URL of a PNG or JPEG file.

    Args:
        image: The bytes of the file; what is no PNG is taken as JPEG.
    """
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
