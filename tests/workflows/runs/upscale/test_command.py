"""`tesserae upscale`: the files that it writes, and those that it leaves."""

from __future__ import annotations

import errno
import io
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import wait_until
from tests.workflows.runs.upscale.small import PROFILE, noise
from tests.workflows.superres.small import small_run
from workflows.cli import main
from workflows.runs.upscale import command, strips
from workflows.superres import bicubic
from workflows.superres.model import open_upscaler

Upscale = Callable[..., tuple[int, str, str]]
SCALE = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a network that enlarges by 2."""
    folder = tmp_path_factory.mktemp("runs") / "fsrcnn"
    small_run(folder, scale=SCALE)
    return folder


@pytest.fixture
def upscale(run: Path, capsys: pytest.CaptureFixture[str]) -> Upscale:
    """Return a function that runs the command; it returns the status, the output and the errors."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        threads = torch.get_num_threads()
        try:
            status = main(["upscale", str(run), *map(str, words)])
        finally:
            torch.set_num_threads(threads)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def image(file: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    """Write an image file and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(9, 14, 3) if pixels is None else pixels
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, **options)
    return file


def pixels_of(file: Path) -> np.ndarray:
    """Return the pixels of a file, (h, w, c)."""
    with Image.open(file) as opened:
        pixels = np.array(opened)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def enlarged(run: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the network's result for a whole image, (h, w, 3)."""
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].expand(1, 3, -1, -1)
    return open_upscaler(run).enlarge(images)[0].permute(1, 2, 0).numpy()


def assert_near(pixels: np.ndarray, expected: np.ndarray, levels: int = 1) -> None:
    """Compare images, which may differ by the rounding of sums."""
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= levels


def test_an_image_becomes_what_the_network_makes_of_it(
    run: Path, upscale: Upscale, tmp_path: Path
) -> None:
    """In tiles, as PNG and as JPEG, with the progress of the pixels."""
    source = image(tmp_path / "a.png", noise(21, 33, 3))
    status, out, err = upscale(source, "-o", tmp_path / "big.png", "--tile", 12)
    assert (status, err) == (0, "")
    assert "upscale by 2, 0.00 megapixels" in out
    assert f"{tmp_path / 'big.png'}: 1 enlarged image, by step 7 of {run}" in out
    expected = enlarged(run, noise(21, 33, 3))
    assert_near(pixels_of(tmp_path / "big.png"), expected)
    assert upscale(source, "-o", tmp_path / "big.jpg", "--tile", 12)[0] == 0
    assert np.abs(pixels_of(tmp_path / "big.jpg").astype(int) - expected).mean() < 6


def test_grey_and_transparency_are_kept(run: Path, upscale: Upscale, tmp_path: Path) -> None:
    """Grey is the luma of the result, and transparency that of bicubic interpolation."""
    colours, grey, alpha = noise(9, 14, 3), noise(9, 14, 1, 1), noise(9, 14, 1, 2) | 1
    folder = tmp_path / "in"
    image(folder / "L.png", grey)
    image(folder / "LA.png", np.concatenate([grey, alpha], 2))
    image(folder / "RGBA.png", np.concatenate([colours, alpha], 2))
    assert upscale(folder, "-o", tmp_path / "out")[0] == 0
    luma = np.array(Image.fromarray(enlarged(run, grey)).convert("L"))[:, :, None]
    levels = torch.from_numpy(alpha)[None, None, :, :, 0].float()
    opacity = bicubic.enlarge(levels, SCALE)[0, 0].numpy()[:, :, None]
    assert_near(pixels_of(tmp_path / "out/L.png"), luma)
    assert_near(pixels_of(tmp_path / "out/LA.png"), np.concatenate([luma, opacity], 2))
    both = np.concatenate([enlarged(run, colours), opacity], 2)
    assert_near(pixels_of(tmp_path / "out/RGBA.png"), both)


def test_the_edge_of_a_cut_out_figure_has_its_own_colour(upscale: Upscale, tmp_path: Path) -> None:
    """The black of transparent pixels does not show where the opacity is not zero."""
    pixels = np.zeros((12, 12, 4), np.uint8)
    pixels[:, :6] = 200, 200, 200, 255
    source = image(tmp_path / "a.png", pixels)
    assert upscale(source, "-o", tmp_path / "big.png")[0] == 0
    flat = image(tmp_path / "flat.png", np.full((12, 12, 3), 200, np.uint8))
    assert upscale(flat, "-o", tmp_path / "big-flat.png")[0] == 0
    assert np.array_equal(
        pixels_of(tmp_path / "big.png")[:, :, :3], pixels_of(tmp_path / "big-flat.png")
    )


def test_metadata_and_orientation_are_kept(run: Path, upscale: Upscale, tmp_path: Path) -> None:
    """The profile and the facts of a photograph stay, and its pixels are turned."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 8, "Camera"
    pixels = noise(9, 14, 3)
    source = image(tmp_path / "a.png", pixels, exif=exif, icc_profile=PROFILE)
    for name in ("big.png", "big.jpg"):
        assert upscale(source, "-o", tmp_path / name)[0] == 0
        with Image.open(tmp_path / name) as result:
            assert result.info["icc_profile"] == PROFILE
            assert dict(result.getexif()) == {0x010F: "Camera"}
    assert_near(pixels_of(tmp_path / "big.png"), enlarged(run, np.rot90(pixels).copy()))


def test_a_further_run_goes_on(upscale: Upscale, tmp_path: Path) -> None:
    """What exists is left as it is, and --overwrite replaces it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    image(folder / "a.jpg")
    image(folder / "b/c.jpg")
    image(out / "a.png", noise(1, 1, 3))
    status, text, err = upscale(folder, "-o", out)
    assert (status, err) == (0, "")
    assert "notice: 1 enlarged image of 2 exist and are left as they are" in text
    assert f"{out}: 1 enlarged image," in text
    assert pixels_of(out / "a.png").shape == (1, 1, 3)
    assert pixels_of(out / "b/c.png").shape == (18, 28, 3)
    status, text, err = upscale(folder, "-o", out)
    assert (status, "notice: 2 enlarged images of 2" in text, "megapixels" in text) == (
        0,
        True,
        False,
    )
    assert upscale(folder, "-o", out, "--overwrite")[0] == 0
    assert pixels_of(out / "a.png").shape == (18, 28, 3)
    status, _, err = upscale(folder / "a.jpg", "-o", out / "a.png")
    assert (status, err) == (
        1,
        f"tesserae: {out / 'a.png'} exists: pass --overwrite to replace it.\n",
    )
    assert upscale(folder / "a.jpg", "-o", out / "a.png", "--overwrite")[0] == 0


def test_unreadable_images_do_not_stop_the_others(upscale: Upscale, tmp_path: Path) -> None:
    """Each is named on standard error, with the exit status 1."""
    folder = tmp_path / "in"
    image(folder / "a.jpg")
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    image(folder / "c.png", noise(4, 4, 4))
    image(folder / "d.jpg")
    status, out, err = upscale(
        folder, tmp_path / "e.jpg", "-o", tmp_path / "out", "--format", "jpeg"
    )
    assert status == 1
    lines = err.splitlines()
    assert lines[0].startswith(f"{folder / 'b.jpg'} cannot be enlarged: ")
    assert lines[1] == f"{folder / 'c.png'} has transparency, which JPEG lacks: pass --format png."
    assert lines[2].startswith(f"{tmp_path / 'e.jpg'} cannot be read: ")
    assert lines[3:] == ["3 of 5 images could not be enlarged."]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.jpg", "d.jpg"]
    assert "2 enlarged images" in out


def test_an_image_that_is_too_large_for_jpeg_is_refused(upscale: Upscale, tmp_path: Path) -> None:
    """Before it is computed; PNG holds it."""
    source = image(tmp_path / "a.png", np.zeros((1, 32_751, 1), np.uint8))
    status, _, err = upscale(source, "-o", tmp_path / "big.jpg")
    assert status == 1
    assert "would become 65,502x2 pixels, and JPEG holds at most 65,500 on a side: pass" in err
    assert not (tmp_path / "big.jpg").exists()


def test_an_animation_is_a_single_image_with_a_notice(upscale: Upscale, tmp_path: Path) -> None:
    """The first frame is enlarged."""
    frames = [Image.fromarray(noise(4, 6, 3, seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    status, out, _ = upscale(tmp_path / "a.png", "-o", tmp_path / "out")
    assert status == 0
    assert "a.png has 3 frames or pages: only the first is enlarged." in out
    assert pixels_of(tmp_path / "out/a.png").shape == (8, 12, 3)


def test_options_may_come_before_the_images(upscale: Upscale, tmp_path: Path) -> None:
    """The images may be omitted for the parser, and are found all the same."""
    sources = [image(tmp_path / "a.png"), image(tmp_path / "b.png")]
    assert upscale("-o", tmp_path / "out", "--overwrite", *sources)[0] == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_what_cannot_end_well_is_refused_before(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No image, no run, a run of another stage, no such folder, no such device."""
    source, other = image(tmp_path / "a.png"), tmp_path / "other"
    small_run(other, stage="wgan")
    (tmp_path / "file").touch()
    for words, message in (
        ([run, "-o", tmp_path / "out"], "expected at least one image file"),
        ([tmp_path / "none", source, "-o", tmp_path / "out"], f"{tmp_path / 'none'}"),
        ([other, source, "-o", tmp_path / "out"], "is a run of the stage wgan"),
        ([run, source, "-o", tmp_path / "file/out"], "cannot write to"),
        ([run, source, "-o", tmp_path / "out", "--device", "tpu"], "--device is 'tpu'"),
    ):
        capsys.readouterr()
        assert main(["upscale", *map(str, words)]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_nothing_half_written_is_left(
    upscale: Upscale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A full disk ends the command with a sentence, and Ctrl-C with its own status."""
    image(tmp_path / "in/a.png", noise(40, 3, 3))
    image(tmp_path / "in/b.png")
    writer = command.png.PngWriter
    write, count = writer.write, 0

    def failing(self: Any, strip: np.ndarray) -> None:
        nonlocal count
        count += 1
        write(self, strip)
        if count == 3:
            assert list((tmp_path / "out").iterdir())
            raise error

    monkeypatch.setattr(writer, "write", failing)
    status, _, err = upscale(tmp_path / "in", "-o", tmp_path / "out", "--tile", 6)
    assert not list((tmp_path / "out").iterdir())
    if isinstance(error, OSError):
        assert status == 1
        assert f"cannot write {tmp_path / 'out/a.png'}: No space left on device. Free some" in err
    else:
        assert status == 130
    monkeypatch.setattr(writer, "write", write)
    assert upscale(tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_a_device_without_memory_is_told_with_a_smaller_tile(
    upscale: Upscale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the option."""

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(strips.TrainedUpscaler, "enlarge_tiles", out_of_memory)
    status, _, err = upscale(image(tmp_path / "a.png"), "-o", tmp_path / "out", "--tile", 64)
    assert status == 1
    assert "the memory of cpu does not suffice for tiles of 64 px. Pass a smaller one" in err
    assert "--tile 32" in err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_process_leaves_complete_files_only(run: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle of an image removes it, and the same command goes on afterwards."""
    image(tmp_path / "in/a.png")
    image(tmp_path / "in/b.png", noise(500, 500, 3))
    words = [sys.executable, "-m", "workflows", "upscale", str(run), str(tmp_path / "in"),
             "-o", str(tmp_path / "out"), "--tile", "60"]  # fmt: skip
    out = tmp_path / "out"
    with subprocess.Popen(words) as process:
        wait_until(lambda: (out / "a.png").exists() and any(out.glob(".b.png.*")), seconds=100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert [file.name for file in out.iterdir()] == ["a.png"]
    assert subprocess.run(words, check=False).returncode == 0
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "b.png"]
    assert pixels_of(out / "b.png").shape == (1000, 1000, 3)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_the_memory_of_a_large_image_is_bounded(run: Path, tmp_path: Path) -> None:
    """24 megapixels need less than 2 GB, and the file has all rows."""
    buffer = io.BytesIO()
    Image.effect_noise((6000, 4000), 30).convert("RGB").save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    program = (
        "import re, sys; from workflows.cli import main; status = main(sys.argv[1:]);"
        # Not ru_maxrss, which would be at least that of the process of the tests.
        "print(status, re.findall(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[0])"
    )
    words = ["upscale", str(run), str(tmp_path / "a.jpg"), "-o", str(tmp_path / "big.png")]
    result = subprocess.run(
        [sys.executable, "-c", program, *words], check=True, capture_output=True, text=True
    )
    status, kibibytes = map(int, result.stdout.splitlines()[-1].split())
    assert status == 0
    assert kibibytes * 1024 < 2_000_000_000
    with (tmp_path / "big.png").open("rb") as big:  # Pillow warns of so many pixels
        assert struct.unpack(">16xII", big.read(24)) == (12_000, 8_000)
