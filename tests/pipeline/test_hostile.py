"""Broken, odd and dangerous files: quarantined where stock Pillow fails, equal elsewhere.

Stock Pillow reads them in an environment of its own, without truncation tolerance and with its
limit for decompression bombs, so that no defect of ours can be in both.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from pipeline.errors import DecodeError
from pipeline.images.decode import Decoded, decode
from pipeline.images.rejection import STATUS_WORDS, UNSUPPORTED

OTHER_LIBJPEG = {
    "jpeg-decoder__crashtest__images__imagetestsuite__f6b4389c3cf0f5997b2e5a4b905aea8d.jpg",
}
"""A damaged progressive JPEG. libjpeg-turbo 2 smooths its blocks differently from the libjpeg-turbo
3 of stock Pillow's wheel: 0.2 % of the values, by 2 levels at most. The probe images distinguish
the two, so they never contribute to one store."""

HIGH_BYTE = {
    "jpeg-decoder__reftest__images__grayscale_16x24_sampling2x2.png",
    "jpeg-decoder__reftest__images__lossless__1__jpeg_lossless_sel2.png",
    "jpeg-decoder__reftest__images__lossless__1__jpeg_lossless_sel5.png",
    "jpeg-decoder__reftest__images__lossless__1__jpeg_lossless_sel7.png",
}
"""16-bit grey: stock Pillow clips it at 255, to white; here its high byte is kept."""

SOUND_PIXELS = {"twelvemonkeys-jpeg__jpeg__jfif-bogus-empty-jfif-segment.jpg"}
"""Files that Pillow rejects for their metadata alone: rules 2 read them, rules 1 do not."""

# Runs under stock Pillow. Of 16-bit grey it also writes the image of the high bytes.
READ = """
import io, json, sys, warnings
from pathlib import Path
from PIL import Image

warnings.simplefilter("ignore")
source, target = map(Path, sys.argv[1:])
found = {}
for path in sorted(source.iterdir()):
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            facts = [image.format, image.mode]
            rgb = image.convert("RGB")
            if image.mode == "I;16":
                low_high = image.tobytes()
                high = Image.frombytes("L", image.size, low_high[1::2]).convert("RGB")
                (target / (path.name + ".high")).write_bytes(high.tobytes())
        found[path.name] = [*facts, *rgb.size]
        (target / (path.name + ".rgb")).write_bytes(rgb.tobytes())
    except Exception:
        found[path.name] = None
(target / "found.json").write_text(json.dumps(found))
"""

# Prints one line of each file: what a store would hold of it.
DIGEST = """
import hashlib, sys
from pathlib import Path
from pipeline.images.decode import decode
from pipeline.errors import DecodeError

for path in sorted(Path(sys.argv[1]).iterdir()):
    for serves in (10**6, 20):
        try:
            made = decode(path.read_bytes(), fit="crop", serves=serves, exif=False)
            pixels = hashlib.md5(made.pixels.tobytes("raw", "RGB")).hexdigest()
            print(path.name, made.width, made.height, made.mode, made.format, made.scale, pixels)
        except DecodeError as e:
            print(path.name, e.status, e.reason)
"""


@pytest.fixture(scope="session")
def hostile(real_data):
    """Return the files, by name."""
    return {path.name: path.read_bytes() for path in sorted((real_data / "hostile").iterdir())}


@pytest.fixture(scope="session")
def stock(stock_python, real_data, tmp_path_factory):
    """Return the folder of stock Pillow's pixels, and format, mode and size by name."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "read.py").write_text(READ)
    subprocess.run(
        [str(stock_python), str(folder / "read.py"), str(real_data / "hostile"), str(folder)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return folder, json.loads((folder / "found.json").read_text())


def outcome_of(data, **options):
    try:
        return decode(data, fit="crop", serves=10**6, exif=False, **options)
    except DecodeError as e:
        return e


def cannot_be_read_here(outcome):
    """Return True for a file whose format this Pillow was built without."""
    lacks = not features.check("webp") or not features.check("libtiff")
    return lacks and isinstance(outcome, DecodeError) and outcome.status == UNSUPPORTED


def test_every_hostile_file_is_decoded_or_quarantined_with_a_readable_reason(hostile, capfd):
    """No other error is raised, and nothing is printed."""
    outcomes = [outcome_of(data) for data in hostile.values()]
    assert len(outcomes) == 383
    for outcome in outcomes:
        if isinstance(outcome, DecodeError):
            assert outcome.status in STATUS_WORDS
            assert outcome.reason.isprintable()
            assert 0 < len(outcome.reason) <= 200
            assert " at 0x" not in outcome.reason
        else:
            assert outcome.width * outcome.height > 0
    assert capfd.readouterr() == ("", "")


def test_rules_2_decode_files_of_rules_1_to_the_same_pixels(hostile):
    """The hostile files have no samples that rules 2 scale differently."""
    for name, data in hostile.items():
        before, now = outcome_of(data, rules=1), outcome_of(data)
        if isinstance(before, DecodeError):
            assert isinstance(now, DecodeError) == (name not in SOUND_PIXELS), name
        else:
            assert isinstance(now, Decoded), (name, now)
            assert replace(now, pixels=before.pixels) == before, name
            assert now.pixels.tobytes() == before.pixels.tobytes(), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quarantine_equals_the_failures_of_stock_pillow(hostile, stock):
    """The sets are equal, except for files that Pillow rejects for their metadata alone."""
    _, readable = stock
    for name, data in hostile.items():
        for rules in (1, 2):
            outcome = outcome_of(data, rules=rules)
            bad = readable[name] is None and not (rules == 2 and name in SOUND_PIXELS)
            if not cannot_be_read_here(outcome):
                assert isinstance(outcome, DecodeError) == bad, (name, outcome)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pixels_of_readable_files_equal_stock_pillows(hostile, stock):
    """Pixels are equal to the last bit, except for the listed files."""
    folder, readable = stock
    different = set()
    for name, data in hostile.items():
        outcome = outcome_of(data)
        if isinstance(outcome, DecodeError) or name in SOUND_PIXELS:
            continue
        facts = [outcome.format, outcome.mode, outcome.width, outcome.height]
        assert facts == readable[name], name
        expected = (folder / f"{name}.rgb").read_bytes()
        if outcome.pixels.tobytes("raw", "RGB") != expected:
            different.add(name)
    assert different - OTHER_LIBJPEG == HIGH_BYTE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_listed_exceptions_differ_within_their_tolerance(hostile, stock):
    """16-bit grey is exactly the high byte; the other libjpeg is at most 2 levels off."""
    folder, _ = stock
    for name in HIGH_BYTE:
        high = (folder / f"{name}.high").read_bytes()
        assert outcome_of(hostile[name]).pixels.tobytes("raw", "RGB") == high
    for name in OTHER_LIBJPEG:
        expected = np.frombuffer((folder / f"{name}.rgb").read_bytes(), np.uint8).astype(int)
        ours = np.frombuffer(outcome_of(hostile[name]).pixels.tobytes("raw", "RGB"), np.uint8)
        assert abs(expected - ours).max() <= 2
        assert (expected != ours).mean() < 0.002


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="glibc fills its memory when asked")
def test_decoding_does_not_depend_on_uninitialised_memory(real_data, tmp_path):
    """A decoder that returns uninitialised memory would give another store each time."""
    (tmp_path / "digest.py").write_text(DIGEST)
    outputs = set()
    for filling in ("1", "85", "170"):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "digest.py"), str(real_data / "hostile")],
            env={
                **os.environ,
                "MALLOC_PERTURB_": filling,
                "PYTHONMALLOC": "malloc",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            check=True,
            capture_output=True,
        )
        outputs.add(done.stdout)
        assert done.stderr == b""
    assert len(outputs) == 1
