"""Previews show the first readable rows of a shard, whatever array holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from pipeline.store import records
from pipeline.store.open import open_objects
from tests.images import ENCODED, SMALL, make_folder, prepare_inline
from workflows.dashboard import preview
from workflows.dashboard.preview import MAX_THUMBNAIL_PIXELS, ShardPreview

ARRAYS = ("16", "jpeg16@90", "original")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 11 images in three shards, the last two images broken."""
    root = tmp_path_factory.mktemp("preview")
    source = make_folder(root / "images", 11, bad=2)
    prepare_inline(source, str(root / "store"), encoded=ENCODED, **SMALL)
    return root / "store"


def preview_of(store: Path, array: str) -> ShardPreview:
    objects = open_objects(str(store))
    return ShardPreview(objects, records.load_plan(objects, "train"), array)


@pytest.mark.parametrize("shard", range(3))
def test_every_array_shows_the_same_rows(store: Path, shard: int) -> None:
    """Quarantined rows between them are left out."""
    shown = [preview_of(store, array).thumbnails(shard) for array in ARRAYS]
    quarantined = {line["row"] for line in preview_of(store, "16").quarantined(shard)}
    rows = set(preview_of(store, "16").plan.rows(shard)) - quarantined
    for images in shown:
        assert [image["row"] for image in images] == sorted(rows)
        assert [image["caption"] for image in images] == [image["caption"] for image in shown[0]]
        for image in images:
            height, width, _, _ = simplejpeg.decode_jpeg_header(image["jpeg"])
            assert max(height, width) <= MAX_THUMBNAIL_PIXELS


def test_one_decoded_original_is_in_memory(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen originals of the largest size would take more memory than the command may have."""
    steps = []
    decode, thumbnail = preview.decode, preview._thumbnail

    def record_decode(*arguments: Any, **options: Any) -> Any:
        steps.append("decode")
        return decode(*arguments, **options)

    def record_thumbnail(pixels: np.ndarray) -> bytes:
        steps.append("thumbnail")
        return thumbnail(pixels)

    monkeypatch.setattr(preview, "decode", record_decode)
    monkeypatch.setattr(preview, "_thumbnail", record_thumbnail)
    images = preview_of(store, "original").thumbnails(0)
    assert len(images) > 1
    assert steps == ["decode", "thumbnail"] * len(images)
