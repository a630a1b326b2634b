"""The formats of exported files: Parquet as `datasets` reads it, and tar files of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.rows import ExportedRow

GROUP_BYTES = 2**26
"""The approximate bytes of images in a row group of Parquet, which readers hold at once."""
Classes = Sequence[tuple[str, str]]
"""The wnid and the words of label 0, 1, ..."""


class ExportFormat(NamedTuple):
    """A format that a split is exported to."""

    file_name: str
    """The name of the file of a shard below the folder, with `split`, `shard` and `shards`."""
    pattern: str
    """The pattern of the names of all files of a split, which those of no other split match."""
    write: Callable[[Iterable[ExportedRow], Classes, BinaryIO], int]
    """A function that writes rows to a file and returns their number."""


def class_names(classes: Classes) -> list[str]:
    """Return a name for each class, in the order of labels, no two of them equal.

    Args:
        classes: The wnid and the words of each class. Words that two classes share, such as the two
            `crane` of ImageNet, are followed by the wnid, and by the label if that is not enough.
    """
    names = [words or wnid for wnid, words in classes]
    # Once more with the label, if words look like those that a wnid was added to.
    for marks in ([wnid for wnid, _ in classes], range(len(classes))):
        counts = Counter(names)
        names = [
            name if counts[name] == 1 else f"{name} ({mark})"
            for name, mark in zip(names, marks, strict=True)
        ]
    return names


def parquet_schema(classes: Classes) -> pa.Schema:
    """Return the columns of an exported Parquet file.

    They are `image` (a struct of `bytes` and `path`), `label` (int64, -1 for none), `key`, `wnid`
    and `row`. The metadata has the features of the library `datasets`, so that it decodes images
    and names labels.

    Args:
        classes: The wnid and the words of each class, in the order of labels.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": image, "label": pa.int64(), "key": pa.string(), "wnid": pa.string(),
        "row": pa.int64(),
    }  # fmt: skip
    metadata = {"huggingface": json.dumps({"info": {"features": dataset_features(classes)}})}
    return pa.schema(list(columns.items()), metadata)


def dataset_features(classes: Classes) -> dict[str, Any]:
    """Return the features of an exported Parquet file, as the library `datasets` writes them.

    Args:
        classes: The wnid and the words of each class; without any, labels are plain numbers.
    """
    number, text = {"dtype": "int64", "_type": "Value"}, {"dtype": "string", "_type": "Value"}
    label = {"names": class_names(classes), "_type": "ClassLabel"} if classes else number
    return {"image": {"_type": "Image"}, "label": label, "key": text, "wnid": text, "row": number}


def write_parquet(rows: Iterable[ExportedRow], classes: Classes, file: BinaryIO) -> int:
    """Write rows as a Parquet file.

    Args:
        rows: The rows in their order.
        classes: The wnid and the words of each class, in the order of labels.
        file: The file, which is neither closed nor positioned.

    Returns:
        The number of rows.
    """
    schema = parquet_schema(classes)
    num_rows = 0
    # Images are compressed already; the other columns are small.
    compression = {name: "none" if name == "image" else "zstd" for name in schema.names}
    with pq.ParquetWriter(file, schema, compression=compression) as writer:
        for group in _groups(rows):
            columns = [
                [{"bytes": row.data, "path": f"{row.key}.{row.extension}"} for row in group],
                [row.label for row in group],
                [row.key for row in group],
                [row.wnid for row in group],
                [row.row for row in group],
            ]
            fields = zip(columns, schema.types, strict=True)
            writer.write_table(pa.table([pa.array(c, t) for c, t in fields], schema=schema))
            num_rows += len(group)
    return num_rows


def _groups(rows: Iterable[ExportedRow]) -> Iterator[list[ExportedRow]]:
    group: list[ExportedRow] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += len(row.data)
        if num_bytes >= GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def write_webdataset(rows: Iterable[ExportedRow], classes: Classes, file: BinaryIO) -> int:
    """Write rows as a tar file of WebDataset.

    Sample `000000123` has the files `.jpg` (or another extension), `.cls` with the label, which
    rows without a class lack, and `.json` with `key`, `wnid`, `words` and `row`. Equal rows give
    equal bytes.

    Args:
        rows: The rows in their order.
        classes: The wnid and the words of each class, in the order of labels.
        file: The file, which is not closed.

    Returns:
        The number of rows.
    """
    num_rows = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            words = classes[row.label][1] if 0 <= row.label < len(classes) else ""
            facts = {"key": row.key, "wnid": row.wnid, "words": words, "row": row.row}
            _add(tar, f"{row.row:09d}.{row.extension}", row.data)
            if row.label >= 0:
                _add(tar, f"{row.row:09d}.cls", str(row.label).encode())
            _add(tar, f"{row.row:09d}.json", json.dumps(facts, ensure_ascii=False).encode())
            num_rows += 1
    return num_rows


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # without an owner and a time: equal rows are equal bytes
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


FORMATS = {
    "parquet": ExportFormat(
        "data/{split}/{shard:05d}-of-{shards:05d}.parquet", "data/{split}/*.parquet", write_parquet
    ),
    "webdataset": ExportFormat("{split}/{shard:06d}.tar", "{split}/*.tar", write_webdataset),
}
"""The formats by name. Each split has a folder, since its name may begin like that of another."""
