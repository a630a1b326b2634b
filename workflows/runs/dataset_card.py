"""The card of an exported data set: what its columns are, and where its rows come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from pipeline.export.formats import FORMATS, dataset_features
from pipeline.installation import installed_version
from pipeline.store.split import Split

SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The sizes of data sets by which the hub is searched, each below a number of rows."""


def dataset_card(
    splits: Sequence[Split], array: str, format: str, *, licence: str | None = None
) -> str:
    """Return the README.md of an exported data set: facts in YAML, and a page in Markdown.

    Args:
        splits: The exported splits of one store, at least one.
        array: The name of the array that was exported, such as `224` or `jpeg256@90`.
        format: The format of the files, `parquet` or `webdataset`.
        licence: The licence of the images, as an identifier of the hub such as `cc-by-4.0`; None
            is written as unknown, since a store does not have it.
    """
    facts = _facts(splits, format, licence)
    header = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{header}---\n\n{_page(splits, array, format, licence)}"


def _facts(splits: Sequence[Split], format: str, licence: str | None) -> dict[str, Any]:
    recipe = splits[0].recipe
    rows = sum(len(split.readable_rows) for split in splits)
    category = next((name for limit, name in SIZE_CATEGORIES if rows < limit), "n>10M")
    facts: dict[str, Any] = {
        "license": licence or "unknown",
        "size_categories": [category],
        "task_categories": [
            "image-classification" if recipe.classes else "unconditional-image-generation"
        ],
        "tags": ["tesserae"],
    }
    names = _split_names([split.plan.split for split in splits])
    if format == "parquet":
        features = [
            {"name": name, **_feature(feature)}
            for name, feature in dataset_features(recipe.classes).items()
        ]
        counts = [
            {"name": name, "num_examples": len(split.readable_rows)}
            for name, split in zip(names, splits, strict=True)
        ]
        facts["dataset_info"] = {"features": features, "splits": counts}
    files = [
        {"split": name, "path": FORMATS[format].pattern.format(split=split.plan.split)}
        for name, split in zip(names, splits, strict=True)
    ]
    facts["configs"] = [{"config_name": "default", "data_files": files}]
    return facts


def _split_names(splits: Sequence[str]) -> list[str]:
    """Return the names of splits as the library `datasets` takes them, which has no hyphens."""
    names: list[str] = []
    for split in splits:
        name = split.replace("-", "_")
        while name in names:
            name += "_"
        names.append(name)
    return names


def _feature(feature: dict[str, Any]) -> dict[str, Any]:
    """Return a feature as the header of a card writes it."""
    if feature["_type"] == "Image":
        return {"dtype": "image"}
    if feature["_type"] == "ClassLabel":
        names = {str(number): name for number, name in enumerate(feature["names"])}
        return {"dtype": {"class_label": {"names": names}}}
    return {"dtype": feature["dtype"]}


def _page(splits: Sequence[Split], array: str, format: str, licence: str | None) -> str:
    recipe = splits[0].recipe
    stored = (
        f"the encoded rows `{array}`, byte for byte"
        if array in splits[0].encoded
        else f"squares of {array} px (fit `{recipe.fit}`, filter `{recipe.filter}`), as PNG"
    )
    table = [
        f"| `{split.plan.split}` | {len(split.readable_rows):,} | {_num_quarantined(split):,} |"
        f" {len(np.unique(split.labels[split.readable_rows])):,} | `{split.plan.listing}` |"
        for split in splits
    ]
    lines = [
        "# Images exported from a Tesserae store",
        "",
        f"The images are {stored}. Files are {format}; each readable row of the store is in exactly"
        " one of them.",
        "",
        "| Split | Rows | Quarantined, left out | Labels | Digest of the listing |",
        "|---|---|---|---|---|",
        *table,
        "",
        "| Provenance | |",
        "|---|---|",
        f"| Recipe | `{recipe.digest}` |",
        f"| Decoded as | `{recipe.decoder}` |",
        f"| Resized as | `{recipe.resizer}` |",
        *(
            f"| {markdown_cell(name)} | {markdown_cell(version)} |"
            for name, version in recipe.software.items()
        ),
        f"| Written by | Tesserae {installed_version('tesserae')} |",
        f"| Licence of the images | {markdown_cell(licence or 'not stated: ask the publisher')} |",
        "",
    ]
    return "\n".join(lines)


def markdown_cell(text: str) -> str:
    """Return a text as it stays in one cell of a table in Markdown.

    Args:
        text: The text, whose spaces and newlines become single spaces.
    """
    return " ".join(text.split()).replace("|", "\\|")


def _num_quarantined(split: Split) -> int:
    return split.plan.num_rows - len(split.readable_rows)
