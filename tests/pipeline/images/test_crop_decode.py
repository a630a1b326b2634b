"""Crops of encoded rows: all implementations give the bytes of cropping and then resizing."""

from __future__ import annotations

import importlib.util
import io
import pickle
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.images import crop_decode
from pipeline.images.crop_decode import RowDecodeError, crop_decoder, decode_crops, resize_crop
from pipeline.images.decode import decode, reduction_factor
from pipeline.images.jpeg_structure import plain_jpeg
from tests.images import jpeg

SOURCE = Path(crop_decode.__file__).with_name("_jpeg_crop.c")
CHROMA = ("444", "422", "420", "440", "411", "Gray")
RULES: dict[str, Any] = {"exif": False, "rules": 2, "missing_end": "refuse"}
IMPLEMENTATIONS = ("avx2", "c", "numpy")
NO_REDUCTION = 1 << 30

# The fixture only chooses among implementations that do not change.
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Compile the extension in its present state, whatever is installed."""
    file = tmp_path_factory.mktemp("extension") / "_jpeg_crop.so"
    command = [
        *shlex.split(sysconfig.get_config_var("CC") or "cc"),
        *("-O3", "-Wall", "-Werror", "-fPIC", "-shared"),
        *("-I", sysconfig.get_path("include"), str(SOURCE), "-o", str(file), "-ljpeg"),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as e:
        pytest.skip(f"there is no compiler: {e}")
    except subprocess.CalledProcessError as e:
        if "No such file or directory" not in e.stderr and "cannot find" not in e.stderr:
            raise AssertionError(e.stderr) from e
        pytest.skip(f"headers or a library are missing: {e.stderr[-300:]}")
    spec = importlib.util.spec_from_file_location("pipeline.images._jpeg_crop", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Implementations:
    """Runs `decode_crops` by each of the implementations."""

    def __init__(self, extension: ModuleType, patch: pytest.MonkeyPatch) -> None:
        without_avx2 = SimpleNamespace(
            decode=extension.decode, AVX2=0, LIBJPEG_TURBO=extension.LIBJPEG_TURBO
        )
        self.modules = {"avx2": extension, "c": without_avx2, "numpy": None}
        self.patch = patch

    def use(self, name: str) -> None:
        """Let `decode_crops` use this implementation until the end of the test."""
        self.patch.setattr(crop_decode, "_jpeg_crop", self.modules[name])

    def crop(
        self, name: str, data: bytes, box: Box, size: int, **options: Any
    ) -> NDArray[np.uint8]:
        """Return the crop of one row, (size, size, 3)."""
        self.use(name)
        return crop(data, box, size, **options)

    def accepts(self, data: bytes, shape: tuple[int, int], box: Box) -> bool:
        """Return True if the extension itself decodes the row."""
        todo, out = np.ones(1, np.uint8), np.zeros((1, 1, 1, 3), np.uint8)
        arrays = [np.array([value], np.int32) for value in (shape, box, 1)]
        self.modules["avx2"].decode([data], *arrays, todo, out, 1, 1)
        return not todo[0]


Box = tuple[int, int, int, int]


@pytest.fixture
def implementations(
    extension: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Implementations]:
    return Implementations(extension, monkeypatch)


def crop(
    data: bytes, box: Box, size: int, shape: tuple[int, int] | None = None, **options: Any
) -> NDArray[np.uint8]:
    """Return one crop; the shape is that of the header, if it is not stated."""
    if shape is None:
        shape = Image.open(io.BytesIO(data)).size[::-1]
    out = np.full((1, size, size, 3), 77, np.uint8)
    shapes, boxes = np.array([shape], np.int32), np.array([box], np.int32)
    decode_crops([data], shapes, boxes, out, **{**RULES, **options})
    return out[0]


def noise(seed: int, height: int, width: int, chroma: str, quality: int = 80) -> bytes:
    """Return a JPEG of noise in full contrast, without restart intervals."""
    rng = np.random.default_rng(seed)
    bands = 1 if chroma == "Gray" else 3
    pixels = rng.integers(0, 256, (height, width, bands), np.uint8)
    data: bytes = simplejpeg.encode_jpeg(
        pixels,
        quality=quality,
        colorspace="GRAY" if chroma == "Gray" else "RGB",
        colorsubsampling=chroma,
    )
    return data


def noise_with_restarts(seed: int, height: int, width: int, chroma: str, blocks: int) -> bytes:
    """Return a JPEG of noise with a restart marker after each so many blocks."""
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    pixels.save(file, "JPEG", subsampling=CHROMA.index(chroma), restart_marker_blocks=blocks)
    return file.getvalue()


@st.composite
def crops(draw: st.DrawFn, longest: int = 70) -> tuple[bytes, tuple[int, int], Box, int]:
    """Draw a plain JPEG, its shape, a box in it and the size of a square."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    if draw(st.integers(0, 4)) == 0:
        left, top, right, bottom = 0, 0, width, height
    side = min(right - left, bottom - top)
    # Enlarged, copied, reduced by the filter, or by the decoder first.
    sizes = [side, *(max(1, side // (2 * scale)) for scale in (1, 2, 4, 8))]
    size = draw(st.one_of(st.integers(1, 40), st.sampled_from(sizes)))
    seed, chroma = draw(st.integers(0, 1 << 20)), draw(st.sampled_from(CHROMA))
    if chroma in CHROMA[:3] and draw(st.booleans()):
        data = noise_with_restarts(seed, height, width, chroma, draw(st.integers(1, 5)))
    else:
        data = noise(seed, height, width, chroma, draw(st.integers(20, 95)))
    return data, (height, width), (left, top, right, bottom), size


# --- the pixels ---------------------------------------------------------------------------------


def whole(data: bytes, box: Box, size: int, **options: Any) -> tuple[NDArray[np.uint8], int]:
    """Return the whole picture of `decode`, reduced as the crop wants it, and the reduction."""
    left, top, right, bottom = box
    scale = reduction_factor(right - left, bottom - top, fit="squish", serves=size)
    height, width = Image.open(io.BytesIO(data)).size[::-1]
    serves = min(height, width) // (2 * scale) if scale > 1 else NO_REDUCTION
    decoded = decode(data, fit="squish", serves=serves, **{**RULES, **options})
    return np.asarray(decoded.pixels)[..., :3], decoded.scale


def expected_crop(data: bytes, box: Box, size: int, **options: Any) -> NDArray[np.uint8]:
    pixels, scale = whole(data, box, size, **options)
    return resize_crop(pixels, box, scale, size)


@with_fixture
@given(case=crops())
def test_every_implementation_gives_the_same_bytes(
    implementations: Implementations, case: tuple[bytes, tuple[int, int], Box, int]
) -> None:
    """They are those of decoding the whole picture, cropping it and resizing it."""
    data, shape, box, size = case
    expected = expected_crop(data, box, size)
    assert implementations.accepts(data, shape, box)
    for name in IMPLEMENTATIONS:
        np.testing.assert_array_equal(implementations.crop(name, data, box, size), expected, name)


@pytest.mark.parametrize("chroma", CHROMA)
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_crops_of_large_pictures_give_the_same_bytes(
    implementations: Implementations, chroma: str, scale: int
) -> None:
    """At each border of blocks, where chroma is interpolated between blocks."""
    data = noise(scale, 197, 330, chroma)
    rng = np.random.default_rng(scale)
    side = 16 * scale if scale > 1 else 40
    for _ in range(12):
        left, top = rng.integers(0, 330 - side), rng.integers(0, 197 - side)
        box = tuple(map(int, (left, top, left + side, top + side)))
        size = side // (2 * scale)
        expected = expected_crop(data, box, size)
        for name in IMPLEMENTATIONS:
            result = implementations.crop(name, data, box, size)
            np.testing.assert_array_equal(result, expected, f"{name} {box}")


def triangle_crop(
    pixels: NDArray[np.uint8], box: Box, scale: int, size: int
) -> NDArray[np.float64]:
    """Crop and resize with a triangle filter in floating-point numbers, without any rounding."""
    result = pixels.astype(np.float64)
    for axis in (0, 1):
        start, stop = box[1 - axis] / scale, box[3 - axis] / scale
        first, last = int(np.floor(start)), int(np.ceil(stop))
        step = (stop - start) / size
        centres = start + (np.arange(size) + 0.5) * step
        distances = np.arange(first, last) + 0.5 - centres[:, None]
        weights = np.maximum(0, 1 - np.abs(distances) / max(step, 1))
        weights /= weights.sum(axis=1, keepdims=True)
        touched = np.take(result, range(first, last), axis)
        result = np.moveaxis(np.tensordot(weights, touched, (1, axis)), 0, axis)
    return result


@with_fixture
@given(case=crops())
def test_pixels_are_within_two_levels_of_the_exact_filter(
    implementations: Implementations, case: tuple[bytes, tuple[int, int], Box, int]
) -> None:
    """Both passes round to 8 bits, and the coefficients have 14 bits."""
    data, _, box, size = case
    pixels, scale = whole(data, box, size)
    exact = triangle_crop(pixels, box, scale, size)
    result = implementations.crop("avx2", data, box, size)
    assert np.abs(result - exact).max() <= 2


@with_fixture
@given(case=crops())
def test_an_unreduced_crop_is_that_of_pillow_and_torch(
    implementations: Implementations, case: tuple[bytes, tuple[int, int], Box, int]
) -> None:
    """Within 2 levels; a model that was trained with either sees the same pictures."""
    torch = pytest.importorskip("torch")
    data, _, box, size = case
    pixels, scale = whole(data, box, size)
    assume(scale == 1)
    left, top, right, bottom = box
    cut = pixels[top:bottom, left:right].copy()
    result = implementations.crop("avx2", data, box, size).astype(np.int16)
    by_pillow = Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR)
    assert np.abs(result - np.asarray(by_pillow)).max() <= 2
    by_torch = torch.nn.functional.interpolate(
        torch.from_numpy(cut).permute(2, 0, 1)[None].float(), (size, size), mode="bilinear",
        align_corners=False, antialias=True,
    )[0].permute(1, 2, 0).numpy()  # fmt: skip
    assert np.abs(result - by_torch).max() <= 2


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_crop_of_the_size_of_the_square_is_copied(
    implementations: Implementations, name: str
) -> None:
    data = noise(3, 90, 120, "420")
    pixels, _ = whole(data, (33, 21, 82, 70), 49)
    result = implementations.crop(name, data, (33, 21, 82, 70), 49)
    np.testing.assert_array_equal(result, pixels[21:70, 33:82])


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_an_even_picture_stays_even(
    implementations: Implementations, name: str, level: int
) -> None:
    """The coefficients sum to 1, also where there are thousands of them."""
    file = io.BytesIO()
    Image.new("L", (3000, 40), level).save(file, "JPEG", quality=100)
    for box, size in (((1, 2, 2999, 39), 1), ((5, 3, 17, 40), 13), ((0, 0, 3000, 40), 50)):
        assert (implementations.crop(name, file.getvalue(), box, size) == level).all()


@with_fixture
@given(case=crops(), data=st.data())
def test_pixels_outside_of_the_crop_do_not_contribute(
    implementations: Implementations,
    case: tuple[bytes, tuple[int, int], Box, int],
    data: st.DataObject,
) -> None:
    """The picture is cropped first, and resized then."""
    row, _, box, size = case
    pixels, scale = whole(row, box, size)
    changed = np.full_like(pixels, data.draw(st.integers(0, 255)))
    touched = (
        slice(box[1] // scale, -(-box[3] // scale)),
        slice(box[0] // scale, -(-box[2] // scale)),
    )
    changed[touched] = pixels[touched]
    result = resize_crop(changed, box, scale, size)
    np.testing.assert_array_equal(result, implementations.crop("avx2", row, box, size))


@given(
    sides=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20),
    size=st.integers(1, 400),
)
def test_a_crop_is_reduced_by_the_rule_of_whole_pictures(
    sides: list[tuple[int, int]], size: int
) -> None:
    boxes = np.array([(3, 5, 3 + width, 5 + height) for width, height in sides], np.int32)
    expected = [reduction_factor(*side, fit="squish", serves=size) for side in sides]
    assert crop_decode._reduction_factors(boxes, size).tolist() == expected


@pytest.mark.slow
def test_crops_of_real_photographs_give_the_same_bytes(
    implementations: Implementations, real_data: Path
) -> None:
    files = sorted((real_data / "imagenet").rglob("*.JPEG"))[::40]
    rng = np.random.default_rng(0)
    assert files
    for file in files:
        data = file.read_bytes()
        width, height = Image.open(io.BytesIO(data)).size
        for size in (24, 224):
            left, top = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
            box = (left, top, width - int(rng.integers(0, width // 3)), height)
            expected = expected_crop(data, box, size)
            for name in IMPLEMENTATIONS:
                result = implementations.crop(name, data, box, size)
                np.testing.assert_array_equal(result, expected, f"{name} {file}")


# --- rows that are no plain JPEGs ---------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(PICTURE, "JPEG", exif=exif)


def with_wrong_component_ids() -> bytes:
    """Return a JPEG that libjpeg takes for RGB instead of YCbCr."""
    data = saved(PICTURE, "JPEG", subsampling=0, quality=95)
    jfif = data.index(b"JFIF") - 4
    data = data[:jfif] + data[jfif + 18 :]
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    changed = bytearray(data)
    for k, name in enumerate(b"RGB"):
        changed[frame + 10 + 3 * k] = changed[scan + 5 + 2 * k] = name
    return bytes(changed)


def with_unusual_sampling() -> bytes:
    """Return a grey JPEG with sampling factors of 2, which mean nothing for one channel."""
    data = bytearray(saved(PICTURE.convert("L"), "JPEG"))
    data[data.index(b"\xff\xc0") + 11] = 0x22
    return bytes(data)


def with_a_scan_for_each_channel() -> bytes:
    """Return a baseline JPEG whose channels are in three scans, made of three grey JPEGs."""
    channels = [jpeg(seed, 64, 48, "L") for seed in range(3)]
    frame, scan = channels[0].index(b"\xff\xc0"), channels[0].index(b"\xff\xda")
    tables = channels[0][channels[0].index(b"\xff\xc4") : scan]
    size = channels[0][frame + 4 : frame + 9]
    parts = [channels[0][:frame], b"\xff\xc0\x00\x11", size, b"\3\1\x11\0\2\x11\0\3\x11\0", tables]
    for k, channel in enumerate(channels):
        header = bytes([0xFF, 0xDA, 0, 8, 1, k + 1, 0, 0, 63, 0])
        parts += [header, channel[channel.index(b"\xff\xda") + 10 : -2]]
    return b"".join([*parts, b"\xff\xd9"])


def with_a_missing_piece() -> bytes:
    """Return a JPEG whose scan ends too early, of which libjpeg warns."""
    data = jpeg(5, 64, 48)
    return data[: len(data) * 2 // 3] + b"\xff\xd9"


PICTURE = Image.open(io.BytesIO(jpeg(5, 64, 48)))
OTHERS = {
    "progressive": saved(PICTURE, "JPEG", progressive=True),
    "CMYK": jpeg(5, 64, 48, "CMYK"),
    "RGB": with_wrong_component_ids(),
    "sampling": with_unusual_sampling(),
    "three scans": with_a_scan_for_each_channel(),
    "warning": with_a_missing_piece(),
    "PNG": saved(PICTURE, "PNG"),
    "16 bits": saved(Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)), "PNG"),
    "TIFF": saved(PICTURE, "TIFF"),
    "GIF": saved(PICTURE.convert("P"), "GIF"),
}


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(("box", "size"), [((3, 5, 60, 47), 31), ((0, 0, 64, 48), 5)])
def test_other_rows_are_decoded_by_pillow(
    implementations: Implementations, name: str, kind: str, box: Box, size: int
) -> None:
    """The extension refuses them."""
    data = OTHERS[kind]
    result = implementations.crop(name, data, box, size)
    np.testing.assert_array_equal(result, expected_crop(data, box, size))
    assert not implementations.accepts(data, (48, 64), box)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize("orientation", [3, 6])
def test_rows_are_rotated_by_exif_where_it_is_asked_for(
    implementations: Implementations, name: str, exif: bool, orientation: int
) -> None:
    """Shapes and boxes are those of the rotated picture."""
    data, box = rotated(orientation), (3, 5, 40, 48)
    shape = (64, 48) if exif and orientation == 6 else (48, 64)
    result = implementations.crop(name, data, box, 20, shape=shape, exif=exif)
    np.testing.assert_array_equal(result, expected_crop(data, box, 20, exif=exif))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_missing_end_marker_is_treated_as_the_recipe_says(
    implementations: Implementations, name: str
) -> None:
    data = saved(PICTURE, "JPEG")[:-2]
    for box in ((0, 0, 64, 48), (0, 0, 40, 9)):  # the second one is complete long before the end
        expected = expected_crop(data + b"\xff\xd9", box, 30)
        result = implementations.crop(name, data, box, 30, missing_end="keep")
        np.testing.assert_array_equal(result, expected)
        with pytest.raises(RowDecodeError, match="end marker"):
            implementations.crop(name, data, box, 30)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_an_unreadable_row_is_named(implementations: Implementations, name: str) -> None:
    """Rows come with checksums, so this is a defect, and the caller says which row it is."""
    implementations.use(name)
    rows = [jpeg(1), jpeg(2), b"no image", jpeg(3)]
    shapes = np.array([(45, 60)] * 4, np.int32)
    boxes = np.array([(0, 0, 60, 45)] * 4, np.int32)
    with pytest.raises(RowDecodeError, match="row 2") as raised:
        decode_crops(rows, shapes, boxes, np.empty((4, 8, 8, 3), np.uint8), **RULES)
    assert isinstance(raised.value, DecodeError)
    assert (raised.value.index, raised.value.status) == (2, 2)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.index, copy.status, copy.reason) == (2, 2, raised.value.reason)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_row_of_another_size_than_stated_is_an_error(
    implementations: Implementations, name: str
) -> None:
    with pytest.raises(RowDecodeError, match="60 x 45 pixels, not 60 x 46"):
        implementations.crop(name, jpeg(1), (0, 0, 60, 46), 8, shape=(46, 60))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_header_of_too_many_pixels_is_refused(
    implementations: Implementations, name: str
) -> None:
    """No memory is reserved for what a header claims."""
    data = bytearray(jpeg(1))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    shape, box = (65000, 65000), (0, 0, 65000, 65000)
    with pytest.raises(RowDecodeError) as raised:
        implementations.crop(name, bytes(data), box, 8, shape=shape)
    assert raised.value.status == 4


# --- hostile bytes ------------------------------------------------------------------------------


@with_fixture
@given(case=crops(), data=st.data())
def test_damaged_rows_give_pixels_or_an_error(
    implementations: Implementations,
    case: tuple[bytes, tuple[int, int], Box, int],
    data: st.DataObject,
) -> None:
    """They are decoded to something or refused, and nothing is written beside the square."""
    row, shape, box, size = case
    damaged = bytearray(row)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(row))) :]
    todo, scales = np.ones(1, np.uint8), np.ones(1, np.int32)
    for avx2 in (0, 1):
        memory = np.full(size * size * 3 + 64, 77, np.uint8)
        out = memory[32:-32].reshape(1, size, size, 3)
        todo[:] = 1
        implementations.modules["avx2"].decode(
            [damaged], np.array([shape], np.int32), np.array([box], np.int32), scales, todo, out,
            size, avx2,
        )  # fmt: skip
        assert todo[0] in (0, 1)
        assert (memory[:32] == 77).all()
        assert (memory[-32:] == 77).all()


def test_tables_of_a_row_do_not_serve_the_next_one(implementations: Implementations) -> None:
    """Results do not depend on the order of rows."""
    row = jpeg(1)
    table = row.index(b"\xff\xdb")
    length = int.from_bytes(row[table + 2 : table + 4], "big")
    without = row[:table] + row[table + 2 + length :]
    shape, box = (45, 60), (0, 0, 60, 45)
    assert plain_jpeg(without) is not None
    todo, out = np.ones(2, np.uint8), np.zeros((2, 8, 8, 3), np.uint8)
    arrays = [np.array([value] * 2, np.int32) for value in (shape, box, 1)]
    implementations.modules["avx2"].decode([row, without], *arrays, todo, out, 8, 1)
    assert todo.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("shape", "box", "scale"),
    [
        ((45, 60), (0, 0, 61, 45), 1),
        ((45, 60), (-1, 0, 60, 45), 1),
        ((45, 60), (5, 0, 5, 45), 1),
        ((45, 60), (0, 0, 60, 45), 3),
        ((45, 60), (0, 0, 60, 45), 0),
        ((0, 60), (0, 0, 60, 0), 1),
        ((2**31 - 1, 60), (0, 0, 60, 2**31 - 1), 1),
    ],
)
def test_the_extension_refuses_invalid_numbers(
    implementations: Implementations, shape: tuple[int, int], box: Box, scale: int
) -> None:
    """It does not rely on its caller for memory safety."""
    todo, out = np.ones(1, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
    arrays = [np.array([value], np.int32) for value in (shape, box, scale)]
    implementations.modules["avx2"].decode([jpeg(1)], *arrays, todo, out, 8, 1)
    assert todo[0] == 1


def test_the_extension_refuses_arrays_of_other_lengths(extension: ModuleType) -> None:
    arrays = [np.ones((2, n), np.int32) for n in (2, 4, 1)]
    todo, out = np.ones(2, np.uint8), np.zeros((2, 8, 8, 3), np.uint8)
    for rows, size in (([b"", b"", b""], 8), ([b"", b""], 9), ([b"", b""], 0)):
        with pytest.raises(ValueError, match="lengths"):
            extension.decode(rows, *arrays, todo, out, size, 1)
    with pytest.raises(TypeError):
        extension.decode([1, b""], *arrays, todo, out, 8, 1)


# --- the call -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_rows_may_be_any_buffers(implementations: Implementations, name: str) -> None:
    """Bytes, views of a larger buffer, and arrays."""
    implementations.use(name)
    data, png = jpeg(1), OTHERS["PNG"]
    whole_chunk = memoryview(data + png)
    rows = [
        data, bytearray(data), whole_chunk[: len(data)], np.frombuffer(data, np.uint8),
        whole_chunk[len(data) :],
    ]  # fmt: skip
    shapes = np.array([(45, 60)] * 4 + [(48, 64)], np.int32)
    boxes = np.array([(4, 3, 50, 40)] * 5, np.int32)
    out = np.empty((5, 16, 16, 3), np.uint8)
    decode_crops(rows, shapes, boxes, out, **RULES)
    for square in out[:4]:
        np.testing.assert_array_equal(square, expected_crop(data, (4, 3, 50, 40), 16))
    np.testing.assert_array_equal(out[4], expected_crop(png, (4, 3, 50, 40), 16))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_no_rows_are_no_work(implementations: Implementations, name: str) -> None:
    implementations.use(name)
    empty = np.empty((0, 8, 8, 3), np.uint8)
    decode_crops([], np.empty((0, 2), np.int32), np.empty((0, 4), np.int32), empty, **RULES)


def test_threads_do_not_disturb_each_other(implementations: Implementations) -> None:
    implementations.use("avx2")
    rows = [noise(k, 60 + k, 90, CHROMA[k % 6]) for k in range(24)] + [OTHERS["PNG"]]
    shapes = np.array([(60 + k, 90) for k in range(24)] + [(48, 64)], np.int32)
    boxes = np.array([(k, 2, 40 + k, 48) for k in range(25)], np.int32)

    def work(thread: int) -> NDArray[np.uint8]:
        order = np.random.default_rng(thread).permutation(25)
        out = np.empty((25, 32, 32, 3), np.uint8)
        for _ in range(10):
            decode_crops([rows[k] for k in order], shapes[order], boxes[order], out, **RULES)
        return out[np.argsort(order)]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(work, range(4)))
    for result in results:
        np.testing.assert_array_equal(result, work(0))


SHAPES, BOXES = np.array([(45, 60)], np.int32), np.array([(0, 0, 60, 45)], np.int32)
OUT = np.zeros((1, 8, 8, 3), np.uint8)
VALID = {"rows": [jpeg(1)], "shapes": SHAPES, "boxes": BOXES, "out": OUT, **RULES}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shapes": SHAPES.astype(np.int64)}, "shapes is int64"),
        ({"shapes": SHAPES[0]}, r"shapes is int32 of shape \(2,\)"),
        ({"boxes": BOXES[:, :3]}, r"boxes is int32 of shape \(1, 3\)"),
        ({"out": OUT.astype(np.float32)}, "out is float32"),
        ({"out": np.zeros((1, 8, 9, 3), np.uint8)}, r"out is uint8 of shape \(1, 8, 9, 3\)"),
        ({"out": np.zeros((), np.uint8)}, r"out is uint8 of shape \(\)"),
        ({"out": np.zeros((1, 0, 0, 3), np.uint8)}, "side of the squares is 0"),
        ({"out": np.zeros((1, 8, 8, 6), np.uint8)[..., ::2]}, "C-contiguous"),
        ({"boxes": BOXES + 1}, r"\(1, 1, 61, 46\).*60 x 45"),
        ({"boxes": np.array([(3, 4, 3, 9)], np.int32)}, r"\(3, 4, 3, 9\)"),
    ],
)
def test_invalid_arrays_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_crops(**{**VALID, **arguments})


def test_the_implementation_in_use_is_described(
    implementations: Implementations, monkeypatch: pytest.MonkeyPatch
) -> None:
    implementations.use("c")
    assert crop_decoder().endswith(": decodes only the part that a crop needs")
    assert crop_decoder().startswith("extension with libjpeg-turbo ")
    implementations.use("numpy")
    assert crop_decoder() == f"simplejpeg {simplejpeg.__version__}: decodes whole pictures"
    monkeypatch.setattr(crop_decode, "simplejpeg", None)
    assert crop_decoder().startswith("Pillow ")


def test_without_simplejpeg_pillow_decodes_the_same_pixels(
    implementations: Implementations, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = implementations.crop("avx2", jpeg(1), (3, 2, 50, 40), 20)
    monkeypatch.setattr(crop_decode, "simplejpeg", None)
    result = implementations.crop("numpy", jpeg(1), (3, 2, 50, 40), 20)
    np.testing.assert_array_equal(result, expected)


def test_plain_jpegs_are_decoded_without_pillow_and_torch() -> None:
    """A loader's process loads neither."""
    program = (
        "import sys, numpy as np\n"
        "from pipeline.images.crop_decode import decode_crops\n"
        "row = sys.stdin.buffer.read()\n"
        "arrays = (np.array([(45, 60)], np.int32), np.array([(0, 0, 60, 45)], np.int32))\n"
        "out = np.empty((1, 8, 8, 3), np.uint8)\n"
        "decode_crops([row], *arrays, out, exif=False, rules=2, missing_end='refuse')\n"
        "print(*sorted({'PIL', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=jpeg(1), capture_output=True, check=True
    )
    assert done.stdout.strip() == b""
