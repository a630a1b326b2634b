"""The photographs of the study: which are chosen, and what is cut out of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SourceError
from tests.workflows.studies.fit.small import NUM_TRAIN, NUM_VAL, small_source
from workflows.studies.fit import photographs
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.photographs import collect, rectangle, uniform


def options(source: Path, **choices: Any) -> FitOptions:
    """Return the options of a study of a source."""
    return FitOptions(source=str(source), **choices)


def members(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the photographs in the archive of a folder, by name."""
    with tarfile.open(folder / photographs.ARCHIVE) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@settings(max_examples=min(40, settings().max_examples))
@given(st.integers(1, 500), st.integers(1, 500), st.text(max_size=20))
def test_a_rectangle_lies_in_the_image_and_is_as_large_as_possible(
    width: int, height: int, key: str
) -> None:
    """It touches two opposite edges, and depends on the key alone."""
    left, top, right, bottom = box = rectangle(width, height, key)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert right - left == width or bottom - top == height
    assert box == rectangle(width, height, key)


def test_ratios_of_cut_squares_are_log_uniform() -> None:
    """Portraits and landscapes are equally frequent, and each third of the range is a third."""
    boxes = np.array([rectangle(600, 600, f"key {number}") for number in range(3_000)])
    ratios = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    assert 0.499 <= ratios.min() < 0.51
    assert 1.96 < ratios.max() <= 2.001
    shares = np.histogram(np.log2(ratios), np.linspace(-1.001, 1.001, 7))[0] / 3_000
    assert shares == pytest.approx(np.full(6, 1 / 6), abs=0.03)
    room = 600 - (boxes[:, 2] - boxes[:, 0])
    places = boxes[room > 100, 0] / room[room > 100]
    assert places.mean() == pytest.approx(0.5, abs=0.03)


def test_draws_are_uniform_and_of_their_purpose() -> None:
    """Another purpose gives another number."""
    values = [uniform(f"{number}", "aspect") for number in range(4_000)]
    assert np.histogram(values, 4, (0, 1))[0] == pytest.approx(np.full(4, 1_000), abs=120)
    assert uniform("key", "left") != uniform("key", "top")
    assert uniform("\udcff", "left") < 1


def test_squares_are_cut_without_a_change_of_pixels(tmp_path: Path) -> None:
    """Each PNG has the pixels of the JPEG inside the rectangle of its key."""
    source = small_source(tmp_path / "source")
    record = collect(options(source), tmp_path)
    assert (record.cut, record.squares) == (True, 1)
    assert (record.num_train, record.num_evaluated) == (2 * NUM_TRAIN, 2 * NUM_VAL)
    assert [wnid for wnid, _ in record.classes] == ["n00000000", "n00000001"]
    files = members(tmp_path)
    assert len(files) == 2 * (NUM_TRAIN + NUM_VAL)
    shapes = set()
    for name, data in files.items():
        split, _, key = name.removesuffix(".png").partition("/")
        original = Image.open(source / split / key).convert("RGB")
        cut = Image.open(io.BytesIO(data))
        expected = original.crop(rectangle(40, 40, key))
        assert np.array_equal(np.asarray(cut), np.asarray(expected))
        shapes.add(cut.size)
    assert len(shapes) > 5


def test_real_rectangles_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """Photographs of 3:2 are no squares; `cut` cuts them nevertheless."""
    source = small_source(tmp_path / "source", width=60, height=40)
    record = collect(options(source), tmp_path)
    assert (record.cut, record.squares) == (False, 0)
    assert members(tmp_path) == {
        str(file.relative_to(source)): file.read_bytes() for file in source.rglob("*.JPEG")
    }
    (tmp_path / "cut").mkdir()
    assert collect(options(source, rectangles="cut"), tmp_path / "cut").cut
    assert all(name.endswith(".png") for name in members(tmp_path / "cut"))


def test_classes_and_images_are_chosen_by_their_keys(tmp_path: Path) -> None:
    """Fewer images are a part of more, and both splits have the same classes."""
    source = small_source(tmp_path / "source", classes=4)
    chosen = []
    for number, choices in enumerate([{"images_per_class": 3}, {"classes": 2}, {}]):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        record = collect(options(source, rectangles="keep", **choices), folder)
        chosen.append(members(folder).keys())
        assert len(record.classes) == choices.get("classes", 4)
    assert [len(names) for names in chosen] == [4 * 6, 2 * (NUM_TRAIN + NUM_VAL), 4 * 13]
    assert chosen[0] < chosen[2]
    assert chosen[1] < chosen[2]
    assert len({name.split("/")[1] for name in chosen[1]}) == 2


def test_validation_divides_the_training_images(tmp_path: Path) -> None:
    """The held-out split is not read: nothing is chosen by it."""
    source = small_source(tmp_path / "source")
    for file in (source / "val").rglob("*.JPEG"):
        file.write_bytes(b"not to be read")
    record = collect(options(source, validation=True, rectangles="keep"), tmp_path)
    assert (record.num_train, record.num_evaluated) == (12, 4)
    keys = [name.partition("/")[2] for name in members(tmp_path)]
    assert len(set(keys)) == len(keys) == 2 * NUM_TRAIN
    assert all("/train" in key for key in keys)


def test_what_is_collected_is_not_collected_again(tmp_path: Path) -> None:
    """The source is not read twice; a command that was killed before copies it again."""
    source = small_source(tmp_path / "source")
    record = collect(options(source), tmp_path)
    files = members(tmp_path)
    (tmp_path / photographs.ARCHIVE).unlink()
    assert collect(options(source), tmp_path) == record
    assert members(tmp_path) == files
    source.rename(tmp_path / "moved")
    assert collect(options(source), tmp_path) == record


def test_a_source_that_is_read_in_one_pass_gives_the_same_photographs(tmp_path: Path) -> None:
    """A compressed tar is copied to a spool, which is removed."""
    source = small_source(tmp_path / "source")
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
        for split in ("train", "val"):
            tar.add(source / split, split)
    for name, path in (("folder", source), ("tar", tmp_path / "images.tar.gz")):
        (tmp_path / name).mkdir()
        collect(options(path), tmp_path / name)
    assert members(tmp_path / "tar") == members(tmp_path / "folder")
    assert not (tmp_path / "tar" / photographs.SPOOL).exists()


def test_sources_without_what_the_study_needs_are_refused(tmp_path: Path) -> None:
    """Held-out images, and two classes; a pretrained network needs a single split alone."""
    source = small_source(tmp_path / "source")
    with pytest.raises(SourceError, match="--held-out is train, which is trained on"):
        photographs.splits_of(options(source, held_out="train"))
    with pytest.raises(SourceError, match=r"--held-out is test: .* has train, val. Pass one"):
        photographs.splits_of(options(source, held_out="test", trunk="model"))
    with pytest.raises(SourceError, match=r"--train-split is half: .* has train, val. Pass one"):
        photographs.splits_of(options(source, train_split="half", validation=True))
    with pytest.raises(SourceError, match="expected val or test to evaluate on"):
        photographs.splits_of(options(source / "train"))
    assert photographs.splits_of(options(source / "train", trunk="model")) == {"val": "train"}
    alone = small_source(tmp_path / "alone", classes=1)
    with pytest.raises(SourceError, match="has 1 labelled classes"):
        collect(options(alone), tmp_path)
