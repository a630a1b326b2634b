"""Encoded rows for stores that were prepared with squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.images.decode import decode
from pipeline.images.encode import encode_jpeg_row
from pipeline.store import arrays, layout, records, table
from pipeline.store.encoded_plan import EncodedPlan
from pipeline.store.encoded_shard import EncodedShardComposer
from pipeline.store.encoding import Encoding, parse_encoding
from pipeline.store.fingerprint import fingerprint
from pipeline.store.open import open_objects

Row = tuple[bytes, int, int]
"""The bytes of an encoded row, and the height and width of its picture."""


def add_encoded(
    store: str,
    source: Path,
    encodings: Sequence[str],
    *,
    chunk_bytes: int = 512,
    shards: Sequence[int] | None = None,
    finish: bool = True,
) -> None:
    """Add encoded rows to the split `train` of a store.

    Args:
        store: The folder or URL of the store.
        source: The folder of its images, as `tests.images.make_folder` writes it.
        encodings: The encodings, such as `jpeg:16@80`.
        chunk_bytes: The bytes of a chunk, of which photographs have several.
        shards: The shards that get them; None for all.
        finish: True to write the arrays of all rows and the finish record.
    """
    objects = open_objects(store, "train-encoded")
    objects.begin()
    plan, recipe = records.load_plan(objects, "train"), records.load_recipe(objects)
    for text in encodings:
        encoding = parse_encoding(text)
        commits = records.load_commits(objects, plan)
        rows = {
            shard: [
                _encode(source, key, status, encoding) for key, status in _keys(objects, commit)
            ]
            for shard, commit in commits.items()
        }
        longest = max(sum(len(row) for row, _, _ in each) for each in rows.values())
        span = -(-(2 * longest + 16 * plan.shard_rows) // chunk_bytes) * chunk_bytes
        encoded_plan = EncodedPlan(
            split="train",
            encoding=encoding.array_name,
            plan=plan.digest,
            span_bytes=span,
            chunk_bytes=chunk_bytes,
            encoder="" if encoding.is_original else "0" * 64,
            software="a test",
            format=recipe.format,
        )
        objects.put(layout.encoded_plan("train", encoding.array_name), encoded_plan.encode())
        geometry = encoded_plan.geometry(plan.shard_rows)
        offset = np.zeros((plan.num_rows, 2), np.int64)
        shape = np.zeros((plan.num_rows, 2), np.int32)
        for shard, commit in sorted(commits.items()):
            if shards is not None and shard not in shards:
                continue
            name = layout.encoded_shard("train", encoding.array_name, shard)
            composer = EncodedShardComposer(objects.create(name), geometry)
            at = shard * span
            for row, (data, height, width) in enumerate(rows[shard], commit.start):
                composer.append(data, height, width)
                offset[row] = at, at + len(data)
                shape[row] = height, width
                at += len(data)
            record = composer.write_index()
            composer.finish()
            encoded = {**commit.encoded, encoding.array_name: record}
            objects.put(layout.commit("train", shard), replace(commit, encoded=encoded).encode())
        if finish:
            done = records.load_finish_record(objects, "train")
            assert done is not None
            written = [
                *arrays.encoded_arrays(plan, encoding.array_name, geometry),
                *arrays.encoded_row_arrays("train", encoding.array_name, offset, shape),
            ]
            for name, data in written:
                objects.put(name, data)
            new = {fingerprint(name, data) for name, data in written}
            done = replace(
                done,
                encoded=tuple(sorted({*done.encoded, encoding.array_name})),
                objects=tuple(sorted({*done.objects, *new}, key=lambda record: record.name)),
            )
            objects.put(layout.done("train"), done.encode())
    objects.end()


def _keys(objects, commit) -> list[tuple[str, int]]:
    part = table.load_part(objects, commit.table.name, range(commit.start, commit.stop))
    return list(zip(part["key"].to_pylist(), part["status"].to_pylist(), strict=True))


def _encode(source: Path, key: str, status: int, encoding: Encoding) -> Row:
    if status:
        return b"", 0, 0
    data = (source / key).read_bytes()
    decoded = decode(data, fit="squish", serves=encoding.short_side or 2**30, exif=True)
    if encoding.is_original:
        return data, decoded.height, decoded.width
    return encode_jpeg_row(
        data,
        decoded,
        short_side=encoding.short_side,
        quality=encoding.quality,
        filter="bicubic",
    )
