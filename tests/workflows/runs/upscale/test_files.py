"""Which image becomes which file, and what is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import TesseraeError
from workflows.runs.upscale.files import (
    JPEG,
    PNG,
    UpscaleJob,
    plan_jobs,
    require_writable,
    writes_one_file,
)


def image(file: Path) -> Path:
    """Write a small image, whatever the name says, and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(file, "PNG")
    return file


def planned(out: Path, *images: Path, format: str | None = None) -> dict[str, str]:
    """Return the path below *out* of each image by its name."""
    jobs = plan_jobs(tuple(map(str, images)), out, format)
    return {job.source.name: str(job.target.relative_to(out)) for job in jobs}


def test_a_single_image_becomes_a_file_or_goes_into_a_folder(tmp_path: Path) -> None:
    """The ending of the output decides, unless the output is a folder."""
    source = image(tmp_path / "a.b.jpg")
    for name, format in (("big.png", PNG), ("big.JPG", JPEG), ("big.jpeg", JPEG)):
        out = tmp_path / name
        jobs = plan_jobs((str(source),), out, None)
        assert jobs == [UpscaleJob(source, out, format)]
        assert writes_one_file(jobs, out)
    assert planned(tmp_path / "out", source) == {"a.b.jpg": "a.b.png"}
    assert planned(tmp_path / "v1.0", source, format=JPEG) == {"a.b.jpg": "a.b.jpg"}
    (tmp_path / "odd.png").mkdir()
    assert planned(tmp_path / "odd.png", source) == {"a.b.jpg": "a.b.png"}


def test_images_of_a_folder_keep_their_paths(tmp_path: Path) -> None:
    """By name, without hidden files, files that are no images, and the output itself."""
    folder = tmp_path / "in"
    for name in ("b.jpg", "a/c.webp", "a/b.JPEG", ".hidden.png", ".cache/x.png", "out/b.png"):
        image(folder / name)
    (folder / "notes.txt").write_text("text")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    assert planned(folder / "out", folder) == {
        "b.jpg": "b.png", "broken.jpg": "broken.png", "c.webp": "a/c.png", "b.JPEG": "a/b.png",
    }  # fmt: skip
    more = image(tmp_path / "more.png")
    assert planned(tmp_path / "out", folder / "a", more, format=JPEG) == {
        "b.JPEG": "b.jpg", "c.webp": "c.jpg", "more.png": "more.jpg",
    }  # fmt: skip


def test_two_images_do_not_become_one_file(tmp_path: Path) -> None:
    """Neither does an image replace itself or another one."""
    first, second = image(tmp_path / "in/a.jpg"), image(tmp_path / "in/a.png")
    with pytest.raises(TesseraeError, match=r"a\.jpg and .*a\.png would both become .*out/a\.png"):
        planned(tmp_path / "out", tmp_path / "in")
    with pytest.raises(TesseraeError, match=r"both become"):
        planned(tmp_path / "out", first, first)
    with pytest.raises(TesseraeError, match=r"a\.png would become .*the image .*a\.png"):
        plan_jobs((str(second),), second, None)
    with pytest.raises(TesseraeError, match=r"a\.jpg would become .*the image .*a\.png"):
        planned(tmp_path / "in", first, image(tmp_path / "b/x.jpg"), second)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(TesseraeError, match=r"link, the folder of the images itself"):
        planned(tmp_path / "link", tmp_path / "in")


def test_unsuitable_outputs_and_inputs_are_refused(tmp_path: Path) -> None:
    """Each sentence says what was expected."""
    first, second = image(tmp_path / "a.jpg"), image(tmp_path / "b.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for out, images, format, message in (
        ("big.webp", [first], None, "expected a name that ends in .png or .jpg, or a folder"),
        ("big.png", [first, second], None, "big.png: expected a folder"),
        ("file", [first, second], None, "a file: expected a folder, as there are several images"),
        ("file", [first], None, "a file: expected a new name, or a folder"),
        ("big.png", [first], JPEG, "--format is jpeg: expected a name that ends in .jpg"),
        ("out", [tmp_path / "empty"], None, "empty has no images: expected a folder of JPEG"),
    ):
        with pytest.raises(TesseraeError) as error:
            plan_jobs(tuple(map(str, images)), tmp_path / out, format)
        assert message in str(error.value)
    with pytest.raises(TesseraeError, match="is a URL: expected a file"):
        plan_jobs(("https://a.org/b.jpg",), tmp_path, None)
    with pytest.raises(TesseraeError, match="home folder of no user"):
        plan_jobs(("~nobody-at-all/b.jpg",), tmp_path, None)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """One that is missing is created, with its parents."""
    require_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(TesseraeError, match=r"cannot write to .*file/c: Not a directory\. Choose"):
        require_writable(tmp_path / "file" / "c")
    with pytest.raises(TesseraeError, match=r"cannot write to /proc/.*\."):
        require_writable(Path("/proc/upscaled"))
