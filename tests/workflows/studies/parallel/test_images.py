"""The images that the study decodes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipeline.errors import SourceError, TesseraeError
from tests.images import make_folder
from workflows.studies.parallel.command import parallel
from workflows.studies.parallel.images import LIST_NAME, ImageFiles, draw_images
from workflows.studies.parallel.options import ParallelOptions


def archive_of(folder: Path, file: Path) -> Path:
    """Write the images of a folder into an archive."""
    with tarfile.open(file, "w") as archive:
        archive.add(folder, "train")
    return file


def options_of(source: Path, **choices: object) -> ParallelOptions:
    """Return the options of a study of a source."""
    return ParallelOptions(source=str(source), **choices)  # type: ignore[arg-type]


def open_images(options: ParallelOptions, folder: Path) -> ImageFiles:
    """Draw images of the source, and write the list of their files into a folder."""
    with draw_images(options) as drawn:
        return drawn.write(folder)


@pytest.mark.parametrize("is_archive", [False, True])
def test_images_that_cannot_be_decoded_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_archive: bool
) -> None:
    """One truncated file must not end a study of thousands, and a line counts them."""
    source = make_folder(tmp_path / "source", 20, bad=3)
    if is_archive:
        source = archive_of(source, tmp_path / "source.tar")
    images = open_images(options_of(source), tmp_path)
    assert len(images.paths) == 17
    assert "left out, as Pillow cannot decode them: 3 images" in capsys.readouterr().out
    assert images.list_file.read_text().splitlines() == images.paths
    assert images.num_bytes == sum(Path(path).stat().st_size for path in images.paths)
    again = open_images(options_of(source), tmp_path)
    assert again == images


def test_a_source_of_unreadable_images_is_refused(tmp_path: Path) -> None:
    """The sentence names it."""
    source = make_folder(tmp_path / "source", 4, bad=4)
    with pytest.raises(SourceError, match=r"none of 4 images of .*source can be decoded"):
        open_images(options_of(source), tmp_path)


def test_images_of_two_archives_are_kept_apart(tmp_path: Path) -> None:
    """A file with the length of another archive's file is not taken for it."""
    lists = []
    for name, word in (("a", b"first"), ("b", b"other")):
        folder = make_folder(tmp_path / name, 8)
        for file in folder.glob("*/*"):
            renamed = file.rename(file.with_name(f"{name}{file.name}"))
            renamed.write_bytes(renamed.read_bytes() + word)
        archive = archive_of(folder, tmp_path / f"{name}.tar")
        lists.append(open_images(options_of(archive), tmp_path).paths)
    assert {Path(path).read_bytes()[-5:] for path in lists[0]} == {b"first"}
    assert {Path(path).read_bytes()[-5:] for path in lists[1]} == {b"other"}


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """It is refused before environments or images are written into it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    source = make_folder(tmp_path / "source", 8)
    with pytest.raises(TesseraeError, match=r"no folder of this study: it contains .thesis\.tex."):
        parallel(options_of(source, out=out, quick=True))
    assert not (out / ".cache").exists()
    assert not list(out.rglob(LIST_NAME))
