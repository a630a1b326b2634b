"""The installed Pillow is detected from its files alone."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workflows.setup import detect_pillow

WIDE = b"\xc4\xe2\x4d\x00\xc1"  # vpshufb ymm0, ymm6, ymm1
NARROW = b"\x66\x0f\x38\x00\xc1"  # pshufb xmm0, xmm1
NARROW_FAR = b"\x66\x44\x0f\x38\x00\xc1"  # pshufb xmm8, xmm1
WIDE_XMM = b"\xc4\xe2\x49\x00\xc1"  # vpshufb xmm0, xmm6, xmm1: AVX, but 16 bytes


@pytest.mark.parametrize(
    ("code", "level"),
    [
        (WIDE * 16, "avx2"),
        (WIDE * 16 + NARROW * 16, "avx2"),
        (WIDE * 15, "none"),
        (WIDE_XMM * 1000, "none"),
        (NARROW * 16, "sse4"),
        (NARROW_FAR * 16, "sse4"),
        (NARROW * 15, "none"),
        (b"", "none"),
    ],
)
def test_the_simd_level_is_read_from_the_instructions(code, level):
    """Many shuffles of 32 bytes mean AVX2, many of 16 bytes SSE4, and a few by chance nothing."""
    assert detect_pillow.simd_level(b"\x7fELF" + code) == level


def test_random_bytes_are_no_vector_code():
    """A sequence of four bytes hardly occurs sixteen times in a random megabyte."""
    import numpy as np

    noise = np.random.default_rng(0).bytes(1 << 20)

    assert detect_pillow.simd_level(noise) == "none"


def _owner(site: Path, name: str, version: str, *files: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in files))


def test_the_owner_of_pil_is_the_package_that_recorded_its_files(tmp_path):
    """A stand-in without files is no owner; a second owner is detected."""
    _owner(tmp_path, "pillow_simd", "1.0", "PIL/__init__.py", "PIL/Image.py")
    _owner(tmp_path, "pillow", "1.0", "pillow-1.0.dist-info/METADATA")
    _owner(tmp_path, "bokeh", "3.0", "bokeh/PIL/__init__.py")
    assert detect_pillow.pillow_owners(tmp_path) == ["pillow-simd 1.0"]

    _owner(tmp_path, "pillow", "13.0", "PIL/__init__.py")

    assert detect_pillow.pillow_owners(tmp_path) == ["pillow 13.0", "pillow-simd 1.0"]


def test_the_stand_in_is_empty_and_requires_pillow_simd(tmp_path):
    """The stand-in satisfies the requirement `pillow`, and overwrites no file."""
    path = detect_pillow.write_stand_in(tmp_path)

    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (metadata,) = (wheel.read(n).decode() for n in names if n.endswith("METADATA"))

    assert path.name == f"pillow-{detect_pillow.PILLOW_SIMD}-py3-none-any.whl"
    assert all(".dist-info/" in name for name in names)
    assert f"Requires-Dist: pillow-simd (=={detect_pillow.PILLOW_SIMD})" in metadata


def test_a_cpu_without_the_avx2_flag_has_no_avx2(tmp_path):
    """The flag must be a separate word; a missing file means no, too."""
    cpuinfo = tmp_path / "cpuinfo"
    assert not detect_pillow.cpu_has_avx2(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx avx2x sse4_2\n")
    assert not detect_pillow.cpu_has_avx2(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx avx2\n")
    assert detect_pillow.cpu_has_avx2(cpuinfo)


@pytest.fixture(name="able")
def _able(monkeypatch):
    """Simulate a machine on which Pillow-SIMD can be compiled."""
    monkeypatch.setattr(detect_pillow, "is_x86", lambda: True)
    monkeypatch.setattr(detect_pillow, "missing_packages", list)
    return monkeypatch


def test_a_machine_that_can_compile_gets_pillow_simd(able):
    """Stock Pillow is used only on request."""
    assert detect_pillow.why_stock("auto") == ""
    assert detect_pillow.why_stock("simd") == ""
    assert "requested" in detect_pillow.why_stock("stock")


def test_missing_headers_are_named(able):
    """A Pillow that reads every format is preferred to a fast one, unless that is requested."""
    able.setattr(detect_pillow, "missing_packages", lambda: ["libwebp-dev"])

    assert "libwebp-dev" in detect_pillow.why_stock("auto")
    assert detect_pillow.why_stock("simd") == ""


@pytest.mark.parametrize("package", ["libjpeg-dev", "zlib1g-dev", "gcc", "python3-dev"])
def test_simd_is_impossible_without_jpeg_headers_or_a_compiler(able, package):
    """Stock Pillow is used even if Pillow-SIMD is requested."""
    able.setattr(detect_pillow, "missing_packages", lambda: [package])

    assert package in detect_pillow.why_stock("simd")


def test_another_cpu_gets_stock_pillow(able):
    """The instructions of Pillow-SIMD are those of x86-64."""
    able.setattr(detect_pillow, "is_x86", lambda: False)

    assert "x86-64" in detect_pillow.why_stock("auto")


def test_a_missing_compiler_and_missing_headers_are_detected(monkeypatch, tmp_path):
    """Headers are searched in the compiler's folders, and the compiler is the one in CC."""
    monkeypatch.setenv("CC", "/no/such/cc -O2")
    monkeypatch.setattr(detect_pillow, "_header_folders", lambda: [tmp_path])
    (tmp_path / "openjpeg-2.5").mkdir()
    (tmp_path / "openjpeg-2.5" / "openjpeg.h").touch()
    (tmp_path / "zlib.h").touch()

    missing = detect_pillow.missing_packages()

    assert {"gcc", "libjpeg-dev", "libwebp-dev"} <= set(missing)
    assert not {"zlib1g-dev", "libopenjp2-7-dev"} & set(missing)


def test_the_installed_pillow_has_one_owner():
    """The environment that runs these tests has exactly one Pillow."""
    import PIL

    site = Path(PIL.__file__).parent.parent

    assert len(detect_pillow.pillow_owners(site)) == 1
    assert detect_pillow.installed_simd_level(site) in ("avx2", "sse4", "none")


def test_setup_needs_only_the_standard_library():
    """`make setup` runs before anything is installed."""
    root = Path(detect_pillow.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import workflows.setup.install; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    loaded = {name.split(".")[0] for name in done.stdout.split()}

    assert loaded <= {*sys.stdlib_module_names, "__main__", "tesserae_command", "workflows"}
