"""The report of a store, as a page and in the terminal."""

import pytest

from tests.workflows.reports.test_html import HOSTILE as MARKUP
from tests.workflows.reports.test_html import Page
from workflows.reports.store_model import (
    ImageGrid,
    Quarantined,
    ReportModel,
    RunReport,
    SplitReport,
)
from workflows.reports.store_page import (
    MAX_NAMES_IN_TERMINAL,
    MAX_NAMES_ON_PAGE,
    render_report,
    terminal_summary,
)
from workflows.terminal.formatting import printable

HOSTILE = (*MARKUP, "[red]x[/red].JPEG")
ESCAPED = tuple(map(printable, HOSTILE))

TRAIN = SplitReport(
    name="train",
    num_rows=1_281_167,
    finished=True,
    counts={"readable": 1_281_150, "empty": 5, "truncated": 12, "bomb": 0},
    array_bytes={"72": 19_900_000_000, "288": 318_800_000_000, "jpeg256@90": 39_000_000_000},
    run=RunReport(
        num_rows=1_281_167,
        seconds=1023.0,
        bytes_in=140_900_000_000,
        bytes_out=338_700_000_000,
        step_seconds={
            "read": 60.0,
            "decode": 1200.0,
            "resize": 540.0,
            "write": 150.0,
            "sync": 50.0,
        },
    ),
)
VAL = SplitReport(
    name="val",
    num_rows=50_000,
    finished=False,
    counts={"readable": 20_480},
    array_bytes={"72": 320_000_000},
)
JPEG = b"\xff\xd8\xff"
"""The first bytes of a JPEG, which the page embeds unseen."""
MODEL = ReportModel(
    store="/fast/imagenet",
    num_classes=1000,
    splits=(TRAIN, VAL),
    recipe={"fit": "crop", "filter": "bicubic", "codec": "none"},
    versions={"tesserae": "0.1.0"},
    written_at="2026-01-02 03:04 UTC",
)


def quarantine(keys):
    """Return quarantined rows with these keys."""
    return tuple(
        Quarantined("train", row, key, "empty", "no bytes") for row, key in enumerate(keys)
    )


def model(**changes):
    """Return MODEL with some fields changed."""
    return ReportModel(**{**vars(MODEL), **changes})


def bad_split(count):
    """Return the report of a split in which all *count* rows are quarantined."""
    return SplitReport(
        name="train", num_rows=count, finished=True, counts={"empty": count}, array_bytes={}
    )


@pytest.mark.parametrize("where", ["key", "reason", "label", "store", "notice", "recipe", "split"])
def test_names_from_data_are_escaped(where):
    """Names appear as text on the page, and add neither tags nor attributes."""
    plain = Page(render_report(_hostile(where, ("plain",) * len(HOSTILE))))
    html = render_report(_hostile(where, HOSTILE))
    page = Page(html)

    assert plain.tags == page.tags
    assert [name for name, _ in plain.attributes] == [name for name, _ in page.attributes]
    for expected in ESCAPED:
        assert expected in "\n".join(page.texts)
    assert not set(html) & {"\x1b", "\u202e"}


def _hostile(where, names):
    keys = names if where == "key" else ["plain"] * len(names)
    rows = [
        Quarantined("train", 1, key, "corrupt", name if where == "reason" else "x")
        for key, name in zip(keys, names, strict=True)
    ]
    labels = names if where == "label" else ["plain"] * len(names)
    joined = " ".join(names)
    split = SplitReport(
        name=joined if where == "split" else "train",
        num_rows=4,
        finished=True,
        counts={"corrupt": 4},
        array_bytes={"72": 1},
    )
    return model(
        splits=(split,),
        quarantined=tuple(rows),
        image_grids=(ImageGrid(split.name, "4", 4, tuple((label, JPEG) for label in labels)),),
        store=joined if where == "store" else "/s",
        notice=joined if where == "notice" else "n",
        recipe={"fit": joined if where == "recipe" else "crop"},
    )


@pytest.mark.parametrize("where", ["key", "reason", "store", "notice", "recipe", "split"])
def test_terminal_lines_are_printable_for_any_names(where):
    """Control characters and newlines are escaped, and markup stays as it is."""
    lines = terminal_summary(_hostile(where, HOSTILE))

    assert all(line.isprintable() for line in lines)
    for expected in ESCAPED:
        assert expected in "\n".join(lines)


def test_the_page_has_all_figures_of_the_model():
    """These are rows, rates, sizes on disk, reasons, the slowest step, recipe and versions."""
    texts = (text.strip() for text in Page(render_report(MODEL)).texts)
    text = "|".join(filter(None, texts))

    for expected in (
        "train|finished|1,281,167|1,281,150|17|19.9 GB|319 GB|39.0 GB",
        "val|29,520 rows missing|20,480|20,480|0|320 MB|-|-",
        "train|1,281,167|17 min 3 s|1,252|138|331|decode",
        "decode|20 min 0 s|60.0 %",
        "train|truncated|12|train|empty|5",
        "1,301,647|of 1,331,167",
        "1,301,630|99.999 %",
        "filter|bicubic",
        "tesserae|0.1.0",
        "2026-01-02 03:04 UTC",
    ):
        assert expected in text
    assert "bomb" not in text  # none


def test_the_terminal_summary_has_the_same_figures():
    """The summary has a few lines for each split."""
    assert terminal_summary(MODEL) == [
        "/fast/imagenet: 1,000 classes",
        "  train: finished, 1,281,167 rows, 1,281,150 readable, 17 quarantined",
        "    quarantined  12 truncated, 5 empty",
        "    on disk      72 px 19.9 GB, 288 px 319 GB, jpeg256@90 39.0 GB",
        "    this run     1,281,167 rows in 17 min 3 s, 1,252 images/s, 138 MB/s in, 331 MB/s out",
        "    steps        read 3.0 %, decode 60.0 %, resize 27.0 %, write 7.5 %, sync 2.5 %;"
        " slowest: decode",
        "  val: not finished, 20,480 of 50,000 rows, 20,480 readable, 0 quarantined",
        "    on disk      72 px 320 MB",
        "  recipe: fit crop, filter bicubic, codec none",
    ]


@pytest.mark.parametrize(("count", "text"), [(0, "0 classes"), (1, "1 class"), (2, "2 classes")])
def test_a_single_class_is_singular(count, text):
    """The first line of the summary has the number of classes."""
    assert terminal_summary(model(num_classes=count))[0] == f"/fast/imagenet: {text}"


def test_a_notice_precedes_the_figures():
    """The order is the same on the page and in the terminal."""
    noted = model(notice="a check of the plumbing, not a result")
    html = render_report(noted)

    assert html.index("a check of the plumbing") < html.index("1,301,647")
    assert "a check of the plumbing" in terminal_summary(noted)[1]


def test_the_number_of_names_on_the_page_is_limited():
    """A browser could not open a page of a million names."""
    keys = [f"n00000001/{i:07d}.JPEG" for i in range(MAX_NAMES_ON_PAGE + 5)]
    html = render_report(model(splits=(bad_split(len(keys)),), quarantined=quarantine(keys)))

    assert keys[MAX_NAMES_ON_PAGE - 1] in html
    assert keys[MAX_NAMES_ON_PAGE] not in html
    assert "1,000 of 1,005 rows, by key" in html


def test_the_terminal_lists_a_few_rows_and_the_number_of_others():
    """The model itself may contain only a part of the quarantined rows."""
    keys = [f"k{i}" for i in range(MAX_NAMES_IN_TERMINAL + 1)]
    lines = terminal_summary(model(splits=(bad_split(500),), quarantined=quarantine(keys)))

    assert sum(" row " in line for line in lines) == MAX_NAMES_IN_TERMINAL
    assert any("... and 490 more in quarantine" in line for line in lines)


def test_an_empty_quarantine_is_stated():
    """The page says that every row is readable."""
    html = render_report(model(splits=(VAL,)))

    assert "Every row is readable." in html


def test_a_split_without_rows_has_a_report():
    """Missing rates are dashes, not errors."""
    nothing = SplitReport(
        name="train", num_rows=0, finished=False, counts={}, array_bytes={},
        run=RunReport(num_rows=0, seconds=0.0),
    )  # fmt: skip

    assert "not finished" in render_report(model(splits=(nothing,)))
    assert (
        "    this run     0 rows in 0.0 s, - images/s, - MB/s in, - MB/s out"
        in terminal_summary(model(splits=(nothing,)))
    )
    assert render_report(model(splits=()))


def test_images_of_every_array_are_embedded_in_the_page():
    """The page loads nothing from a network or a disk."""
    image_grids = tuple(
        ImageGrid("val", array, height, (("a", JPEG), ("b", JPEG), ("c", JPEG)))
        for array, height in (("72", 72), ("224", 224), ("jpeg256@90", 192))
    )
    page = Page(render_report(model(image_grids=image_grids)))

    assert page.tags.count("figure") == 9
    assert "val, 224 px" in page.texts
    assert "val, jpeg256@90, shown 192 px high" in page.texts
    assert [value for name, value in page.attributes if name in ("src", "href")] == [
        "data:image/jpeg;base64,/9j/"
    ] * 9
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_a_name_with_a_lone_surrogate_can_be_written():
    """File names are bytes, which need not be valid text."""
    odd = model(splits=(bad_split(1),), quarantined=quarantine(["n1/\udcff.JPEG"]))

    assert rb"n1/\udcff.JPEG" in render_report(odd).encode()
    assert any(r"\udcff" in line for line in terminal_summary(odd))
