"""A JPEG that lacks only its end marker is distinguished from one that was cut off."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import DecodeError
from pipeline.images import decode as module
from pipeline.images import jpeg_structure
from pipeline.images.decode import MISSING_END_REMARK, decode
from pipeline.images.rejection import TRUNCATED
from tests.images import jpeg

END = b"\xff\xd9"

shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 999),
        "width": st.integers(1, 50),
        "height": st.integers(1, 50),
        "mode": st.sampled_from(["L", "RGB", "CMYK"]),
        "progressive": st.booleans(),
        "optimize": st.booleans(),
        "subsampling": st.sampled_from([0, 1, 2]),
        "restart_marker_blocks": st.integers(0, 4),
    }
)
paddings = st.sampled_from([b"", bytes(1), bytes(100), bytes(3000)])


def visible(data: bytes, **options: Any) -> tuple[bytes, str]:
    """Return pixels and remark."""
    decoded = decode(data, **{"fit": "crop", "serves": 10**6, "exif": False, **options})
    return decoded.pixels.tobytes("raw", "RGB"), decoded.remark


def outcome(data: bytes, **options: Any) -> tuple[bytes, str] | tuple[int, str]:
    try:
        return visible(data, **options)
    except DecodeError as e:
        return e.status, e.reason


@given(shape=shapes, half=st.booleans(), padding=paddings)
def test_a_jpeg_without_eoi_keeps_all_pixels(
    shape: dict[str, Any], half: bool, padding: bytes
) -> None:
    """Half a marker, and trailing zeros of a disk or camera, are accepted."""
    data = jpeg(**shape)
    assert data.endswith(END)
    assume(not data.endswith(b"\0" + END))
    bare = data[: -1 if half else -2] + padding
    assert visible(bare, missing_end="keep") == (visible(data)[0], MISSING_END_REMARK)


@pytest.mark.parametrize("padding", [b"", bytes(100)])
def test_a_scan_that_ends_in_zeros_is_refused_without_eoi(padding: bytes) -> None:
    """It might have been cut off and padded: the zeros may not be those of the scan."""
    data = jpeg(37, 1, 1, subsampling=1)
    assert data.endswith(b"\xf3\0" + END)
    assert outcome(data[:-2] + padding, missing_end="keep")[0] == TRUNCATED
    assert outcome(data + padding, missing_end="keep") == (visible(data)[0], "")


@given(shape=shapes, padding=paddings, cut=st.data())
def test_a_truncated_jpeg_is_never_kept_with_other_pixels(
    shape: dict[str, Any], padding: bytes, cut: st.DataObject
) -> None:
    """The cut may be within a scan, between scans, at a restart marker or in the last byte."""
    data = jpeg(**shape)
    start = data.rindex(b"\xff\xda") if not shape["progressive"] else data.index(b"\xff\xda")
    edges = [at for at in range(start, len(data) - 2) if data[at] == 0xFF and data[at + 1]]
    at = cut.draw(
        st.one_of(
            st.integers(start, len(data) - 2),
            st.integers(len(data) - 12, len(data) - 2),
            st.sampled_from(edges or [start]),
        )
    )
    result = outcome(data[:at] + padding, missing_end="keep")
    refused = isinstance(result[0], int)
    assert refused or result == (visible(data)[0], MISSING_END_REMARK)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("padding", [b"", bytes(2000)], ids=["bare", "filled-up"])
def test_a_zero_filled_jpeg_is_quarantined(progressive: bool, padding: bytes) -> None:
    """A decoder reads a file that is filled up with zeros to its end without an error."""
    data = jpeg(1, progressive=progressive)
    for choice in ("refuse", "keep"):
        result = outcome(data[: len(data) // 2] + padding, missing_end=choice)
        assert result[0] == TRUNCATED


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_eoi_is_quarantined_by_default(progressive: bool) -> None:
    """The reason names the option to keep such files, which rules 1 do not have."""
    bare = jpeg(1, progressive=progressive)[:-2]
    status, reason = outcome(bare)
    assert (status, str(reason)[: len(MISSING_END_REMARK)]) == (TRUNCATED, MISSING_END_REMARK)
    assert "--missing-end keep" in str(reason)
    status, reason = outcome(bare, rules=1, missing_end="keep")
    assert (status, str(reason)[:23]) == (TRUNCATED, "image file is truncated")


def test_missing_progressive_scans_are_detected() -> None:
    """A progressive image that ends between two scans has every row but not every detail."""
    data = jpeg(2, progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 3
    for start in starts[1:]:
        assert outcome(data[:start], missing_end="keep")[0] == TRUNCATED


@pytest.mark.parametrize("tail", [b"trailing", b"\0" * 50, END, jpeg(7)])
def test_data_after_eoi_is_ignored(tail: bytes) -> None:
    """Cameras append data after the end marker."""
    assert visible(jpeg(3) + tail) == visible(jpeg(3))


def test_the_eoi_of_a_thumbnail_does_not_count() -> None:
    """The thumbnail's end marker lies before the first scan."""
    thumbnail = b"Exif\0\0" + jpeg(8, 16, 16)
    body = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = jpeg(4)[:2] + body + jpeg(4)[2:]
    assert jpeg_structure.has_end_marker(data)
    assert not jpeg_structure.has_end_marker(data[:-2])
    assert visible(data[:-2], missing_end="keep") == (visible(jpeg(4))[0], MISSING_END_REMARK)


def test_both_decoders_give_the_same_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without simplejpeg keeps the same files."""
    files = [jpeg(n, progressive=n % 2 == 1)[:-2] + bytes(7 * n) for n in range(6)]
    files += [data[:-9] for data in files]
    expected = [outcome(data, missing_end="keep") for data in files]
    monkeypatch.setattr(module, "simplejpeg", None)
    assert [outcome(data, missing_end="keep") for data in files] == expected


def test_a_reduced_jpeg_is_checked_at_full_size() -> None:
    """At 1/8 the last details are not decoded, so their absence would not be noticed."""
    data = jpeg(5, 600, 400)
    assert decode(data, fit="crop", serves=20, exif=False).scale == 8
    cut = data[:-12]
    for serves in (20, 10**6):
        assert outcome(cut, serves=serves, missing_end="keep")[0] == TRUNCATED
        decoded = decode(data[:-2], fit="crop", serves=serves, exif=False, missing_end="keep")
        assert decoded.remark == MISSING_END_REMARK


def test_a_complete_jpeg_is_not_examined_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG with its end marker costs no additional time."""
    monkeypatch.setattr(
        jpeg_structure, "_segments_before_scan", lambda data: pytest.fail("it was walked through")
    )
    monkeypatch.setattr(
        module, "require_decodable_format", lambda data: pytest.fail("it was named")
    )
    if module.simplejpeg is not None:
        assert visible(jpeg(6))[1] == ""
