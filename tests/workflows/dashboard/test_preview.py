"""Thumbnails and quarantined rows of a shard that was just stored."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.store import records
from pipeline.store.open import open_objects
from tests.images import ENCODED, SMALL, make_folder, prepare_inline
from workflows.dashboard import preview
from workflows.dashboard.preview import MAX_THUMBNAIL_PIXELS, ShardPreview
from workflows.reports.encoded_images import EncodedImages


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    source = make_folder(folder / "images", 6, bad=2)
    prepare_inline(source, str(folder / "store"), encoded=ENCODED, **SMALL)
    return folder / "store"


@pytest.mark.parametrize("array", ["8", *(name.replace(":", "") for name in ENCODED)])
def test_thumbnails_are_the_readable_rows_of_any_array(store: Path, array: str) -> None:
    """The second shard begins with row 4; what is quarantined is listed, not shown."""
    objects = open_objects(str(store))
    preview = ShardPreview(objects, records.load_plan(objects, "train"), array)
    rows = []
    for shard in range(2):
        shown, hidden = preview.thumbnails(shard), preview.quarantined(shard)
        assert {line["row"] for line in (*shown, *hidden)} <= set(range(4 * shard, 4 * shard + 4))
        for line in shown:
            with Image.open(io.BytesIO(line["jpeg"])) as image:
                assert image.format == "JPEG"
                assert max(image.size) <= MAX_THUMBNAIL_PIXELS
                height, width = image.height, image.width
            if array == "original":
                with Image.open(store.parent / "images" / line["caption"]) as source:
                    assert (height, width) == (source.height, source.width)
        rows += [line["row"] for line in (*shown, *hidden)]
    assert sorted(rows) == [0, 1, 2, 3, 4, 5]


def test_one_decoded_original_is_in_memory(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen of the largest size would take more memory than the command may have."""
    steps = []
    decode, thumbnail = EncodedImages.decode, preview._thumbnail

    def record_decode(images: EncodedImages, data: bytes, side: int) -> Any:
        steps.append("decode")
        return decode(images, data, side)

    def record_thumbnail(pixels: NDArray[np.uint8]) -> bytes:
        steps.append("thumbnail")
        return thumbnail(pixels)

    monkeypatch.setattr(EncodedImages, "decode", record_decode)
    monkeypatch.setattr(preview, "_thumbnail", record_thumbnail)
    plan = records.load_plan(open_objects(str(store)), "train")
    images = ShardPreview(open_objects(str(store)), plan, "original").thumbnails(0)
    assert len(images) > 1
    assert steps == ["decode", "thumbnail"] * len(images)
