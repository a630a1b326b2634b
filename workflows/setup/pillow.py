"""Which Pillow this is, and which one this machine can have. Standard library only.

Pillow-SIMD resizes several times faster than Pillow where the CPU has AVX2, but it has to be
compiled, and its name does not satisfy what requires `pillow`: pip would lay Pillow's files over it
without a word. So `workflows.setup.install` compiles it, looks into the binary, and installs a
local distribution named `pillow`, of the same version, that holds nothing and requires only
`pillow-simd`. Where it cannot be compiled, stock Pillow serves, and this is said: it makes other
pixels (up to 16 levels away), which is another recipe.
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

PILLOW_SIMD = "12.1.1.post0"
PILLOW_SIMD_SHA256 = "8e9694ec94c59d12f16753cbf48a3080266bdd704b0c51a630318c7a325625b1"  # sdist
PILLOW_STOCK = "12.1.1"  # the same code without the vector instructions

# Debian's package, and the header that Pillow's build looks for.
HEADERS = {
    "libjpeg-dev": "jpeglib.h",
    "zlib1g-dev": "zlib.h",
    "libtiff-dev": "tiff.h",
    "libwebp-dev": "webp/demux.h",
    "liblcms2-dev": "lcms2.h",
    "libopenjp2-7-dev": "openjpeg-2.*/openjpeg.h",
}
DISPENSABLE = frozenset(HEADERS) - {"libjpeg-dev", "zlib1g-dev"}  # Pillow builds without these

# The shuffle of bytes, with which the resizer's inner loops begin: on 32 bytes at once it needs
# AVX2 (VEX.256.66.0F38.W0 00), on 16 bytes SSSE3 (66 0F 38 00). Counted in the whole file of
# version 12.1.1, compiled by gcc 12: AVX2 build 782 and 0, SSE4 build 0 and 546, stock wheel 0
# and 0. A disassembler counts the same: four fixed bytes are rare enough to do without one.
AVX2_SHUFFLE = re.compile(
    rb"\xc4[\x42\x62\xc2\xe2][" + re.escape(bytes(range(0x05, 0x80, 8))) + rb"]\x00"
)
SSE4_SHUFFLE = re.compile(rb"\x66[\x40-\x4f]?\x0f\x38\x00")
SHUFFLES_AT_LEAST = 50


def simd_level(binary: bytes) -> str:
    """Say which vector instructions a compiled `PIL._imaging` resizes with.

    The file is read, not the flags it was made with: pip's cache hands out wheels that were
    compiled with other flags.

    Returns:
        `avx2`, `sse4` or `none`.
    """
    if len(AVX2_SHUFFLE.findall(binary)) >= SHUFFLES_AT_LEAST:
        return "avx2"
    return "sse4" if len(SSE4_SHUFFLE.findall(binary)) >= SHUFFLES_AT_LEAST else "none"


def simd_level_of_wheel(wheel: Path) -> str:
    """Say the same of the binary inside a wheel."""
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith("PIL/_imaging.")]
        return simd_level(files.read(names[0])) if names else "none"


def installed_simd_level(site: Path) -> str:
    """Say the same of the Pillow installed in *site*, a `site-packages` folder."""
    binaries = sorted(site.glob("PIL/_imaging.*"))
    return simd_level(binaries[0].read_bytes()) if binaries else "none"


def pillow_owners(site: Path) -> list[str]:
    """List the installed distributions that brought the `PIL` folder of *site*.

    Returns:
        `name version` of each, sorted. Anything but one means that files were overwritten.
    """
    owners = []
    for record in site.glob("*.dist-info/RECORD"):
        if re.search(r"^PIL/__init__\.py,", record.read_text(encoding="utf-8"), re.MULTILINE):
            name, version = record.parent.name.removesuffix(".dist-info").split("-", 1)
            owners.append(f"{name.lower().replace('_', '-')} {version}")
    return sorted(owners)


def cpu_has_avx2(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether this CPU runs AVX2 code. Where the system does not tell, no."""
    try:
        return re.search(r"\bavx2\b", cpuinfo.read_text(encoding="utf-8")) is not None
    except OSError:
        return False


def _header_folders() -> list[Path]:
    """List the folders in which a C compiler looks for headers."""
    named = [Path(part) for part in os.environ.get("CPATH", "").split(os.pathsep) if part]
    usual = [Path("/usr/local/include"), Path("/usr/include"), Path(sys.base_prefix) / "include"]
    return [*named, *usual, *Path("/usr/include").glob("*-linux-gnu*")]


def _has_header(pattern: str) -> bool:
    return any(True for folder in _header_folders() for _ in folder.glob(pattern))


def missing_packages() -> list[str]:
    """List the system packages (Debian's names) that compiling Pillow-SIMD needs and lacks."""
    missing = [package for package, header in HEADERS.items() if not _has_header(header)]
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("python3-dev")
    if not shutil.which(shlex.split(os.environ.get("CC", "cc"))[0]):
        missing += ["gcc", "libc6-dev"]
    return missing


def is_x86() -> bool:
    """Say whether Pillow-SIMD knows this machine's instructions at all."""
    return platform.machine().lower() in ("x86_64", "amd64")


def why_stock(wish: str) -> str:
    """Say why Pillow-SIMD cannot be compiled here and now; empty when it can.

    Args:
        wish: `auto`, `simd` or `stock`. With `simd`, formats whose headers are missing are done
            without; otherwise a Pillow that reads them all is worth more than a fast one.
    """
    if wish == "stock":
        return "it was asked for"
    if not is_x86():
        return f"Pillow-SIMD is for x86-64 and this machine is {platform.machine()}"
    dispensable = DISPENSABLE if wish == "simd" else frozenset()
    if missing := [package for package in missing_packages() if package not in dispensable]:
        return f"this machine lacks what compiling Pillow-SIMD needs: {', '.join(missing)}"
    return ""


def write_stand_in(folder: Path) -> Path:
    """Write the wheel named `pillow` that holds nothing and requires Pillow-SIMD of its version."""
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
