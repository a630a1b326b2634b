"""The implementation of `tesserae doctor`: findings about this machine, each with advice."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from pipeline.installation import (
    DISTRIBUTION,
    ROOT,
    install_advice,
    installed_version,
    reinstall_advice,
    uses_make,
)
from tesserae_command import FOLDER, MODULES, owners_of
from workflows.setup import detect_pillow
from workflows.setup.environment import Environment
from workflows.setup.machine import (
    Finding,
    check_cluster,
    check_cores_and_memory,
    check_gpu,
    check_open_files,
    check_ports,
    check_store_disk,
)
from workflows.setup.options import DoctorOptions
from workflows.setup.replace_pillow import replace_pillow

PACKAGES = ("dask", "distributed", "zarr", "numpy", "pyarrow", "simplejpeg", "xxhash", "fsspec")

# The names by which Pillow reports its codecs, with the Debian package that each is compiled with.
FORMATS = {
    "jpg": "libjpeg-dev",
    "zlib": "zlib1g-dev",
    "webp": "libwebp-dev",
    "libtiff": "libtiff-dev",
    "jpg_2000": "libopenjp2-7-dev",
    "avif": "",  # Debian's libavif is too old; only stock Pillow's wheel brings its own
}


def run_doctor(options: DoctorOptions) -> int:
    """Run all checks and print the findings, as a table, as lines or as JSON.

    Args:
        options: The parsed options: `store` (the working folder if it is None), `cluster` (an
            address to check too; None for none), `certs`, `json` and `install_pillow_simd`.

    Returns:
        The exit status: 1 if a finding is `broken`, which would prevent `prepare`, else 0.

    Raises:
        TesseraeError: Pillow-SIMD cannot be compiled or installed here.
    """
    if options.install_pillow_simd:
        # The lines of its steps must not stand before the document.
        with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
            replace_pillow(Path(sys.prefix))
    findings = run_checks(options.store or ".")
    if address := options.cluster:
        findings += run_check("cluster", lambda: check_cluster(address, options.certs))
    broken = any(finding.state == "broken" for finding in findings)
    if options.json:
        print(json.dumps({"ok": not broken, "findings": [asdict(f) for f in findings]}, indent=1))
    elif sys.stdout.isatty():
        show_table(findings)
    else:
        show_lines(findings)
    return int(broken)


def run_checks(store: str) -> list[Finding]:
    """Run all checks, and return their findings in the order of the table.

    Args:
        store: Path or URL of the store whose disk is checked; it need not exist. Small temporary
            files are written to the disk and removed.

    Returns:
        The findings, each with `subject`, `state` (`ok`, `note` or `broken`), `found` (the
        observation) and `advice` (empty if there is nothing to do). A check may give several.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Python", check_python),
        ("modules", check_modules),
        ("Pillow", check_imported_pillow),
        ("libjpeg-turbo", check_jpeg),
        ("crop decoder", check_crop_decoder),
        ("formats", check_formats),
        ("packages", check_packages),
        ("torch", check_torch),
        ("GPU", check_gpu),
        ("cores, memory", check_cores_and_memory),
        ("ports", check_ports),
        ("open files", check_open_files),
        ("room", lambda: check_store_disk(store)),
    ]
    return [finding for subject, check in checks for finding in run_check(subject, check)]


def run_check(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of one check; an error in it becomes a finding, too.

    Args:
        subject: Subject of the finding about an error, such as `GPU`.
        check: A function that yields findings.

    Yields:
        The findings of the check. An ImportError, OSError, RuntimeError or ValueError in it becomes
        a last one, of the state `broken`; other exceptions are raised.
    """
    try:
        yield from check()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        state = f"cannot be checked: {type(error).__name__}: {error}"
        yield Finding(subject, "broken", state, _sentence(reinstall_advice()))


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def check_python() -> Iterator[Finding]:
    """Yield the version and the location of the running Python."""
    yield Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def check_modules() -> Iterator[Finding]:
    """Yield a finding about the owners of Tesserae's modules.

    That Python finds other modules in place of them is no finding: the command then does not start.
    """
    owners = {name: owners_of(file, FOLDER) for name, file in MODULES.items()}
    shared = [
        f"{name} of {' and '.join(several)}" for name, several in owners.items() if len(several) > 1
    ]
    if shared:
        advice = (
            "One has overwritten the other's files. Install Tesserae in a virtual environment of"
            " its own."
        )
        yield Finding("modules", "broken", f"{', '.join(shared)}, in {FOLDER}", advice)
    else:
        yield Finding("modules", "ok", f"{', '.join(MODULES)} in {FOLDER}")


def check_imported_pillow() -> Iterator[Finding]:
    """Yield a finding about the Pillow that is imported and its vector instructions."""
    spec = importlib.util.find_spec("PIL")
    if spec is None or spec.origin is None:
        yield Finding("Pillow", "broken", "not installed", _sentence(reinstall_advice()))
        return
    site = Path(spec.origin).parent.parent
    yield pillow_finding(
        detect_pillow.pillow_owners(site),
        detect_pillow.installed_simd_level(site),
        avx2=detect_pillow.cpu_has_avx2(),
        why_stock=str(Environment(ROOT).stamp().get("why_stock", "")),
    )


def _replace_pillow_advice() -> str:
    """Return how to replace all installed kinds of Pillow by one, as an imperative."""
    if uses_make():
        return reinstall_advice()
    return (
        "run `tesserae doctor --install-pillow-simd`, which removes them and compiles one, or, for"
        " stock Pillow, `pip uninstall pillow pillow-simd` and then `pip install pillow`"
    )


def pillow_finding(owners: list[str], level: str, *, avx2: bool, why_stock: str) -> Finding:
    """Return the finding about an installed Pillow.

    Args:
        owners: The distributions that own the `PIL` folder, as `name version`, from
            `pillow_owners`; empty if none does.
        level: The vector instructions in its binary: `avx2`, `sse4` or `none`.
        avx2: True if this CPU has AVX2.
        why_stock: The reason why `make setup` installed stock Pillow, which is shown at the level
            `none` only; empty if it did not.

    Returns:
        A finding of the state `broken` (several owners, or AVX2 code on a CPU without it), `note`
        (level `none`, which is stock Pillow, or `sse4` on a CPU with AVX2) or `ok`. No owner counts
        like one.
    """
    instructions = "without vector instructions" if level == "none" else f"with {level.upper()}"
    summary = f"{' and '.join(owners) or 'of unknown origin'}, resizing {instructions}"
    if len(owners) > 1:
        advice = f"One has overwritten the other's files: {_replace_pillow_advice()}."
        return Finding("Pillow", "broken", summary, advice)
    if level == "avx2" and not avx2:
        advice = f"This CPU has no AVX2 and cannot run this build: {_replace_pillow_advice()}."
        return Finding("Pillow", "broken", summary, advice)
    if level == "none":
        reason = f"; {why_stock}" if why_stock else ""
        how = (
            "install what is missing, then run `make setup`"
            if uses_make()
            else "run `tesserae doctor --install-pillow-simd`"
        )
        advice = f"Pillow-SIMD is several times faster: {how}."
        return Finding("Pillow", "note", f"STOCK {summary}{reason}", advice)
    if level == "sse4" and avx2:
        how = _replace_pillow_advice()
        advice = f"This CPU has AVX2, which is faster with the same pixels: {how}."
        return Finding("Pillow", "note", summary, advice)
    return Finding("Pillow", "ok", summary)


def check_jpeg() -> Iterator[Finding]:
    """Yield the versions of libjpeg-turbo that the two decoders bundle."""
    from PIL import features

    in_pillow = features.version_feature("libjpeg_turbo") or "none"
    spec = importlib.util.find_spec("simplejpeg._jpeg")
    binary = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    match = re.search(rb"libjpeg-turbo version ([0-9.]+)", binary)
    in_simplejpeg = match[1].decode() if match else "unknown"
    state = "ok" if in_pillow != "none" else "note"
    advice = "" if state == "ok" else f"Install libjpeg-turbo's headers, then {reinstall_advice()}."
    yield Finding("libjpeg-turbo", state, f"simplejpeg {in_simplejpeg}, Pillow {in_pillow}", advice)


def check_crop_decoder() -> Iterator[Finding]:
    """Yield the decoder that loaders use for the crops of encoded rows."""
    from pipeline.images.crop_decode import crop_decoder, has_extension

    if has_extension():
        yield Finding("crop decoder", "ok", crop_decoder())
    else:
        advice = (
            "The extension decodes encoded rows several times faster: install a compiler, Python's"
            " headers and those of libjpeg-turbo (gcc libc6-dev python3-dev libjpeg-dev), then"
            f" {reinstall_advice()}."
        )
        yield Finding("crop decoder", "note", crop_decoder(), advice)


def check_formats() -> Iterator[Finding]:
    """Yield the image formats that this Pillow can read."""
    from PIL import features

    lacking = [name for name in FORMATS if not features.check(name)]
    reads = ", ".join(name for name in FORMATS if name not in lacking)
    packages = " ".join(FORMATS[name] for name in lacking if FORMATS[name])
    state = "broken" if {"jpg", "zlib"} & set(lacking) else "note" if packages else "ok"
    advice = f"Install {packages}, then {reinstall_advice()}." if packages else ""
    without = f"; not {', '.join(lacking)}: those images are quarantined" if lacking else ""
    yield Finding("formats", state, reads + without, advice)


def check_packages() -> Iterator[Finding]:
    """Yield a comparison of the installed package versions with those that Tesserae needs.

    In a checkout they are compared with those that were tested together, too.
    """
    tested = tested_versions()
    have = {name: installed_version(name) for name in PACKAGES}
    versions = ", ".join(f"{name} {number}" for name, number in have.items() if number)
    required = {name: text for name, text in required_versions().items() if name in have}
    unfit = [name for name in have if not _fits(have[name], required.get(name, ""))]
    untested = [name for name, number in have.items() if number != tested.get(name, number)]
    if unfit:
        needs = ", ".join(f"{name}{required.get(name, '')}" for name in unfit)
        advice = f"Tesserae needs {needs}: {reinstall_advice()}."
        yield Finding("packages", "broken", versions, advice)
    elif untested:
        expected = ", ".join(f"{name} {tested[name]}" for name in untested)
        advice = f"The tested versions are {expected}: {reinstall_advice()}."
        yield Finding("packages", "note", versions, advice)
    else:
        yield Finding("packages", "ok", versions + (": as tested" if tested else ""))


def _fits(number: str, required: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return number != "" and SpecifierSet(required).contains(number, prereleases=True)


def required_versions() -> dict[str, str]:
    """Return the versions that this Tesserae requires of packages, such as `>=2`, by name."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:  # a checkout that is not installed
        return {}
    return {part.name: str(part.specifier) for part in requirements if part.marker is None}


def tested_versions() -> dict[str, str]:
    """Return the tested version of each package in constraints.txt, by name in lower case.

    Outside of a checkout there is no such file, and the result is empty.
    """
    file = ROOT / "constraints.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): number for name, number in pins}


def check_torch() -> Iterator[Finding]:
    """Yield the version of torch, without importing it."""
    if number := installed_version("torch"):
        yield Finding("torch", "ok", number)
    else:
        advice = f"Only training needs it: {install_advice('train')}."
        yield Finding("torch", "note", "not installed", advice)


COLOURS = {"ok": "green", "note": "yellow", "broken": "bold red"}
LABELS = {"room": "free space", "locks": "file locks", "new names": "atomic create"}
"""The labels of subjects that are named otherwise in the JSON document."""


def _subject_label(finding: Finding) -> str:
    return LABELS.get(finding.subject, finding.subject)


def show_lines(findings: list[Finding]) -> None:
    """Print one line per finding, and its advice, if there is any, on the next line.

    The subjects `room`, `locks` and `new names` are printed as `free space`, `file locks` and
    `atomic create`.

    Args:
        findings: The findings, from `run_checks`, printed in their order.
    """
    for finding in findings:
        print(f"{finding.state:<7} {_subject_label(finding):<14} {finding.found}")
        if finding.advice:
            print(f"{'':<7} {'':<14} -> {finding.advice}")


def show_table(findings: list[Finding]) -> None:
    """Print the findings as a table; brackets in what was found are not interpreted as markup.

    Args:
        findings: The findings, from `run_checks`, printed in their order.
    """
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
        table.add_row(
            Text(finding.state, style=COLOURS[finding.state]), _subject_label(finding), text
        )
    Console().print(table)
