"""Tests of the engine: its answers against brute force, and what is excluded from them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.neighbours import KINDS
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.workflows.search.conftest import Opener
from tests.workflows.search.toy import CLASSES, SIZE, Toy, colour, make_store, paint, pixels
from workflows.search.engine import Answer, Engine, SearchOptions
from workflows.search.gallery import Gallery
from workflows.search.query import QueryError, parse_query
from workflows.search.query_image import ImagePreprocessor, read_image

Rows = list[tuple[str, int]]


@pytest.fixture(scope="module")
def all_vectors(toy: Toy) -> tuple[Rows, NDArray[np.float64]]:
    """Return the (split, row) of each readable image, and their vectors."""
    positions: Rows = []
    vectors = []
    for split in ("train", "val"):
        rows, images = pixels(toy.store, split)
        positions += [(split, row) for row in rows.tolist()]
        vectors.append(toy.embed_images(images))
    return positions, np.concatenate(vectors).astype(np.float64)


def answer_of(engine: Engine, text: str, **options: Any) -> Answer:
    image_vector = options.pop("image_vector", None)
    query = parse_query(text, has_image=image_vector is not None)
    return engine.search(query, SearchOptions(**options), image_vector=image_vector)


def rows_of(answer: Answer) -> Rows:
    return [(hit.split, hit.row) for hit in answer.images]


def unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def brute_force(
    all_vectors: tuple[Rows, NDArray[np.float64]], query: NDArray[Any], k: int, *exclude: int
) -> tuple[Rows, list[float]]:
    """Return the k nearest images and their scores by comparing all vectors."""
    positions, vectors = all_vectors
    scores = vectors @ unit(query.astype(np.float64))
    scores[list(exclude)] = -2
    best = np.argsort(-scores.astype(np.float32), kind="stable")[:k]
    return [positions[index] for index in best], scores[best].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_words_find_images(toy: Toy, open_run: Opener, all_vectors: Any, kind: str) -> None:
    """The answers are the nearest of both splits, with any kind of index."""
    engine = open_run(toy, kind=kind)
    for text, vector in [
        ("red", colour("red")),
        ("dark blue", colour("dark blue")),
        ("red + blue", unit(colour("red") + colour("blue"))),
        ("yellow - green", unit(colour("yellow") - colour("green"))),
        ("3*red + blue", unit(3 * colour("red") + colour("blue"))),
    ]:
        answer = answer_of(engine, text, k=9)
        expected, scores = brute_force(all_vectors, vector, 9)
        assert rows_of(answer) == expected, text
        np.testing.assert_allclose([hit.score for hit in answer.images], scores, atol=1e-6)
        assert answer.words == ()


def test_an_image_finds_other_images_but_not_itself(engine: Engine, all_vectors: Any) -> None:
    """Images that the query names are excluded."""
    positions, vectors = all_vectors
    for index in (0, 17, 45):
        split, row = positions[index]
        expected, _ = brute_force(all_vectors, vectors[index], 60, index)
        assert rows_of(answer_of(engine, f"#{split}:{row}", k=60)) == expected[:52]
        mine = [at for at in range(39) if at != index]
        near = sorted(mine, key=lambda at, of=vectors[index]: -float(vectors[at] @ of))[:5]
        filtered = rows_of(answer_of(engine, f"#{split}:{row}", k=5, splits=("train",)))
        assert filtered == [positions[at] for at in near]
    (_, first_row), (_, second_row) = positions[3], positions[9]
    both = unit(vectors[3]) + unit(vectors[9])
    expected, _ = brute_force(all_vectors, both, 8, 3, 9)
    assert rows_of(answer_of(engine, f"#{first_row} + #train:{second_row}", k=8)) == expected


def test_an_image_and_a_word_are_combined(engine: Engine, all_vectors: Any) -> None:
    """The query moves from the image in the direction of the word."""
    positions, vectors = all_vectors
    row = positions[5][1]
    vector = unit(vectors[5]) - 0.5 * colour("green").astype(np.float64)
    expected, _ = brute_force(all_vectors, vector, 6, 5)
    assert rows_of(answer_of(engine, f"#{row} - 0.5*green", k=6)) == expected


def test_a_hit_has_its_class_and_key(engine: Engine, store: str) -> None:
    """A hit has label, class, the query of the class and the key of its sample."""
    split = open_split(open_objects(store), "val", [SIZE])
    for hit in answer_of(engine, "green", k=52, splits=("val",)).images:
        assert hit.split == "val"
        assert hit.label == split.labels[hit.row]
        wnid, words = CLASSES[hit.label]
        assert (hit.wnid, hit.words) == (wnid, words)
        assert hit.query == {"nameless": ""}.get(words, words.split(",")[0])
        assert hit.key.startswith(f"{wnid}/{wnid}_1")
        painted = paint(hit.label, int(hit.key.split("_")[1].removesuffix(".png")))
        mean_colour = engine.gallery.rows("val", 16, [hit.row])[0].mean((0, 1))
        np.testing.assert_allclose(mean_colour, np.asarray(painted).mean((0, 1)), atol=3)


def test_filters_restrict_the_answers(engine: Engine, all_vectors: Any) -> None:
    """Answers are restricted by split and by class, by wnid or name."""
    answer = answer_of(engine, "red", k=60, splits=("val",))
    assert {hit.split for hit in answer.images} == {"val"}
    assert len(answer.images) == 14
    for names, labels in [
        (("n00000002",), {2}),
        (("Blue Thing", "green"), {1, 2}),
        (("red, crimson thing",), {0}),
        (("crane",), {4, 5}),
    ]:
        answer = answer_of(engine, "white", k=60, classes=names)
        assert {hit.label for hit in answer.images} == labels
        expected = [hit for hit in answer_of(engine, "white", k=60).images if hit.label in labels]
        assert list(answer.images) == expected
    assert len(answer_of(engine, "red", k=60).images) == len(all_vectors[0]) == 53


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_of_a_filter_are_all_found(toy: Toy, open_run: Opener, kind: str) -> None:
    """Every row of a small filter is an answer, however far it is from the query."""
    engine = open_run(toy, kind=kind)
    answer = answer_of(engine, "white", k=60, classes=("yellow", "n00000005"), splits=("train",))
    labels = {hit.row: hit.label for hit in answer.images}
    assert len(answer.images) == len(labels) == 11
    assert set(labels.values()) == {3, 5}


def test_images_are_answered_in_words(engine: Engine) -> None:
    """Answers are classes and further words, the nearest first."""
    row = next(hit for hit in answer_of(engine, "blue", splits=("train",)).images).row
    words = answer_of(engine, f"#{row}", to="words", k=4).words
    assert [word.words for word in words[:2]] == ["blue, blue thing", "dark blue"]
    assert (words[0].wnid, words[1].wnid) == ("n00000002", "")
    assert (words[0].query, words[1].query) == ("blue", "dark blue")
    vector = engine.embedded["train"].vector(row)
    assert words[0].score == pytest.approx(float(vector @ colour("blue")), abs=1e-6)
    assert [word.score for word in words] == sorted((w.score for w in words), reverse=True)


def test_words_that_share_a_vector_are_one_answer(engine: Engine, toy: Toy) -> None:
    """The answer lists the further names of the vector."""
    words = answer_of(engine, "", to="words", k=20, image_vector=colour("white")).words
    assert words[0].words == "crane"
    assert words[0].also == ("white",)
    assert [word.words for word in words].count("crane") == 1
    names = [word.words for word in words]
    assert len(names) == len(set(names)) == 8
    assert "nameless" not in names


def test_a_word_is_not_an_answer_to_itself(engine: Engine) -> None:
    """Words with its name or its vector are excluded, too."""
    for text in ("blue", "BLUE", "n00000002", "blue + red"):
        names = [word.words for word in answer_of(engine, text, to="words", k=20).words]
        assert not {"blue", "blue, blue thing"} & set(names), text
    names = [word.words for word in answer_of(engine, "white", to="words", k=20).words]
    assert "crane" not in names


def test_a_class_is_not_an_answer_to_one_of_its_names(toy: Toy, open_run: Opener) -> None:
    """The class is excluded although the mean of its names has another vector."""
    changed = Toy(toy.store)
    changed.words["crimson thing"] = colour("red") + 0.1 * colour("blue")
    engine = open_run(changed)
    names = [word.words for word in answer_of(engine, "Crimson thing", to="words", k=20).words]
    assert "red, crimson thing" not in names
    assert "red" in names


def test_both_kinds_of_answers_come_at_once(engine: Engine) -> None:
    """Images and words equal those of two separate searches."""
    both = answer_of(engine, "red ~ blue", to="both", k=5)
    assert both.images == answer_of(engine, "red ~ blue", k=5).images
    assert both.words == answer_of(engine, "red ~ blue", to="words", k=5).words
    assert both.query == "red ~ blue"


def test_mirrored_copies_count_once(toy: Toy, open_run: Opener, all_vectors: Any) -> None:
    """The better of both copies counts; the copy of a query image is excluded."""
    twin = Toy(toy.store)
    twin.mirrored = True
    engine = open_run(twin)
    actual = rows_of(answer_of(engine, "green", k=60))
    assert len(actual) == len(set(actual)) == 53
    positions, vectors = all_vectors
    copies = np.concatenate(
        [twin.embed_images(pixels(toy.store, split)[1][:, :, ::-1]) for split in ("train", "val")]
    ).astype(np.float64)
    vector = unit(colour("green").astype(np.float64))
    scores = np.maximum(vectors @ vector, copies @ vector)
    expected = [positions[index] for index in np.argsort(-scores.astype(np.float32), kind="stable")]
    assert actual == expected
    split, row = positions[8]
    assert (split, row) not in rows_of(answer_of(engine, f"#{split}:{row}", k=60))
    labels = {hit.label for hit in answer_of(engine, "green", k=60, classes=("yellow",)).images}
    assert labels == {3}


def test_csls_reranks_images(engine: Engine, toy: Toy, all_vectors: Any) -> None:
    """Scores are 2 cos - r(query) - r(image), over both splits as over one."""
    positions, vectors = all_vectors
    references = unit_rows(engine.words.sample(2000).astype(np.float64))
    means = top(vectors @ references.T, 10).mean(1)
    query = unit(colour("blue").astype(np.float64))
    cosines = vectors @ query
    scores = 2 * cosines - np.sort(cosines)[-10:].mean() - means
    best = np.argsort(-scores)[:12]
    answer = answer_of(engine, "blue", k=12, csls=True)
    assert rows_of(answer) == [positions[index] for index in best]
    np.testing.assert_allclose([hit.score for hit in answer.images], scores[best], atol=1e-5)
    assert rows_of(answer) != rows_of(answer_of(engine, "blue", k=12))


def test_csls_reranks_words(engine: Engine, all_vectors: Any) -> None:
    """Scores of words are lowered by their mean similarity to images."""
    engine.measure_hubs()
    _, vectors = all_vectors
    named = [(name, colour(name).astype(np.float64)) for name in ("red", "green", "dark blue")]
    word_vectors = unit_rows(engine.words.sample(2000).astype(np.float64))
    answer = answer_of(engine, "", to="words", k=20, csls=True, image_vector=colour("black"))
    scores = {word.words.split(",")[0]: word.score for word in answer.words}
    query = unit(colour("black").astype(np.float64))
    shift = np.sort(word_vectors @ query)[-10:].mean()
    for name, vector in named:
        mean = top((vectors @ vector)[None], 10).mean()
        assert scores[name] == pytest.approx(2 * vector @ query - shift - mean, abs=1e-5)


def unit_rows(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def top(scores: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.sort(scores, axis=1)[:, -count:]


def test_a_source_file_finds_its_own_row(engine: Engine, store: str, tmp_path: Path) -> None:
    """A prepared file has the pixels of its row and finds it with score 1."""
    hit = answer_of(engine, "yellow").images[3]
    source = Path(store).parent / hit.split / hit.key
    preprocessor = ImagePreprocessor(engine.gallery.recipe, SIZE)
    try:
        pixels = preprocessor.preprocess(read_image(str(source)))
    finally:
        preprocessor.close()
    np.testing.assert_array_equal(pixels, engine.gallery.rows(hit.split, SIZE, [hit.row])[0])
    nearest = answer_of(engine, "", k=3, image_vector=engine.embed(pixels)).images[0]
    assert (nearest.split, nearest.row) == (hit.split, hit.row)
    assert nearest.score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("fit", ["pad", "squish"])
def test_the_transform_is_that_of_the_store(tmp_path: Path, open_run: Opener, fit: str) -> None:
    """The fit and the filter of the recipe are applied."""
    from PIL import Image

    from tests.images import prepare_inline

    folder = tmp_path / "images" / "n00000000"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(4):
        pixels = rng.integers(0, 256, (30 + 9 * index, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    choices = {"sizes": (SIZE,), "fit": fit, "filter": "box", "shard_rows": 4, "chunk_rows": 2}
    prepare_inline(tmp_path / "images", str(tmp_path / "store"), **choices)
    engine = open_run(Toy(str(tmp_path / "store")), tmp_path / "run")
    preprocessor = ImagePreprocessor(engine.gallery.recipe, SIZE)
    for row in range(4):
        key = engine.gallery.key("train", row)
        prepared = preprocessor.preprocess((tmp_path / "images" / key).read_bytes())
        np.testing.assert_array_equal(prepared, engine.gallery.rows("train", SIZE, [row])[0])
    preprocessor.close()


def test_a_row_of_another_split_is_embedded_on_demand(
    toy: Toy, open_run: Opener, all_vectors: Any
) -> None:
    """An image of a split that is not searched can be a query."""
    engine = open_run(toy, splits=("train",))
    positions, vectors = all_vectors
    index = positions.index(("val", 3))
    expected, _ = brute_force((positions[:39], vectors[:39]), vectors[index], 5)
    assert rows_of(answer_of(engine, "#val:3", k=5)) == expected
    with pytest.raises(QueryError, match="split 'val' is not searched here: expected train"):
        answer_of(engine, "red", splits=("val",))


def test_a_row_without_a_split_is_of_the_first_searched_split(engine: Engine) -> None:
    """The first split of the options gives the row its split."""
    assert rows_of(answer_of(engine, "#3", splits=("val",), k=4)) == rows_of(
        answer_of(engine, "#val:3", splits=("val",), k=4)
    )
    assert rows_of(answer_of(engine, "#3", k=4)) == rows_of(answer_of(engine, "#train:3", k=4))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k": 0}, "k is 0: expected 1 to 1,000"),
        ({"k": 1001}, "k is 1001"),
        ({"to": "sounds"}, "to is 'sounds': expected one of images, words, both"),
        ({"splits": ("test",)}, "split 'test' is not searched here: expected train, val"),
        ({"classes": ("gren",)}, "no class 'gren' in the store: did you mean green?"),
        ({"classes": ("xyzzy",)}, "no class 'xyzzy' in the store."),
    ],
)
def test_invalid_options_are_reported(engine: Engine, options: Any, expected: str) -> None:
    """The sentence names the allowed values."""
    with pytest.raises(QueryError) as error:
        answer_of(engine, "red", **options)
    assert expected in str(error.value)


def test_a_damaged_table_is_named(tmp_path: Path, open_run: Opener) -> None:
    """The table is read on demand, so other splits stay searchable."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    (Path(store) / "samples" / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StoreDamagedError, match=r"samples/train\.parquet cannot be read.*repair"):
        answer_of(engine, "red", splits=("train",))
    assert answer_of(engine, "red", splits=("val",)).images


def test_cached_keys_are_not_read_again(tmp_path: Path, open_run: Opener) -> None:
    """A server reads all keys before its first request."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    engine.gallery.read_keys()
    for table in (Path(store) / "samples").glob("*.parquet"):
        table.write_bytes(b"gone")
    assert all(hit.key for hit in answer_of(engine, "red", k=21).images)


def test_a_store_that_cannot_be_searched_is_reported(
    toy: Toy, open_run: Opener, tmp_path: Path
) -> None:
    """The sentence names what the store lacks."""
    with pytest.raises(StoreError, match="no split 'test': it has 'train', 'val'"):
        open_run(toy, splits=("test",))
    with pytest.raises(StoreError, match="no store at"):
        open_run(Toy(str(tmp_path / "nowhere")))
    with pytest.raises(StoreError, match=r"no finished split of 24 px.*prepare \.\.\. --sizes 24"):
        Gallery(toy.store, 24)


def test_a_split_without_features_is_left_out_with_a_notice(
    toy: Toy, open_run: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explicitly named split without features is an error, and so is no split at all."""
    rows = Toy.embed_split
    without = {"val"}

    def rows_or_error(self: Toy, split: str) -> Any:
        if split in without:
            raise StoreError(f"features x of split {split!r} are not finished.")
        return rows(self, split)

    monkeypatch.setattr(Toy, "embed_split", rows_or_error)
    stream = io.StringIO()
    engine = open_run(toy, stream=stream)
    assert "val is not searched: features x of split 'val' are not finished." in stream.getvalue()
    assert {hit.split for hit in answer_of(engine, "red", k=60).images} == {"train"}
    with pytest.raises(StoreError, match="'val' are not finished"):
        open_run(toy, splits=("train", "val"))
    without.add("train")
    with pytest.raises(StoreError, match="are not finished"):
        open_run(Toy(toy.store, toy.classes[:6]))


def test_the_first_images_are_readable(engine: Engine) -> None:
    """No quarantined row is among the first images."""
    first = engine.first(10)
    assert len({hit.row for hit in first}) == 10
    assert all(engine.embedded["train"].readable[hit.row] for hit in first)


def test_the_example_queries_can_be_searched(engine: Engine) -> None:
    """Each example has images as answers."""
    examples = engine.words.examples()
    assert len(examples) == 3
    for text in examples:
        assert answer_of(engine, text).images


def test_free_text_is_searched_by_its_known_names(engine: Engine) -> None:
    """Unknown words are listed; the known names are excluded from the answers."""
    answer = engine.search(parse_query("a photo of red, green"), SearchOptions(to="both", k=5))
    assert answer.passed_over == ("a", "photo", "of")
    both = engine.search(parse_query("red + green"), SearchOptions(to="both", k=5))
    assert [hit.key for hit in answer.images] == [hit.key for hit in both.images]
    assert {"red", "green"}.isdisjoint(hit.words for hit in answer.words)
    assert both.passed_over == ()


def test_the_listed_names_of_a_class_mean_that_class(engine: Engine) -> None:
    """The full list of names finds the class even if one name has no vector."""
    listed = engine.search(parse_query("red, crimson thing"), SearchOptions(k=5))
    wnid = engine.search(parse_query("n00000000"), SearchOptions(k=5))
    assert listed.images == wnid.images
    assert listed.passed_over == ()


def test_changed_pixels_are_detected(tmp_path: Path, open_run: Opener) -> None:
    """The checksum of each chunk is compared before its pixels are returned."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    assert engine.gallery.rows("val", SIZE, [0]).shape == (1, SIZE, SIZE, 3)
    for file in (Path(store) / "images.zarr" / "train" / str(SIZE)).glob("c.*"):
        data = bytearray(file.read_bytes())
        data[5] ^= 1  # of the first row of the first chunk
        file.write_bytes(data)
    with pytest.raises(StoreDamagedError):
        engine.gallery.rows("train", SIZE, [0])
