"""Detection of the installed Pillow, and of the kinds that this machine can compile.

Pillow-SIMD resizes several times faster than Pillow on CPUs with AVX2, but it must be compiled, and
its name does not satisfy requirements of `pillow`: pip would silently overwrite its files with
Pillow's. So `install_pillow` compiles it, checks the binary, and installs a local empty
distribution named `pillow`, of the same version, that requires only `pillow-simd`. Where it cannot
be compiled, stock Pillow is installed with a notice, because its pixels differ (by up to 16
levels), which makes another recipe.

This module uses the standard library only.
"""

import base64
import hashlib
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

from tesserae_command import owners_of

PILLOW_SIMD = "12.1.1.post0"
PILLOW_SIMD_SHA256 = "8e9694ec94c59d12f16753cbf48a3080266bdd704b0c51a630318c7a325625b1"  # sdist
PILLOW_STOCK = "12.1.1"  # the same code without the vector instructions

HEADERS = {
    "libjpeg-dev": "jpeglib.h",
    "zlib1g-dev": "zlib.h",
    "libtiff-dev": "tiff.h",
    "libwebp-dev": "webp/demux.h",
    "liblcms2-dev": "lcms2.h",
    "libopenjp2-7-dev": "openjpeg-2.*/openjpeg.h",
}
"""The header that Pillow's build needs from each Debian package."""
DISPENSABLE = frozenset(HEADERS) - {"libjpeg-dev", "zlib1g-dev"}  # Pillow builds without these

# The byte shuffle that the resizer's inner loops begin with. On 32 bytes it needs AVX2
# (VEX.256.66.0F38.W0 00), on 16 bytes SSSE3 (66 0F 38 00). Counts in the file of version 12.1.1,
# compiled by gcc 12 with -O3: AVX2 build 782 and 0, SSE4 build 0 and 546; with -O2, the flag of
# Debian's own Python, 35 and 0, 0 and 112, as its loops are not unrolled; stock wheel 0 and 0. A
# disassembler counts the same: four fixed bytes are rare enough to search for them directly.
AVX2_SHUFFLE = re.compile(
    rb"\xc4[\x42\x62\xc2\xe2][" + re.escape(bytes(range(0x05, 0x80, 8))) + rb"]\x00"
)
SSE4_SHUFFLE = re.compile(rb"\x66[\x40-\x4f]?\x0f\x38\x00")
MIN_SHUFFLES = 16


def simd_level(binary: bytes) -> str:
    """Return the vector instructions that a compiled `PIL._imaging` resizes with.

    The binary is inspected instead of the compiler flags, because pip's cache may return a wheel
    that was compiled with other flags.

    Args:
        binary: The bytes of the compiled module.

    Returns:
        `avx2`, `sse4` or `none`.
    """
    if len(AVX2_SHUFFLE.findall(binary)) >= MIN_SHUFFLES:
        return "avx2"
    return "sse4" if len(SSE4_SHUFFLE.findall(binary)) >= MIN_SHUFFLES else "none"


def simd_level_of_wheel(wheel: Path) -> str:
    """Return the vector instructions that the Pillow inside a wheel resizes with.

    Args:
        wheel: The path of the wheel.

    Returns:
        `avx2`, `sse4` or `none`; `none` also if the wheel holds no Pillow.

    Raises:
        OSError: The file cannot be read.
        zipfile.BadZipFile: It is not a wheel.
    """
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith("PIL/_imaging.")]
        return simd_level(files.read(names[0])) if names else "none"


def installed_simd_level(site: Path) -> str:
    """Return the vector instructions that the installed Pillow resizes with.

    Args:
        site: A `site-packages` folder.

    Returns:
        `avx2`, `sse4` or `none`; `none` also if no Pillow is installed there.
    """
    binaries = sorted(site.glob("PIL/_imaging.*"))
    return simd_level(binaries[0].read_bytes()) if binaries else "none"


def pillow_owners(site: Path) -> list[str]:
    """Return the installed distributions that own the `PIL` folder.

    Args:
        site: A `site-packages` folder.

    Returns:
        The `name version` of each, sorted, such as `pillow-simd 12.1.1.post0`; more than one means
        that files were overwritten. Names are in lower case, with - for _.
    """
    return owners_of("PIL/__init__.py", site)


def cpu_has_avx2(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if this CPU supports AVX2; False if the system does not say.

    Args:
        cpuinfo: The file that lists the flags of the CPU (default: that of Linux).
    """
    try:
        return re.search(r"\bavx2\b", cpuinfo.read_text(encoding="utf-8")) is not None
    except OSError:
        return False


def _header_folders() -> list[Path]:
    """Return the folders in which a C compiler looks for headers."""
    named = [Path(part) for part in os.environ.get("CPATH", "").split(os.pathsep) if part]
    usual = [Path("/usr/local/include"), Path("/usr/include"), Path(sys.base_prefix) / "include"]
    return [*named, *usual, *Path("/usr/include").glob("*-linux-gnu*")]


def include_path() -> str:
    """Return a value for CPATH with which Pillow's build looks for headers where the compiler does.

    The compiler by itself knows Debian's folder of this machine's kind, where tiff.h is; Pillow's
    build asks pkg-config for it, and leaves TIFF out without a word where there is none.
    """
    return os.pathsep.join(str(folder) for folder in _header_folders() if folder.is_dir())


def _has_header(pattern: str) -> bool:
    return any(True for folder in _header_folders() for _ in folder.glob(pattern))


def missing_packages() -> list[str]:
    """Return the Debian packages that compiling Pillow-SIMD needs and this machine lacks.

    Returns:
        Their names; empty if nothing is missing.
    """
    missing = [package for package, header in HEADERS.items() if not _has_header(header)]
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("python3-dev")
    if not shutil.which(shlex.split(os.environ.get("CC", "cc"))[0]):
        missing += ["gcc", "libc6-dev"]
    return missing


def is_x86() -> bool:
    """Return True if this is an x86-64 machine, which Pillow-SIMD requires."""
    return platform.machine().lower() in ("x86_64", "amd64")


def why_stock(preference: str) -> str:
    """Return the reason why Pillow-SIMD cannot be compiled on this machine; empty if it can.

    Args:
        preference: `auto`, `simd` or `stock`. With `simd`, image formats whose headers are missing
            are left out; with `auto`, they are a reason to install stock Pillow, which has them.

    Returns:
        The reason is a phrase to follow `because`; with `stock` it is that it was requested.
    """
    if preference == "stock":
        return "it was requested"
    if not is_x86():
        return f"Pillow-SIMD is for x86-64 and this machine is {platform.machine()}"
    dispensable = DISPENSABLE if preference == "simd" else frozenset()
    if missing := [package for package in missing_packages() if package not in dispensable]:
        return f"this machine lacks what compiling Pillow-SIMD needs: {', '.join(missing)}"
    return ""


def write_stand_in(folder: Path) -> Path:
    """Write an empty wheel `pillow` that requires `pillow-simd` of the version that set-up pins.

    Installed, it satisfies requirements on `pillow` without files of its own.

    Args:
        folder: An existing folder; an earlier such wheel in it is replaced.

    Returns:
        The path of the wheel in *folder*.
    """
    info = f"pillow-{PILLOW_SIMD}.dist-info"
    files = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: pillow\n"
        f"Version: {PILLOW_SIMD}\nSummary: Stands in for the name; the files are Pillow-SIMD's.\n"
        f"Requires-Dist: pillow-simd (=={PILLOW_SIMD})\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tesserae\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{name},sha256={digest.decode()},{len(text)}\n"
    path = folder / f"pillow-{PILLOW_SIMD}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)
    return path
