"""The description of an exported data set in Croissant, the format of MLCommons.

Croissant Format Specification 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.export.formats import FORMATS, class_names
from pipeline.installation import installed_version
from pipeline.store.split import Split

CROISSANT = "croissant.json"
"""The name of the file."""
CLASSES = "store/classes"
"""The identifier of the records of classes; no name of a split has a slash."""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of JSON-LD that the specification prescribes."""
COLUMNS = {
    "image": ("sc:ImageObject", "The image."),
    "label": ("sc:Integer", "The number of the class; -1 for none."),
    "key": ("sc:Text", "The name of the sample in the source."),
    "wnid": ("sc:Text", "The identifier of the class in the source."),
    "row": ("sc:Integer", "The row in the store that the sample was exported from."),
}
"""The type and the description of each column of an exported Parquet file."""


def croissant(
    splits: Sequence[Split], array: str, format: str, *, name: str, licence: str | None = None
) -> bytes:
    """Return the description of an exported data set as JSON-LD.

    A reader of Croissant yields the records of each split of Parquet files, and the classes. Files
    of WebDataset are described as files only.

    Args:
        splits: The exported splits of one store, at least one.
        array: The name of the array that was exported, such as `224` or `jpeg256@90`.
        format: The format of the files, `parquet` or `webdataset`.
        name: The name of the data set.
        licence: The licence of the images, as a name or URL; None leaves it out.
    """
    recipe = splits[0].recipe
    rows = sum(len(split.readable_rows) for split in splits)
    document: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": (
            f"{rows:,} images ({array}) of {len(recipe.classes):,} classes, exported from a store"
            f" of Tesserae {installed_version('tesserae')} with recipe {recipe.digest}."
        ),
        "version": "1.0.0",
        **({"license": licence} if licence else {}),
        "distribution": [_files(split.plan.split, format) for split in splits],
    }
    if format == "parquet":
        records = [_records(split.plan.split) for split in splits]
        document["recordSet"] = [*records, *([_classes(recipe.classes)] if recipe.classes else [])]
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _files(split: str, format: str) -> dict[str, str]:
    kind = "application/x-parquet" if format == "parquet" else "application/x-tar"
    return {
        "@type": "cr:FileSet",
        "@id": f"files/{split}",  # no name of a split has a slash
        "name": f"files/{split}",
        "encodingFormat": kind,
        "includes": FORMATS[format].pattern.format(split=split),
    }


def _records(split: str) -> dict[str, Any]:
    fields = []
    for name, (kind, description) in COLUMNS.items():
        source: dict[str, Any] = {
            "fileSet": {"@id": f"files/{split}"},
            "extract": {"column": name},
        }
        if name == "image":
            source["transform"] = {"jsonPath": "bytes"}
        fields.append(_field(split, name, kind, description) | {"source": source})
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}


def _classes(classes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    fields = [
        _field(CLASSES, "label", "sc:Integer", "The number of the class."),
        _field(CLASSES, "wnid", "sc:Text", "The identifier of the class in the source."),
        _field(CLASSES, "name", "sc:Text", "The name of the class."),
    ]
    names = class_names(classes)
    data = [
        {f"{CLASSES}/label": label, f"{CLASSES}/wnid": wnid, f"{CLASSES}/name": names[label]}
        for label, (wnid, _) in enumerate(classes)
    ]
    return {
        "@type": "cr:RecordSet", "@id": CLASSES, "name": CLASSES,
        "key": {"@id": f"{CLASSES}/label"}, "field": fields, "data": data,
    }  # fmt: skip


def _field(records: str, name: str, kind: str, description: str) -> dict[str, str]:
    return {
        "@type": "cr:Field", "@id": f"{records}/{name}", "name": name, "dataType": kind,
        "description": description,
    }  # fmt: skip
