"""Answers in every direction, against brute force; and who is never among them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.neighbours import KINDS
from pipeline.store.objects import open_objects
from pipeline.store.split import open_split
from tests.workflows.search.conftest import Opener
from tests.workflows.search.toy import CLASSES, SIZE, Toy, colour, make_store, paint, pixels
from workflows.search.engine import Answer, Engine, SearchOptions
from workflows.search.gallery import Gallery, ImagePreprocessor, read_image
from workflows.search.query import QueryError, parse

Places = list[tuple[str, int]]


@pytest.fixture(scope="module")
def everything(toy: Toy) -> tuple[Places, NDArray[np.float64]]:
    """Each readable picture of the store and its vector, by split and row."""
    places: Places = []
    vectors = []
    for split in ("train", "val"):
        rows, images = pixels(toy.store, split)
        places += [(split, row) for row in rows.tolist()]
        vectors.append(toy.images(images))
    return places, np.concatenate(vectors).astype(np.float64)


def asked(engine: Engine, text: str, **options: Any) -> Answer:
    image_vector = options.pop("image_vector", None)
    query = parse(text, has_image=image_vector is not None)
    return engine.search(query, SearchOptions(**options), image_vector=image_vector)


def places(answer: Answer) -> Places:
    return [(hit.split, hit.row) for hit in answer.images]


def unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def brute_force(
    everything: tuple[Places, NDArray[np.float64]], query: NDArray[Any], k: int, *but: int
) -> tuple[Places, list[float]]:
    """The k nearest by looking at all."""
    there, vectors = everything
    scores = vectors @ unit(query.astype(np.float64))
    scores[list(but)] = -2
    best = np.argsort(-scores.astype(np.float32), kind="stable")[:k]
    return [there[place] for place in best], scores[best].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_words_find_pictures(toy: Toy, open_run: Opener, everything: Any, kind: str) -> None:
    """The nearest of both splits, whatever the index."""
    engine = open_run(toy, kind=kind)
    for text, vector in [
        ("red", colour("red")),
        ("dark blue", colour("dark blue")),
        ("red + blue", unit(colour("red") + colour("blue"))),
        ("yellow - green", unit(colour("yellow") - colour("green"))),
        ("3*red + blue", unit(3 * colour("red") + colour("blue"))),
    ]:
        answer = asked(engine, text, k=9)
        expected, scores = brute_force(everything, vector, 9)
        assert places(answer) == expected, text
        np.testing.assert_allclose([hit.score for hit in answer.images], scores, atol=1e-6)
        assert answer.words == ()


def test_a_picture_finds_others_and_not_itself(engine: Engine, everything: Any) -> None:
    """Nor any other that the query names."""
    there, vectors = everything
    for place in (0, 17, 45):
        split, row = there[place]
        expected, _ = brute_force(everything, vectors[place], 60, place)
        assert places(asked(engine, f"#{split}:{row}", k=60)) == expected[:52]
        mine = [at for at in range(39) if at != place]
        near = sorted(mine, key=lambda at, of=vectors[place]: -float(vectors[at] @ of))[:5]
        some = places(asked(engine, f"#{split}:{row}", k=5, splits=("train",)))
        assert some == [there[at] for at in near]
    (_, one), (_, two) = there[3], there[9]
    both = unit(vectors[3]) + unit(vectors[9])
    expected, _ = brute_force(everything, both, 8, 3, 9)
    assert places(asked(engine, f"#{one} + #train:{two}", k=8)) == expected


def test_a_picture_and_a_word_go_together(engine: Engine, everything: Any) -> None:
    """A step from the picture into the word's direction."""
    there, vectors = everything
    row = there[5][1]
    vector = unit(vectors[5]) - 0.5 * colour("green").astype(np.float64)
    expected, _ = brute_force(everything, vector, 6, 5)
    assert places(asked(engine, f"#{row} - 0.5*green", k=6)) == expected


def test_a_hit_says_what_it_is(engine: Engine, store: str) -> None:
    """Label, class, what to type for the class, and the key that leads to its file."""
    split = open_split(open_objects(store), "val", [SIZE])
    for hit in asked(engine, "green", k=52, splits=("val",)).images:
        assert hit.split == "val"
        assert hit.label == split.labels[hit.row]
        wnid, words = CLASSES[hit.label]
        assert (hit.wnid, hit.words) == (wnid, words)
        assert hit.query == {"nameless": ""}.get(words, words.split(",")[0])
        assert hit.key.startswith(f"{wnid}/{wnid}_1")
        made = paint(hit.label, int(hit.key.split("_")[1].removesuffix(".png")))
        shown = engine.gallery.rows("val", 16, [hit.row])[0].mean((0, 1))
        np.testing.assert_allclose(shown, np.asarray(made).mean((0, 1)), atol=3)


def test_only_what_is_asked_for_is_answered(engine: Engine, everything: Any) -> None:
    """Of some splits, of some classes, by wnid or by any of their names."""
    answer = asked(engine, "red", k=60, splits=("val",))
    assert {hit.split for hit in answer.images} == {"val"}
    assert len(answer.images) == 14
    for names, labels in [
        (("n00000002",), {2}),
        (("Blue Thing", "green"), {1, 2}),
        (("red, crimson thing",), {0}),
        (("crane",), {4, 5}),
    ]:
        answer = asked(engine, "white", k=60, classes=names)
        assert {hit.label for hit in answer.images} == labels
        whole = [hit for hit in asked(engine, "white", k=60).images if hit.label in labels]
        assert list(answer.images) == whole
    assert len(asked(engine, "red", k=60).images) == len(everything[0]) == 53


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_of_a_filter_are_all_found(toy: Toy, open_run: Opener, kind: str) -> None:
    """However far they are from the query."""
    engine = open_run(toy, kind=kind)
    answer = asked(engine, "white", k=60, classes=("yellow", "n00000005"), splits=("train",))
    found = {hit.row: hit.label for hit in answer.images}
    assert len(answer.images) == len(found) == 11
    assert set(found.values()) == {3, 5}


def test_pictures_are_answered_in_words(engine: Engine) -> None:
    """By classes and whatever else is known, the nearest first."""
    row = next(hit for hit in asked(engine, "blue", splits=("train",)).images).row
    words = asked(engine, f"#{row}", to="words", k=4).words
    assert [word.words for word in words[:2]] == ["blue, blue thing", "dark blue"]
    assert (words[0].wnid, words[1].wnid) == ("n00000002", "")
    assert (words[0].query, words[1].query) == ("blue", "dark blue")
    vector = engine.embedded["train"].vector(row)
    assert words[0].score == pytest.approx(float(vector @ colour("blue")), abs=1e-6)
    assert [word.score for word in words] == sorted((w.score for w in words), reverse=True)


def test_homonyms_that_share_a_vector_are_shown_once(engine: Engine, toy: Toy) -> None:
    """With the names of the others: no answer can tell them apart."""
    words = asked(engine, "", to="words", k=20, image_vector=colour("white")).words
    assert words[0].words == "crane"
    assert words[0].also == ("white",)
    assert [word.words for word in words].count("crane") == 1
    shown = [word.words for word in words]
    assert len(shown) == len(set(shown)) == 8
    assert "nameless" not in shown


def test_a_word_is_no_answer_to_itself(engine: Engine) -> None:
    """Nor is what has its name, or its vector."""
    for text in ("blue", "BLUE", "n00000002", "blue + red"):
        shown = [word.words for word in asked(engine, text, to="words", k=20).words]
        assert not {"blue", "blue, blue thing"} & set(shown), text
    shown = [word.words for word in asked(engine, "white", to="words", k=20).words]
    assert "crane" not in shown


def test_a_class_is_no_answer_to_one_of_its_names(toy: Toy, open_run: Opener) -> None:
    """Though that has another vector: the class has the mean of its names'."""
    other = Toy(toy.store)
    other.words["crimson thing"] = colour("red") + 0.1 * colour("blue")
    engine = open_run(other)
    shown = [word.words for word in asked(engine, "Crimson thing", to="words", k=20).words]
    assert "red, crimson thing" not in shown
    assert "red" in shown


def test_both_kinds_of_answers_come_at_once(engine: Engine) -> None:
    """As they would one by one."""
    both = asked(engine, "red ~ blue", to="both", k=5)
    assert both.images == asked(engine, "red ~ blue", k=5).images
    assert both.words == asked(engine, "red ~ blue", to="words", k=5).words
    assert both.query == "red ~ blue"


def test_mirrored_copies_count_once(toy: Toy, open_run: Opener, everything: Any) -> None:
    """By the better of the two; a query's own copy is no answer either."""
    twin = Toy(toy.store)
    twin.mirrored = True
    engine = open_run(twin)
    found = places(asked(engine, "green", k=60))
    assert len(found) == len(set(found)) == 53
    there, vectors = everything
    copies = np.concatenate(
        [twin.images(pixels(toy.store, split)[1][:, :, ::-1]) for split in ("train", "val")]
    ).astype(np.float64)
    vector = unit(colour("green").astype(np.float64))
    scores = np.maximum(vectors @ vector, copies @ vector)
    expected = [there[place] for place in np.argsort(-scores.astype(np.float32), kind="stable")]
    assert found == expected
    split, row = there[8]
    assert (split, row) not in places(asked(engine, f"#{split}:{row}", k=60))
    labels = {hit.label for hit in asked(engine, "green", k=60, classes=("yellow",)).images}
    assert labels == {3}


def test_csls_makes_up_for_what_is_near_to_everything(
    engine: Engine, toy: Toy, everything: Any
) -> None:
    """2 cos - r(query) - r(picture), over both splits as over one."""
    there, vectors = everything
    references = unit_rows(engine.words.sample(2000).astype(np.float64))
    means = top(vectors @ references.T, 10).mean(1)
    query = unit(colour("blue").astype(np.float64))
    cosines = vectors @ query
    scores = 2 * cosines - np.sort(cosines)[-10:].mean() - means
    best = np.argsort(-scores)[:12]
    answer = asked(engine, "blue", k=12, csls=True)
    assert places(answer) == [there[place] for place in best]
    np.testing.assert_allclose([hit.score for hit in answer.images], scores[best], atol=1e-5)
    assert places(answer) != places(asked(engine, "blue", k=12))


def test_csls_of_words(engine: Engine, everything: Any) -> None:
    """Against words that are near to every picture."""
    engine.measure_hubs()
    _, vectors = everything
    named = [(name, colour(name).astype(np.float64)) for name in ("red", "green", "dark blue")]
    known = unit_rows(engine.words.sample(2000).astype(np.float64))
    answer = asked(engine, "", to="words", k=20, csls=True, image_vector=colour("black"))
    found = {word.words.split(",")[0]: word.score for word in answer.words}
    query = unit(colour("black").astype(np.float64))
    shift = np.sort(known @ query)[-10:].mean()
    for name, vector in named:
        mean = top((vectors @ vector)[None], 10).mean()
        assert found[name] == pytest.approx(2 * vector @ query - shift - mean, abs=1e-5)


def unit_rows(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def top(scores: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.sort(scores, axis=1)[:, -count:]


def test_the_same_picture_from_a_file_is_itself(engine: Engine, store: str, tmp_path: Path) -> None:
    """Byte for byte the file that was prepared: the very transform of the store, score 1."""
    hit = asked(engine, "yellow").images[3]
    source = Path(store).parent / hit.split / hit.key
    preprocessor = ImagePreprocessor(engine.gallery.recipe, SIZE)
    try:
        preprocess = preprocessor.preprocess(read_image(str(source)))
    finally:
        preprocessor.close()
    np.testing.assert_array_equal(preprocess, engine.gallery.rows(hit.split, SIZE, [hit.row])[0])
    found = asked(engine, "", k=3, image_vector=engine.embed(preprocess)).images[0]
    assert (found.split, found.row) == (hit.split, hit.row)
    assert found.score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("fit", ["pad", "squish"])
def test_the_transform_is_that_of_the_store(tmp_path: Path, open_run: Opener, fit: str) -> None:
    """Whatever its recipe says: fit, filter."""
    from PIL import Image

    from tests.pictures import prepare_inline

    folder = tmp_path / "images" / "n00000000"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place in range(4):
        pixels = rng.integers(0, 256, (30 + 9 * place, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    choices = {"sizes": (SIZE,), "fit": fit, "filter": "box", "shard_rows": 4, "chunk_rows": 2}
    prepare_inline(tmp_path / "images", str(tmp_path / "store"), **choices)
    engine = open_run(Toy(str(tmp_path / "store")), tmp_path / "run")
    preprocessor = ImagePreprocessor(engine.gallery.recipe, SIZE)
    for row in range(4):
        key = engine.gallery.key("train", row)
        preprocess = preprocessor.preprocess((tmp_path / "images" / key).read_bytes())
        np.testing.assert_array_equal(preprocess, engine.gallery.rows("train", SIZE, [row])[0])
    preprocessor.close()


def test_a_row_of_a_split_that_is_not_searched_is_embedded_when_it_is_named(
    toy: Toy, open_run: Opener, everything: Any
) -> None:
    """It is a picture of the store as well."""
    engine = open_run(toy, splits=("train",))
    there, vectors = everything
    place = there.index(("val", 3))
    expected, _ = brute_force((there[:39], vectors[:39]), vectors[place], 5)
    assert places(asked(engine, "#val:3", k=5)) == expected
    with pytest.raises(QueryError, match="split 'val' is not searched here: expected train"):
        asked(engine, "red", splits=("val",))


def test_a_row_without_a_split_is_of_the_first_that_is_searched(engine: Engine) -> None:
    """Which is said once, not guessed."""
    assert places(asked(engine, "#3", splits=("val",), k=4)) == places(
        asked(engine, "#val:3", splits=("val",), k=4)
    )
    assert places(asked(engine, "#3", k=4)) == places(asked(engine, "#train:3", k=4))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"k": 0}, "k is 0: expected 1 to 1,000"),
        ({"k": 1001}, "k is 1001"),
        ({"to": "sounds"}, "to is 'sounds': expected one of images, words, both"),
        ({"splits": ("test",)}, "split 'test' is not searched here: expected train, val"),
        ({"classes": ("gren",)}, "no class 'gren' in the store: did you mean green?"),
        ({"classes": ("xyzzy",)}, "no class 'xyzzy' in the store."),
    ],
)
def test_what_cannot_be_answered_is_told(engine: Engine, wanted: Any, says: str) -> None:
    """With what can."""
    with pytest.raises(QueryError) as refused:
        asked(engine, "red", **wanted)
    assert says in str(refused.value)


def test_a_table_that_is_damaged_is_named(tmp_path: Path, open_run: Opener) -> None:
    """Keys are looked up when they are wanted: nothing is said before."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    (Path(store) / "samples" / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StoreDamagedError, match=r"samples/train\.parquet cannot be read.*repair"):
        asked(engine, "red", splits=("train",))
    assert asked(engine, "red", splits=("val",)).images


def test_keys_that_were_read_are_not_read_again(tmp_path: Path, open_run: Opener) -> None:
    """Who serves reads them before the first visitor comes."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    engine.gallery.read_keys()
    for table in (Path(store) / "samples").glob("*.parquet"):
        table.write_bytes(b"gone")
    assert all(hit.key for hit in asked(engine, "red", k=21).images)


def test_a_store_that_cannot_be_searched_is_told(
    toy: Toy, open_run: Opener, tmp_path: Path
) -> None:
    """By what is missing of it."""
    with pytest.raises(StoreError, match="no plan for split 'test': it has 'train', 'val'"):
        open_run(toy, splits=("test",))
    with pytest.raises(StoreError, match="no store at"):
        open_run(Toy(str(tmp_path / "nowhere")))
    with pytest.raises(StoreError, match=r"no finished split of 24 px.*prepare --sizes 24"):
        Gallery(toy.store, 24)


def test_a_split_without_features_is_left_out_and_named(
    toy: Toy, open_run: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was asked for, or nothing is left."""
    rows = Toy.rows
    without = {"val"}

    def some(self: Toy, split: str) -> Any:
        if split in without:
            raise StoreError(f"features x of split {split!r} are not finished.")
        return rows(self, split)

    monkeypatch.setattr(Toy, "rows", some)
    said = io.StringIO()
    engine = open_run(toy, stream=said)
    assert "val is not searched: features x of split 'val' are not finished." in said.getvalue()
    assert {hit.split for hit in asked(engine, "red", k=60).images} == {"train"}
    with pytest.raises(StoreError, match="'val' are not finished"):
        open_run(toy, splits=("train", "val"))
    without.add("train")
    with pytest.raises(StoreError, match="are not finished"):
        open_run(Toy(toy.store, toy.classes[:6]))


def test_to_begin_with_there_are_some_pictures(engine: Engine) -> None:
    """None of them from quarantine."""
    first = engine.first(10)
    assert len({hit.row for hit in first}) == 10
    assert all(engine.embedded["train"].readable[hit.row] for hit in first)


def test_what_may_be_typed_is_told_by_example(engine: Engine) -> None:
    """Each example is understood here."""
    examples = engine.words.examples()
    assert len(examples) == 3
    for text in examples:
        assert asked(engine, text).images


def test_free_text_searches_with_what_is_known(engine: Engine) -> None:
    """What is passed over is said; what the text names is no answer in words."""
    answer = engine.search(parse("a photo of red, green"), SearchOptions(to="both", k=5))
    assert answer.passed_over == ("a", "photo", "of")
    both = engine.search(parse("red + green"), SearchOptions(to="both", k=5))
    assert [hit.key for hit in answer.images] == [hit.key for hit in both.images]
    assert {"red", "green"}.isdisjoint(hit.words for hit in answer.words)
    assert both.passed_over == ()


def test_the_names_of_a_class_as_a_table_prints_them_are_that_class(engine: Engine) -> None:
    """Though no vector belongs to one of them."""
    listed = engine.search(parse("red, crimson thing"), SearchOptions(k=5))
    wnid = engine.search(parse("n00000000"), SearchOptions(k=5))
    assert listed.images == wnid.images
    assert listed.passed_over == ()


def test_pixels_that_changed_on_the_disk_are_not_shown(tmp_path: Path, open_run: Opener) -> None:
    """Each chunk is compared with its checksum before anything of it is handed out."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    assert engine.gallery.rows("val", SIZE, [0]).shape == (1, SIZE, SIZE, 3)
    for file in (Path(store) / "images.zarr" / "train" / str(SIZE)).glob("c.*"):
        data = bytearray(file.read_bytes())
        data[5] ^= 1  # of the first row of the first chunk
        file.write_bytes(data)
    with pytest.raises(StoreDamagedError):
        engine.gallery.rows("train", SIZE, [0])
