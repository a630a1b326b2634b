"""A child decodes image by image, and a failure of the child costs one image only."""

import gc
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.errors import DecodeError, TesseraeError
from pipeline.images.decode import decode
from pipeline.images.rejection import CORRUPT, CRASHED, EMPTY, TIMEOUT, UNIDENTIFIED
from pipeline.images.resize import resize
from pipeline.images.rows import SQUARE, RowFormat
from pipeline.images.sandbox import IsolatedDecoder

SIZES = (24, 40)
OPTIONS = {"fit": "crop", "filter": "bicubic", "serves": 40, "exif": False}

# A child whose decoder does what real ones do on a bad day.
WICKED = """
import os, signal, sys, time
from pathlib import Path
from pipeline.images import rows, sandbox

honest = rows.decode

def decode(data, **asked):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        Path(sys.argv[2]).write_text(str(os.getpid()))
        time.sleep(3600)
    if data == b"exit":
        os._exit(3)
    if data == b"chatter":
        print("libfoo: warning", flush=True)
        os.system("echo from a program")
        data = Path(sys.argv[1]).read_bytes()
    if data == b"memory":
        bytearray(1 << 40)
    if data == b"moody" and not Path(sys.argv[2]).exists():
        Path(sys.argv[2]).touch()
        os.abort()
    if data == b"moody":
        data = Path(sys.argv[1]).read_bytes()
    if data == b"who":
        Path(sys.argv[2]).write_text(str(os.getpid()))
    return honest(data, **asked)

rows.decode = decode
sys.exit(sandbox.main())
"""


def picture(width=83, height=61, format="JPEG"):
    y, x = np.mgrid[:height, :width]
    planes = [x * 3 + y, (x // 9 + y // 7) % 2 * 255, (x * y) // 5]
    buffer = io.BytesIO()
    Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(buffer, format)
    return buffer.getvalue()


def facts(source):
    """Return the recorded properties of an image."""
    return [getattr(source, name) for name in ("width", "height", "mode", "format", "scale")]


def decode_here(data, sizes, options):
    """Return properties and squares by size, or status and reason."""
    try:
        source = decode(data, fit=options["fit"], serves=options["serves"], exif=options["exif"])
    except DecodeError as e:
        return e.status, e.reason
    squares = {
        size: resize(source, size, fit=options["fit"], filter=options["filter"]) for size in sizes
    }
    return facts(source), squares


def decode_in_child(child, data, sizes, options):
    """Return what `decode_here` returns, decoded by a child."""
    try:
        properties, squares = make_squares(child, data, sizes, options)
    except DecodeError as e:
        return e.status, e.reason
    return facts(properties), dict(zip(sizes, squares, strict=True))


def make_squares(child, data, sizes=SIZES, options=OPTIONS):
    """Return the properties of an image and its squares, made by a child."""
    arguments = {name: value for name, value in options.items() if name != "filter"}
    formats = [RowFormat(SQUARE, size) for size in sizes]
    return child.make_rows(data, formats, filter=options["filter"], decode_arguments=arguments)


def check_equal(child, data, sizes=SIZES, options=OPTIONS):
    """Check that the child and this process give equal pixels and properties, or the same error."""
    assert decode_in_child(child, data, sizes, options) == decode_here(data, sizes, options)


def written(path):
    """Wait until a file is written, and return its text."""
    for _ in range(1200):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"nobody wrote {path.name}")


def is_gone(pid):
    """Return True once the process *pid* has ended, after waiting up to 20 seconds."""
    for _ in range(400):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def wicked(tmp_path):
    """Return the command of a child that can be made to fail, beside a readable image."""
    (tmp_path / "wicked.py").write_text(WICKED)
    (tmp_path / "good.jpg").write_bytes(picture())
    return [
        sys.executable,
        str(tmp_path / "wicked.py"),
        str(tmp_path / "good.jpg"),
        str(tmp_path / "note"),
    ]


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Check that no process, zombie, open pipe or thread outlives a test."""
    this = psutil.Process()
    gc.collect()  # files of earlier tests that only wait for it must not close during this one
    # Python's threads: one that was joined may stay in the kernel's count for a moment.
    before = this.num_fds(), set(threading.enumerate()), this.children()
    yield
    assert (this.num_fds(), set(threading.enumerate()), this.children()) == before


@pytest.mark.parametrize(
    "data",
    [picture(), picture(format="PNG"), picture(400, 300), b"", b"no picture", picture()[:500]],
    ids=["jpeg", "png", "reduced", "empty", "other", "truncated"],
)
def test_child_and_parent_decode_equally(data):
    """Pixels, properties and errors agree."""
    with IsolatedDecoder() as child:
        check_equal(child, data)


def test_one_child_decodes_many_images(wicked):
    """An unreadable image does not require a new child."""
    pids = set()
    with IsolatedDecoder(command=wicked) as child:
        for data, status in [(b"", EMPTY), (b"who", UNIDENTIFIED), (b"who", UNIDENTIFIED)]:
            with pytest.raises(DecodeError) as caught:
                make_squares(child, data)
            assert caught.value.status == status
            note = Path(wicked[-1])
            pids |= {note.read_text()} if note.exists() else set()
        check_equal(child, picture())
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"crash", CRASHED, f"made the decoder crash (signal {signal.SIGSEGV:d}), twice"),
        (b"exit", CRASHED, "made the decoder crash (exit status 3), twice"),
        (b"memory", CRASHED, "needed more than 1024 MiB, twice"),
        (b"hang", TIMEOUT, "took too long, twice"),
    ],
)
def test_an_image_that_crashes_two_children_is_quarantined(wicked, data, status, reason):
    """The reason is the same every time, and the next image is decoded normally."""
    patience = 0.5 if data == b"hang" else 60
    with IsolatedDecoder(command=wicked, timeout_seconds=patience, memory_limit=2**30) as child:
        with pytest.raises(DecodeError) as caught:
            make_squares(child, data)
        child.timeout_seconds = 60
        check_equal(child, picture())
    assert (caught.value.status, caught.value.reason) == (status, reason)


def test_a_single_crash_is_retried(wicked):
    """The machine may have caused the crash, so the second child's answer counts."""
    with IsolatedDecoder(command=wicked) as child:
        resized, _ = make_squares(child, b"moody")
    assert (resized.width, resized.height) == (83, 61)


def test_a_child_killed_while_it_answers_is_replaced(monkeypatch):
    """The answer counts, and the next image gets a new child."""
    with IsolatedDecoder() as child:
        check_equal(child, picture())
        ask = child._child.ask

        def ask_too_long(*frame):
            answer = ask(*frame)
            first._expire()
            return answer

        first = child._child
        monkeypatch.setattr(first, "ask", ask_too_long)
        check_equal(child, picture())
        assert child._child is not first
        check_equal(child, picture())


def test_ctrl_c_does_not_reach_the_child():
    """An interrupt would look like a crash and quarantine a readable image."""
    with IsolatedDecoder() as child:
        check_equal(child, picture())
        assert os.getpgid(child._child._process.pid) != os.getpgid(0)


def test_output_of_the_child_does_not_corrupt_the_protocol(wicked, capfd):
    """Output of Python, programs and C libraries reaches neither the frames nor the terminal."""
    with IsolatedDecoder(command=wicked) as child:
        resized, _ = make_squares(child, b"chatter")
    assert (resized.width, resized.height) == (83, 61)
    assert capfd.readouterr() == ("", "")


def test_an_image_beyond_the_memory_limit_counts_as_a_crash():
    """The image has 8,000 x 8,000 pixels in 200 kB, and the limit allows a quarter of them."""
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(buffer, "PNG", compress_level=1)
    with IsolatedDecoder(memory_limit=64 * 2**20) as child:
        with pytest.raises(DecodeError, match="needed more than 64 MiB, twice") as caught:
            make_squares(child, buffer.getvalue())
        assert caught.value.status == CRASHED
        check_equal(child, picture())


def test_a_large_file_passes_through_the_pipe():
    """Both directions carry more than a pipe buffers."""
    noise = np.random.default_rng(1).integers(0, 256, (700, 900, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 1_000_000
    with IsolatedDecoder() as child:
        check_equal(child, buffer.getvalue(), sizes=(72, 224, 288))


def test_a_child_that_dies_while_it_is_written_to_is_a_crash():
    """The pipe breaks before the whole image is written."""
    program = """if True:
        import os, sys
        from pipeline.images import sandbox
        sandbox._read_frame(sys.stdin.buffer)
        sandbox._write_frame(sys.stdout.buffer, {}, b"")
        os._exit(5)
    """
    with (
        IsolatedDecoder(command=[sys.executable, "-c", program]) as child,
        pytest.raises(DecodeError, match=r"crash \(exit status 5\), twice"),
    ):
        make_squares(child, bytes(10_000_000))


@pytest.mark.parametrize("program", ["import sys; sys.exit(4)", "print('hello')"])
def test_a_child_that_cannot_start_is_an_error_not_a_quarantine(program):
    """A faulty installation must not quarantine images."""
    with (
        IsolatedDecoder(command=[sys.executable, "-c", program]) as child,
        pytest.raises(TesseraeError, match="does not start") as caught,
    ):
        make_squares(child, picture())
    assert not isinstance(caught.value, DecodeError)


def test_a_decoder_may_be_closed_twice_or_unused():
    """A decode after closing starts a new child."""
    child = IsolatedDecoder()
    child.close()
    check_equal(child, picture())
    child.close()
    child.close()
    check_equal(child, picture())
    child.close()


def test_a_child_does_not_outlive_its_killed_parent(wicked, tmp_path):
    """Even a child that hangs and never reads the end of its input is killed."""
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
        from pipeline.images.sandbox import IsolatedDecoder
        arguments = dict(fit="crop", serves=8, exif=False)
        IsolatedDecoder(command={wicked!r}).make_rows(
            b"hang", [("square", 8)], filter="box", decode_arguments=arguments
        )
        """)
    )
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, str(parent)], env={**os.environ, "PYTHONPATH": root}
    ) as process:
        pid = int(written(Path(wicked[-1])))
        process.kill()
    try:
        assert is_gone(pid)
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def test_real_photographs_are_decoded_equally_in_a_child(real_data):
    """Photographs are equal at the three sizes of a run."""
    options = {**OPTIONS, "serves": 288}
    with IsolatedDecoder() as child:
        for path in sorted((real_data / "imagenet" / "train").rglob("*.JPEG"))[::40]:
            check_equal(child, path.read_bytes(), sizes=(72, 224, 288), options=options)


def test_hostile_files_are_decoded_equally_in_a_child(real_data):
    """Pixels, properties and reasons of 383 broken, odd and dangerous files agree."""
    with IsolatedDecoder() as child:
        for path in sorted((real_data / "hostile").iterdir()):
            check_equal(child, path.read_bytes())


def test_the_reason_of_a_broken_image_survives_the_child(real_data):
    """The table does not depend on the process that decoded the image."""
    data = (real_data / "hostile" / "pillow__broken.png").read_bytes()
    with IsolatedDecoder() as child, pytest.raises(DecodeError) as caught:
        make_squares(child, data)
    assert caught.value.status == CORRUPT
