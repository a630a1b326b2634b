"""The choice between Pillow-SIMD and stock Pillow, the compilation of the one, and the final check.

This module uses the standard library only.
"""

import os
import shutil
from pathlib import Path

from workflows.setup import detect_pillow
from workflows.setup.detect_pillow import PILLOW_SIMD, PILLOW_SIMD_SHA256, PILLOW_STOCK
from workflows.setup.environment import (
    Environment,
    SetupError,
)


def add_system_packages(environment: Environment) -> None:
    """Install the system packages that compiling lacks, if run as root with apt-get available.

    A failure is printed and not raised, because stock Pillow can be installed instead.

    Args:
        environment: The environment whose log gets the output; its folder must exist.
    """
    missing = detect_pillow.missing_packages()
    if not missing or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    # Another apt may hold the lock, as on a machine that is just being set up: wait for it.
    apt = "apt-get -o DPkg::Lock::Timeout=120"
    get = f'{apt} install -y --no-install-recommends "$@"'
    command = ("sh", "-c", f"{get} || {{ {apt} update && {get}; }}", "sh", *missing)
    step = f"installing the system packages {' '.join(missing)}"
    try:
        environment.run(step, *command, env={"DEBIAN_FRONTEND": "noninteractive"})
    except SetupError as error:
        print(f"{error}\nsetup: continuing without them")


def compile_pillow_simd(environment: Environment) -> None:
    """Compile Pillow-SIMD into `wheels` of an environment, and check its instructions.

    The wheel is not installed.

    Args:
        environment: The environment, which exists and has pip.

    Raises:
        SetupError: Compilation failed, or the binary lacks the instructions of this CPU.
    """
    level = "avx2" if detect_pillow.cpu_has_avx2() else "sse4"  # SSE4 is the default of its build
    compiler = os.environ.get("CC", "cc") + (" -mavx2" if level == "avx2" else "")
    pinned = f"pillow-simd=={PILLOW_SIMD} --hash=sha256:{PILLOW_SIMD_SHA256}\n"
    (environment.folder / "pillow-simd.txt").write_text(pinned, encoding="utf-8")
    # pip's cache ignores CC, and could return a wheel that was compiled without AVX2.
    environment.pip(
        f"compiling Pillow-SIMD {PILLOW_SIMD} for {level.upper()}",
        "wheel", "--no-cache-dir", "--no-binary", "pillow-simd", "--no-deps", "--require-hashes",
        "-r", f"{environment.name}/pillow-simd.txt", "-w", f"{environment.name}/wheels",
        env={"CC": compiler, "CPATH": detect_pillow.include_path()},
    )  # fmt: skip
    compiled_level = detect_pillow.simd_level_of_wheel(_compiled(environment)[0])
    if compiled_level != level:
        raise SetupError(
            f"setup failed: Pillow-SIMD was compiled with `{compiler}`, yet its binary resizes "
            f"with {compiled_level}, not {level}. Set another compiler (CC=), or PILLOW=stock."
        )


def _compiled(environment: Environment) -> list[Path]:
    return list((environment.folder / "wheels").glob(f"pillow_simd-{PILLOW_SIMD}-*.whl"))


def choose_pillow(environment: Environment, preference: str, *, system: bool) -> str:
    """Compile Pillow-SIMD if this machine can, and pin the one version of `pillow`.

    The wheels are written to `.venv/wheels`, and the versions to `.venv/constraints.txt`; nothing
    is installed into the environment. A wheel that is there already is not compiled again.

    Args:
        environment: The environment that Pillow is chosen for, which exists and has pip.
        preference: `auto`, `simd` or `stock`.
        system: True to install missing system packages, if run as root with apt-get available.

    Returns:
        The reason why stock Pillow was chosen; empty for Pillow-SIMD.

    Raises:
        SetupError: *preference* is `simd`, and Pillow-SIMD cannot be compiled here.
    """
    wheels = environment.folder / "wheels"
    wheels.mkdir(exist_ok=True)
    if system and preference != "stock" and detect_pillow.is_x86():
        add_system_packages(environment)
    ready = bool(_compiled(environment)) and preference != "stock"
    reason = "" if ready else detect_pillow.why_stock(preference)
    if not (reason or ready):
        try:
            compile_pillow_simd(environment)
        except SetupError as error:
            print(error)
            reason = f"Pillow-SIMD did not compile: see {environment.folder / 'setup.log'}"
    if reason and preference == "simd":
        raise SetupError(f"setup failed: PILLOW=simd was requested, but {reason}.")
    if not reason:
        detect_pillow.write_stand_in(wheels)
    tested = (environment.root / "constraints.txt").read_text(encoding="utf-8")
    version = PILLOW_STOCK if reason else PILLOW_SIMD
    pinned = f"{tested}\npillow=={version}\n"
    (environment.folder / "constraints.txt").write_text(pinned, encoding="utf-8")
    return reason


def check_pillow(site: Path, *, stock: bool, step: str) -> None:
    """Check that the chosen Pillow, and no other distribution, owns the `PIL` folder.

    Args:
        site: The `site-packages` folder.
        stock: True if stock Pillow was chosen, False for Pillow-SIMD.
        step: The step that was just run, for the error message.

    Raises:
        SetupError: No distribution, another one or several own the folder, or its binary resizes
            with other instructions than the chosen one.
    """
    expected = f"pillow {PILLOW_STOCK}" if stock else f"pillow-simd {PILLOW_SIMD}"
    owners, level = detect_pillow.pillow_owners(site), detect_pillow.installed_simd_level(site)
    if owners != [expected] or (level == "none") != stock:
        raise SetupError(
            f"setup failed: after {step} the PIL folder belongs to "
            f"{' and '.join(owners) or 'no distribution'} and resizes with {level}, where "
            f"{expected} alone was expected. Run `make clean setup`; if the error persists, a "
            "requirement asks for another Pillow."
        )
