"""Stores that a model was not trained on: other sizes, other classes, or none."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StoreError
from pipeline.loader import Loader
from pipeline.loader.crops import Crop
from pipeline.store import arrays
from pipeline.store.open import open_objects
from tests.images import prepare_inline
from tests.workflows.search.conftest import Opener
from tests.workflows.search.toy import CLASSES, PAINT, SIZE, Toy, features, paint
from workflows.search.engine import Engine
from workflows.search.other_store import OtherStoreModel, best_array, vectors_folder_of
from workflows.search.query import QueryError, parse_query


def make_photos(root: Path, count: int = 21, *, first: int = 500) -> Path:
    """Write a flat folder of painted images, whose names have the number of their colour."""
    root.mkdir(parents=True)
    for index in range(count):
        label = index % len(PAINT)
        paint(label, first + index).save(root / f"{label}_{index}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepare a store without classes, of 24 px, a size that the model does not take."""
    root = tmp_path_factory.mktemp("photos")
    store = str(root / "photos")
    prepare_inline(make_photos(root / "source"), store, sizes=(8, 24), shard_rows=16, chunk_rows=4)
    return store


Searcher = Any


@pytest.fixture
def open_other(toy: Toy, open_run: Opener) -> Searcher:
    """Return a function that opens an engine over a store, which the toy was not trained on."""

    def opens(store: str, splits: tuple[str, ...] = (), **choices: Any) -> Engine:
        stream = io.StringIO()
        model: Any = OtherStoreModel(toy, store, splits, stream=stream)
        engine = open_run(model, splits=splits, **choices)
        engine.notices = stream  # type: ignore[attr-defined]
        return engine

    return opens


def test_images_of_another_size_are_resized_for_the_model(
    open_other: Searcher, photos: str
) -> None:
    """Vectors are those of the stored images, resized by the filter of the store."""
    engine = open_other(photos)
    objects = open_objects(photos)
    stored = arrays.read_pixel_rows(objects, "train", 24, 0, 21)
    resized = [
        Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in stored
    ]
    expected = features(np.stack([np.asarray(image) for image in resized]))
    embedded = engine.embedded["train"]
    np.testing.assert_allclose([embedded.vector(row) for row in range(21)], expected, atol=1e-6)
    np.testing.assert_array_equal(
        engine.gallery.inputs("train", [5, 2]), np.stack([resized[5], resized[2]])
    )


def test_a_store_without_classes_is_searched(open_other: Searcher, photos: str) -> None:
    """Images have keys and no class; words are those of the model."""
    engine = open_other(photos)
    answer = engine.search(parse_query("yellow"))
    assert [hit.key.split("/")[-1][0] for hit in answer.images[:3]] == ["3"] * 3
    assert {(hit.label, hit.wnid, hit.words, hit.query) for hit in answer.images} == {
        (-1, "", "", "")
    }
    first = answer.images[0]
    again = engine.search(parse_query(f"#train:{first.row}")).images
    assert first.row not in [hit.row for hit in again]
    assert again[0].key.split("/")[-1][0] == "3"


def test_classes_of_two_stores_are_matched_by_wnid(
    toy: Toy, open_other: Searcher, tmp_path: Path
) -> None:
    """Labels of another store have another order, and classes that the model does not know."""
    for wnid, label in (("n00000003", 3), ("n00000001", 1), ("n99999999", 0), ("a00000000", 2)):
        for index in range(3):
            file = tmp_path / "source" / wnid / f"{wnid}_{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            paint(label, 900 + index).save(file)
    store = str(tmp_path / "store")
    prepare_inline(tmp_path / "source", store, sizes=(SIZE,))
    engine = open_other(store)
    hits = engine.search(parse_query("yellow")).images
    assert {(hit.wnid, hit.words) for hit in hits[:3]} == {("n00000003", CLASSES[3][1])}
    assert hits[0].label != 3
    options = engine_options(classes=("n99999999",))
    assert {hit.key.split("/")[0] for hit in engine.search(parse_query("red"), options).images} == {
        "n99999999"
    }
    unknown = engine.search(parse_query("red")).images[0]
    assert (unknown.wnid, unknown.words, unknown.query) == ("n99999999", "n99999999", "")
    with pytest.raises(QueryError, match="no class 'crane' in the store"):
        engine.search(parse_query("red"), engine_options(classes=("crane",)))


def engine_options(**choices: Any) -> Any:
    from workflows.search.engine import SearchOptions

    return SearchOptions(**choices)


def test_an_image_file_is_prepared_as_the_other_store(
    open_other: Searcher, photos: str, tmp_path: Path
) -> None:
    """A file that is in the store finds itself first."""
    engine = open_other(photos)
    with closing(engine.open_preprocessor()) as preprocessor:
        square = preprocessor.preprocess((Path(photos).parent / "source" / "3_10.png").read_bytes())
    assert square.shape == (SIZE, SIZE, 3)
    vector = engine.embed(square)
    answer = engine.search(parse_query("@", has_image=True), image_vector=vector)
    assert answer.images[0].key == "-/3_10.png"
    assert answer.images[0].score > 0.999


def test_encoded_rows_are_decoded_at_the_size_of_the_model(
    open_other: Searcher, tmp_path: Path
) -> None:
    """A store of encoded rows alone is searched, too."""
    store = str(tmp_path / "store")
    prepare_inline(make_photos(tmp_path / "source"), store, sizes=(), encoded=("jpeg:32@95",))
    engine = open_other(store)
    answer = engine.search(parse_query("blue"))
    assert [hit.key.split("/")[-1][0] for hit in answer.images[:3]] == ["2"] * 3
    row = answer.images[0].row
    (vector,) = features(engine.gallery.inputs("train", [row]))
    np.testing.assert_allclose(engine.embedded["train"].vector(row), vector, atol=1e-6)


def test_small_images_are_enlarged_with_a_notice(open_other: Searcher, tmp_path: Path) -> None:
    """The notice names both sizes, when the images are embedded and not again."""
    store = str(tmp_path / "store")
    prepare_inline(make_photos(tmp_path / "source"), store, sizes=(8,))
    assert "the images of 8 px are enlarged to 16 px" in open_other(store).notices.getvalue()
    assert open_other(store).notices.getvalue() == ""


def test_splits_without_common_images(open_other: Searcher, tmp_path: Path) -> None:
    """One is left out with a notice; the other is searched if it is named."""
    source, store = make_photos(tmp_path / "source"), str(tmp_path / "store")
    prepare_inline(source, store, sizes=(8,), split="small", run="small-inline")
    prepare_inline(source, store, sizes=(24,), split="large", run="large-inline")
    engine = open_other(store)
    assert list(engine.embedded) == ["large"]
    assert "small is not searched, as it has no images 24" in engine.notices.getvalue()
    assert list(open_other(store, ("small",)).embedded) == ["small"]
    with pytest.raises(StoreError, match=r"no images in common \(small has 8; large has 24\)"):
        open_other(store, ("small", "large"))


def test_vectors_belong_to_a_store_and_its_images(
    toy: Toy, open_other: Searcher, photos: str, tmp_path: Path
) -> None:
    """They are reused; images of another size, or another store of the name, have others."""
    open_other(photos)
    before = toy.embedded
    folder = tmp_path / vectors_folder_of(photos)
    assert (folder / "train" / "exact").is_dir()
    assert not (tmp_path / "search").exists()
    stamp = (folder / "train" / "exact" / "index.json").stat()
    open_other(photos)
    assert (folder / "train" / "exact" / "index.json").stat() == stamp
    assert toy.embedded == before
    assert vectors_folder_of(f"{photos}/") == vectors_folder_of(photos)
    assert vectors_folder_of("/a/photos") != vectors_folder_of("/b/photos")
    assert vectors_folder_of("/a/photos").startswith("search-photos-")
    other: Any = OtherStoreModel(toy, photos)
    assert other.digest != toy.digest
    other.stored_size = 8
    del other.image_digest
    assert other.digest != OtherStoreModel(toy, photos).digest


@pytest.mark.parametrize(
    ("arrays_of_store", "size", "encoded", "share", "expected"),
    [
        ({"72", "224", "288"}, 224, None, 1.0, "224"),
        ({"72", "288", "512"}, 224, None, 1.0, "288"),
        ({"72", "96"}, 224, None, 1.0, "96"),
        ({"72", "jpeg256@90"}, 224, None, 1.0, "jpeg256@90"),
        ({"256", "jpeg256@90"}, 224, None, 1.0, "256"),
        ({"256", "jpeg256@90"}, 224, "jpeg512@90", 1.0, "jpeg256@90"),
        ({"224", "288", "jpeg128@90"}, 224, "jpeg256@90", 0.875, "288"),
        ({"224", "jpeg512@90", "jpeg256@90"}, 224, "jpeg256@90", 0.875, "jpeg256@90"),
        ({"224", "original"}, 288, None, 1.0, "original"),
        ({"jpeg256@90", "jpeg512@90"}, 224, "jpeg512@90", 0.875, "jpeg512@90"),
        ({"72", "96", "288"}, 72, None, 1.0, "72"),
    ],
)
def test_the_images_that_suit_a_model_best(
    arrays_of_store: set[str], size: int, encoded: str | None, share: float, expected: str
) -> None:
    """Its own come first, then the smallest that are large enough, then the largest."""
    assert best_array(arrays_of_store, size, encoded, share) == expected


def test_no_store_and_no_finished_split_are_one_line_errors(toy: Toy, tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(StoreError, match="no store at"):
        OtherStoreModel(toy, str(tmp_path / "nothing"))
    store = str(tmp_path / "store")
    prepare_inline(make_photos(tmp_path / "source"), store, sizes=(8,))
    (tmp_path / "store" / "splits" / "train.done.json").unlink()
    with pytest.raises(StoreError, match="no finished split with images"):
        OtherStoreModel(toy, store)
    with pytest.raises(StoreError, match=r"split 'val' of .* is not finished"):
        OtherStoreModel(toy, store, ("val",))


class CroppingToy(Toy):
    """A toy that was trained on the centre of encoded rows."""

    encoded = "jpeg64@95"
    crop_share = 0.5


def cropped_engine(open_run: Opener, store: str) -> Engine:
    """Return an engine over a store for a model that takes crops."""
    model: Any = OtherStoreModel(CroppingToy(store), store)
    return open_run(model)


def test_the_centre_of_squares_is_taken_if_the_model_takes_crops(
    open_run: Opener, tmp_path: Path
) -> None:
    """So it is of stored images, of one row and of an image file."""
    store = str(tmp_path / "store")
    source = make_photos(tmp_path / "source")
    prepare_inline(source, store, sizes=(2 * SIZE,))
    engine = cropped_engine(open_run, store)
    stored = arrays.read_pixel_rows(open_objects(store), "train", 2 * SIZE, 0, 21)
    centre = slice(SIZE // 2, SIZE // 2 + SIZE)
    expected = features(np.ascontiguousarray(stored[:, centre, centre]))
    embedded = engine.embedded["train"]
    np.testing.assert_allclose([embedded.vector(row) for row in range(21)], expected, atol=1e-6)
    (vector,) = features(engine.gallery.inputs("train", [4]))
    np.testing.assert_allclose(vector, expected[4], atol=1e-6)
    row = next(row for row in range(21) if engine.gallery.key("train", row) == "-/3_10.png")
    with closing(engine.open_preprocessor()) as preprocessor:
        square = preprocessor.preprocess((source / "3_10.png").read_bytes())
    np.testing.assert_array_equal(square, stored[row, centre, centre])


def test_the_centre_of_encoded_rows_is_taken_if_the_model_takes_crops(
    open_run: Opener, tmp_path: Path
) -> None:
    """The rows that the model was trained on are preferred to squares and to smaller rows."""
    store = str(tmp_path / "store")
    source = make_photos(tmp_path / "source")
    prepare_inline(source, store, sizes=(SIZE,), encoded=("jpeg:64@95", "jpeg:40@95"))
    engine = cropped_engine(open_run, store)
    assert engine.model.encoded == "jpeg64@95"
    (batch,) = Loader(
        store, size=SIZE, encoded="jpeg:64@95", crop=Crop(share=0.5), batch_size=21,
        order="sequential", drop_last=False, framework="numpy", rank=0, world=1,
    )  # fmt: skip
    expected = features(np.asarray(batch.images))
    embedded = engine.embedded["train"]
    np.testing.assert_allclose([embedded.vector(row) for row in range(21)], expected, atol=1e-6)


def test_a_crop_that_is_smaller_than_the_input_is_enlarged_with_a_notice(
    open_run: Opener, tmp_path: Path
) -> None:
    """Half of 24 px is less than the 16 px that the model takes."""
    store = str(tmp_path / "store")
    prepare_inline(make_photos(tmp_path / "source"), store, sizes=(24,))
    stream = io.StringIO()
    model: Any = OtherStoreModel(CroppingToy(store), store, stream=stream)
    open_run(model)
    assert "the images of 24 px are enlarged to 16 px" in stream.getvalue()


def test_the_filter_of_the_store_resizes(toy: Toy, open_other: Searcher, tmp_path: Path) -> None:
    """Another filter gives other vectors, under another identity."""
    source, store = make_photos(tmp_path / "source"), str(tmp_path / "store")
    prepare_inline(source, store, sizes=(24,), filter="box")
    engine = open_other(store)
    stored = arrays.read_pixel_rows(open_objects(store), "train", 24, 0, 21)
    box = Image.Resampling.BOX
    resized = [np.asarray(Image.fromarray(im).resize((SIZE, SIZE), box)) for im in stored]
    embedded = engine.embedded["train"]
    expected = features(np.stack(resized))
    np.testing.assert_allclose([embedded.vector(row) for row in range(21)], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["digest", "filter", "crop_share", "array"])
def test_the_identity_of_vectors_has_all_that_decides_them(
    toy: Toy, photos: str, tmp_path: Path, name: str
) -> None:
    """Vectors of another model, filter, crop or array are never taken for those of this one."""
    changed: Any = Toy(photos)
    store = photos
    if name == "digest":
        changed.mirrored = True
    elif name == "crop_share":
        changed.crop_share = 0.9
    elif name == "filter":
        store = str(tmp_path / "store")
        prepare_inline(make_photos(tmp_path / "source"), store, sizes=(8, 24), filter="box")
    model: Any = OtherStoreModel(changed, store)
    if name == "array":
        model.stored_size = 8
    assert model.digest != OtherStoreModel(toy, photos).digest
    assert OtherStoreModel(Toy(photos), photos).digest == OtherStoreModel(toy, photos).digest
