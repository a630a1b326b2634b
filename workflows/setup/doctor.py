"""The work of `tesserae doctor`: findings about this machine, each with what to do."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workflows.setup import pillow
from workflows.setup.environment import Environment
from workflows.setup.machine import (
    Finding,
    cluster_found,
    files_found,
    gpu_found,
    machine_found,
    ports_found,
    room_found,
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dask", "distributed", "zarr", "numpy", "pyarrow", "simplejpeg", "xxhash", "fsspec")

# Pillow's word for it, and the system package whose header it is compiled with.
FORMATS = {
    "jpg": "libjpeg-dev",
    "zlib": "zlib1g-dev",
    "webp": "libwebp-dev",
    "libtiff": "libtiff-dev",
    "jpg_2000": "libopenjp2-7-dev",
    "avif": "",  # Debian's libavif is too old; only stock Pillow's wheel brings its own
}


def run(args: argparse.Namespace) -> int:
    """Look at everything and print it; return 1 if something would stop `prepare`."""
    findings = examine(args.store or ".")
    if args.cluster:
        findings += safely("cluster", lambda: cluster_found(args.cluster, args.certs))
    broken = any(finding.state == "broken" for finding in findings)
    if args.json:
        print(json.dumps({"ok": not broken, "findings": [asdict(f) for f in findings]}, indent=1))
    elif sys.stdout.isatty():
        show_table(findings)
    else:
        show_lines(findings)
    return int(broken)


def examine(store: str) -> list[Finding]:
    """Look at everything, in the order of the table. A look that fails is a finding too."""
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Python", python_found),
        ("Pillow", pillow_found),
        ("libjpeg-turbo", jpeg_found),
        ("formats", formats_found),
        ("packages", packages_found),
        ("torch", torch_found),
        ("GPU", gpu_found),
        ("cores, memory", machine_found),
        ("ports", ports_found),
        ("open files", files_found),
        ("room", lambda: room_found(store)),
    ]
    return [finding for subject, look in looks for finding in safely(subject, look)]


def safely(subject: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what *look* finds; what it stumbles over is the finding, and the other looks go on."""
    try:
        yield from look()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        found = f"cannot be looked at: {type(error).__name__}: {error}"
        yield Finding(subject, "broken", found, "Run `make clean setup`.")


def python_found() -> Iterator[Finding]:
    """Say which Python runs this."""
    yield Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def pillow_found() -> Iterator[Finding]:
    """Say whose Pillow is imported, and with which instructions it resizes."""
    spec = importlib.util.find_spec("PIL")
    if spec is None or spec.origin is None:
        yield Finding("Pillow", "broken", "not installed", "Run `make clean setup`.")
        return
    site = Path(spec.origin).parent.parent
    yield judge_pillow(
        pillow.pillow_owners(site),
        pillow.installed_simd_level(site),
        avx2=pillow.cpu_has_avx2(),
        why_stock=str(Environment(ROOT).stamp().get("why_stock", "")),
    )


def judge_pillow(owners: list[str], level: str, *, avx2: bool, why_stock: str) -> Finding:
    """Say what to think of a Pillow.

    Args:
        owners: The distributions that brought the `PIL` folder.
        level: The vector instructions found in its binary: `avx2`, `sse4` or `none`.
        avx2: Whether this CPU has AVX2.
        why_stock: Why `make setup` took stock Pillow; empty if it did not.
    """
    how = "without vector instructions" if level == "none" else f"with {level.upper()}"
    found = f"{' and '.join(owners) or 'of unknown origin'}, resizing {how}"
    if len(owners) > 1:
        advice = "One has overwritten the other's files. Run `make clean setup`."
        return Finding("Pillow", "broken", found, advice)
    if level == "avx2" and not avx2:
        advice = "This CPU has no AVX2 and would stop at its code. Run `make clean setup` here."
        return Finding("Pillow", "broken", found, advice)
    if level == "none":
        reason = f"; {why_stock}" if why_stock else ""
        advice = "Pillow-SIMD is several times faster: provide what is missing, then `make setup`."
        return Finding("Pillow", "note", f"STOCK {found}{reason}", advice)
    if level == "sse4" and avx2:
        advice = "This CPU has AVX2, which is faster and makes the same pixels: `make clean setup`."
        return Finding("Pillow", "note", found, advice)
    return Finding("Pillow", "ok", found)


def jpeg_found() -> Iterator[Finding]:
    """Say which libjpeg-turbo each of the two decoders carries."""
    from PIL import features

    in_pillow = features.version_feature("libjpeg_turbo") or "none"
    spec = importlib.util.find_spec("simplejpeg._jpeg")
    binary = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    match = re.search(rb"libjpeg-turbo version ([0-9.]+)", binary)
    in_simplejpeg = match[1].decode() if match else "unknown"
    state = "ok" if in_pillow != "none" else "note"
    advice = "" if state == "ok" else "Install libjpeg-turbo's headers, then `make clean setup`."
    yield Finding("libjpeg-turbo", state, f"simplejpeg {in_simplejpeg}, Pillow {in_pillow}", advice)


def formats_found() -> Iterator[Finding]:
    """Say which image formats this Pillow can read."""
    from PIL import features

    lacking = [name for name in FORMATS if not features.check(name)]
    reads = ", ".join(name for name in FORMATS if name not in lacking)
    packages = " ".join(FORMATS[name] for name in lacking if FORMATS[name])
    state = "broken" if {"jpg", "zlib"} & set(lacking) else "note" if packages else "ok"
    advice = f"Install {packages}, then run `make clean setup`." if packages else ""
    without = f"; not {', '.join(lacking)}: such images are quarantined" if lacking else ""
    yield Finding("formats", state, reads + without, advice)


def packages_found() -> Iterator[Finding]:
    """Compare what is installed with what was tested."""
    tested = tested_versions()
    have = {name: installed_version(name) for name in PACKAGES}
    missing = [name for name, number in have.items() if not number]
    other = [name for name, number in have.items() if number and number != tested.get(name)]
    found = ", ".join(f"{name} {number}" for name, number in have.items() if number)
    if missing:
        advice = f"{', '.join(missing)} not installed: run `make clean setup`."
        yield Finding("packages", "broken", found, advice)
    elif other:
        named = ", ".join(f"{name} {tested.get(name, '?')}" for name in other)
        yield Finding("packages", "note", found, f"Tested was {named}: `make clean setup`.")
    else:
        yield Finding("packages", "ok", f"{found}: as tested")


def tested_versions() -> dict[str, str]:
    """Read constraints.txt: version by name in lower case."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): number for name, number in pins}


def installed_version(name: str) -> str:
    """Return a distribution's version without importing it; empty when there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def torch_found() -> Iterator[Finding]:
    """Say whether torch is there, without importing it."""
    if number := installed_version("torch"):
        yield Finding("torch", "ok", number)
    else:
        advice = "Preparing needs none. For the training stages: `make setup EXTRAS=train`."
        yield Finding("torch", "note", "not installed", advice)


COLOURS = {"ok": "green", "note": "yellow", "broken": "bold red"}


def show_lines(findings: list[Finding]) -> None:
    """Print a line a finding, and one below it for what to do."""
    for finding in findings:
        print(f"{finding.state:<7} {finding.subject:<14} {finding.found}")
        if finding.advice:
            print(f"{'':<7} {'':<14} -> {finding.advice}")


def show_table(findings: list[Finding]) -> None:
    """Print the same as a table. Texts are shown as they are: brackets are no markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for overflow in ("ignore", "ignore", "fold"):
        table.add_column(overflow=overflow)
    for finding in findings:
        text = Text(finding.found)
        if finding.advice:
            text.append(f"\n-> {finding.advice}", style="bold")
        table.add_row(Text(finding.state, style=COLOURS[finding.state]), finding.subject, text)
    Console().print(table)
