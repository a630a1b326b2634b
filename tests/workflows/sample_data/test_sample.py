"""The embedded sample: a small folder in the layout of ImageNet."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import TesseraeError
from pipeline.wordvectors.hierarchy import read_hierarchy
from workflows.sample_data import photographs, sample
from workflows.sample_data.options import SampleOptions
from workflows.sample_data.photographs import CLASSES
from workflows.sample_data.sample import make_sample


@pytest.fixture(name="painted", scope="session")
def _painted(tmp_path_factory):
    """Create a sample of 60 images from the real photographs."""
    pytest.importorskip("skimage", reason="the photographs are in scikit-image's wheel")
    folder = tmp_path_factory.mktemp("sample") / "made"
    return make_sample(folder, 60)


@pytest.fixture(name="drawn")
def _drawn(tmp_path, monkeypatch):
    """Replace the photographs by small noise images, so that a sample takes no time."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for each in CLASSES:
        for photograph in (*each.train, *each.val):
            Image.effect_noise((64, 48), 50).save(folder / photograph.file)
    monkeypatch.setattr(sample, "_folder_of_photographs", lambda: folder)
    monkeypatch.setattr(sample, "version", lambda _: "0.0")
    monkeypatch.setattr(photographs, "SIZES_AND_PERCENTS", ((60, 45, 3), (30, 40, 1)))
    return folder


def files(directory: Path) -> dict[str, bytes]:
    """Return all files of a folder, by relative path."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_the_folder_has_imagenets_layout(painted):
    """Splits, wnids, .JPEG names, and the words of classes are as in Kaggle's ImageNet."""
    root = painted.directory
    names = {p.relative_to(root).as_posix() for p in root.rglob("*.JPEG")}
    mapping = (root / "LOC_synset_mapping.txt").read_text().splitlines()

    assert 60 == len(names) == painted.num_train + painted.num_val
    assert {"LOC_synset_mapping.txt", "is-a.txt", "sample.json", "train", "val"} == {
        p.name for p in root.iterdir()
    }
    hierarchy = read_hierarchy(root / "is-a.txt")
    assert all(each.wnid in hierarchy for each in CLASSES)
    assert sorted(f"{each.wnid} {each.words}" for each in CLASSES) == mapping
    assert "train/n00007846/n00007846_0.JPEG" in names
    assert "val/n00007846/val_00000001.JPEG" in names


def test_the_images_are_photographs(painted):
    """All but the truncated and the empty one can be decoded; sizes and bytes are realistic."""
    odd = {f"train/{key}" for key, kind in painted.odd.items() if kind in ("truncated", "empty")}
    sizes = []
    for path in sorted(painted.directory.rglob("*.JPEG")):
        if path.relative_to(painted.directory).as_posix() not in odd:
            with Image.open(path) as image:
                image.load()
                sizes.append(image.size)

    assert len(sizes) == 58
    assert 20_000 < painted.num_bytes / 60 < 200_000
    assert (500, 375) in sizes


def test_the_same_options_give_the_same_bytes(painted, tmp_path):
    """Pillow and the photographs are the same, too."""
    again = make_sample(tmp_path / "again", 60)

    assert files(painted.directory) == files(again.directory)


def test_an_existing_sample_is_reused(drawn, tmp_path):
    """A second request with the same options writes nothing."""
    first = make_sample(tmp_path / "s", 40, seed=5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    second = make_sample(tmp_path / "s", 40, seed=5)

    assert (first.reused, second.reused) == (False, True)
    assert (first.num_train, first.odd) == (second.num_train, second.odd)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}


@pytest.mark.parametrize("options", [(41, 0, 7), (40, 1, 7), (40, 0, 6)])
def test_a_sample_of_other_options_is_refused(drawn, tmp_path, options):
    """The existing sample is unchanged."""
    make_sample(tmp_path / "s", 40)
    images, seed, num_classes = options
    before = files(tmp_path / "s")

    with pytest.raises(
        TesseraeError, match=r"created with --images 40 --seed 0 --classes 7.*remove"
    ):
        make_sample(tmp_path / "s", images, seed, num_classes=num_classes)
    assert before == files(tmp_path / "s")


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_a_changed_sample_is_refused(drawn, tmp_path, harm):
    """A flipped byte, a missing image and an additional one are detected."""
    make_sample(tmp_path / "s", 40)
    victim = tmp_path / "s/val/n00007846/val_00000001.JPEG"
    if harm == "change":
        victim.write_bytes(victim.read_bytes()[:-1] + b"\x00")
    elif harm == "remove":
        victim.unlink()
    else:
        victim.with_name("x.JPEG").write_bytes(b"x")

    with pytest.raises(TesseraeError, match="a changed one"):
        make_sample(tmp_path / "s", 40)


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"options": 3}'])
def test_a_folder_without_a_valid_sample_record_is_refused(drawn, tmp_path, record):
    """The error asks for a new or empty folder."""
    (tmp_path / "sample.json").write_text(record)

    with pytest.raises(TesseraeError, match=r"expected a new or empty folder"):
        make_sample(tmp_path, 40)


def test_a_file_in_place_of_the_folder_is_refused(drawn, tmp_path):
    """The error is one sentence."""
    (tmp_path / "s").write_text("mine")

    with pytest.raises(TesseraeError, match="is a file: expected a new or empty folder"):
        make_sample(tmp_path / "s", 40)


def test_an_empty_folder_is_filled(drawn, tmp_path):
    """An empty folder may exist beforehand."""
    (tmp_path / "s").mkdir()

    assert not make_sample(tmp_path / "s", 40).reused
    assert make_sample(tmp_path / "s", 40).reused


def test_an_interrupted_sample_leaves_no_files(drawn, tmp_path, monkeypatch):
    """Neither the folder nor temporary files beside it remain."""
    painted, beside = [], []

    def render(picture, photograph):
        if len(painted) == 20:
            beside.extend(p.name for p in tmp_path.iterdir() if p.name != "photographs")
            raise KeyboardInterrupt
        painted.append(picture)
        return b"x"

    monkeypatch.setattr(sample, "render_photograph", render)
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "s", 40)

    assert [name[:3] for name in beside] == [".s-"]  # the same disk: a rename is enough
    assert [p.name for p in tmp_path.iterdir()] == ["photographs"]


def test_an_unwritable_location_is_a_one_line_error(drawn, tmp_path):
    """The error has the folder and the reason."""
    (tmp_path / "file").touch()

    with pytest.raises(TesseraeError, match=r"cannot create the sample at .*File exists.*Pass a"):
        make_sample(tmp_path / "file" / "s", 40)


@pytest.mark.parametrize(("images", "classes"), [(13, 7), (0, 2), (100, 1), (100, 8), (3, 2)])
def test_impossible_numbers_are_refused(tmp_path, images, classes):
    """Each class needs an image in each split."""
    with pytest.raises(ValueError, match=r"--(images|classes) is \d+: expected"):
        make_sample(tmp_path / "s", images, num_classes=classes)


def test_without_scikit_image_the_error_says_what_to_install(tmp_path, monkeypatch):
    """No folder is created."""
    monkeypatch.setattr(sample.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(TesseraeError, match=r"scikit-image is not installed: run `make setup"):
        make_sample(tmp_path / "s", 40)
    assert list(tmp_path.iterdir()) == []


def test_a_scikit_image_without_the_photographs_is_refused(tmp_path, monkeypatch):
    """Another version of scikit-image may contain other photographs."""

    class Spec:
        origin = str(tmp_path / "skimage" / "__init__.py")

    monkeypatch.setattr(sample.importlib.util, "find_spec", lambda name: Spec)
    monkeypatch.setattr(sample, "version", lambda _: "9.9")

    with pytest.raises(TesseraeError, match=r"scikit-image 9\.9 lacks astronaut\.png"):
        make_sample(tmp_path / "s", 40)


def test_the_command_warns_that_results_are_meaningless(drawn, tmp_path, capsys):
    """The output also summarises the contents of the folder."""
    status = sample.run_sample(SampleOptions(directory=tmp_path / "s", images=50, classes=3))
    out = capsys.readouterr().out

    assert status == 0
    assert "40 train and 10 val images of 3 classes" in out
    assert "person, vehicle, eye." in out
    assert "metrics on it mean nothing" in out
    record = json.loads((tmp_path / "s/sample.json").read_text())
    assert "metrics on it mean nothing" in record["notice"]
