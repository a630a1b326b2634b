"""Make `.venv`, the environment everything here runs in. Standard library only.

`make setup` runs this with the Python of the system, when nothing is installed yet; so it is no
`tesserae` command, and neither it nor what it imports needs anything. It lives among the workflows
because a person runs it, and because `tesserae doctor` asks the same questions afterwards.

Steps: a virtual environment and a new pip; the system packages that compiling needs, where this
is root's machine; Pillow-SIMD, or stock Pillow (`workflows.setup.pillow` says which and why); the
project with its extras, pinned to what was tested. A step that installs is followed by a look at
who owns the `PIL` folder. The stamp comes last: without it the next run starts afresh. From
nothing: about 90 s on 2 cores, 30 of them the compiler; a second run 0.2 s.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workflows.setup import pillow
from workflows.setup.environment import (
    Environment,
    SetupError,
    Wish,
    digest_of_inputs,
    project_tables,
)

DEFAULT_EXTRAS = ("devkit", "lsun", "s3", "sample", "slurm")


def make_fresh(place: Environment) -> None:
    """Make a `.venv` that holds nothing but a new pip.

    Raises:
        SetupError: A `.venv` that somebody else made is in the way.
    """
    if place.folder.exists():
        if not (place.folder / "setup.started").exists():
            raise SetupError(
                f"setup failed: {place.folder} was not made by `make setup`, so it is left alone. "
                "Delete it or move it away, then run `make setup` again."
            )
        shutil.rmtree(place.folder)
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"setup failed: {sys.executable} cannot make environments, it has no ensurepip. "
            "Install the system package python3-venv, or name another: make setup PYTHON=..."
        )
    place.folder.mkdir()
    (place.folder / "setup.started").touch()
    step = f"making .venv with Python {platform.python_version()}"
    place.run(step, sys.executable, "-I", "-m", "venv", ".venv")
    place.pip("renewing pip", "install", "pip", "--upgrade", "-c", "constraints.txt")


def add_system_packages(place: Environment) -> None:
    """Install what compiling lacks, where there is apt-get and we are root; else do nothing."""
    missing = pillow.missing_packages()
    if not missing or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    get = 'apt-get install -y --no-install-recommends "$@"'
    command = ("sh", "-c", f"{get} || {{ apt-get update && {get}; }}", "sh", *missing)
    step = f"installing the system packages {' '.join(missing)}"
    try:
        place.run(step, *command, env={"DEBIAN_FRONTEND": "noninteractive"})
    except SetupError as error:
        print(f"{error}\nsetup: going on without them")


def compile_pillow_simd(place: Environment) -> None:
    """Compile Pillow-SIMD into `.venv/wheels` and look into the binary.

    Raises:
        SetupError: It did not compile, or not to what this CPU runs fastest.
    """
    level = "avx2" if pillow.cpu_has_avx2() else "sse4"  # SSE4 is its own default
    compiler = os.environ.get("CC", "cc") + (" -mavx2" if level == "avx2" else "")
    pinned = f"pillow-simd=={pillow.PILLOW_SIMD} --hash=sha256:{pillow.PILLOW_SIMD_SHA256}\n"
    (place.folder / "pillow-simd.txt").write_text(pinned, encoding="utf-8")
    # Without the cache: it ignores CC, and would hand out a wheel made without AVX2.
    place.pip(
        f"compiling Pillow-SIMD {pillow.PILLOW_SIMD} for {level.upper()}",
        "wheel", "--no-cache-dir", "--no-binary", "pillow-simd", "--no-deps", "--require-hashes",
        "-r", ".venv/pillow-simd.txt", "-w", ".venv/wheels", env={"CC": compiler},
    )  # fmt: skip
    found = pillow.simd_level_of_wheel(_compiled(place)[0])
    if found != level:
        raise SetupError(
            f"setup failed: Pillow-SIMD was compiled with `{compiler}`, yet its binary resizes "
            f"with {found}, not {level}. Name another compiler (CC=), or say PILLOW=stock."
        )


def _compiled(place: Environment) -> list[Path]:
    return list((place.folder / "wheels").glob(f"pillow_simd-{pillow.PILLOW_SIMD}-*.whl"))


def choose_pillow(place: Environment, wish: str, *, system: bool) -> str:
    """Compile Pillow-SIMD if this machine can, and pin the one version of `pillow`.

    Returns:
        Why it is stock Pillow; empty for Pillow-SIMD.
    """
    wheels = place.folder / "wheels"
    wheels.mkdir(exist_ok=True)
    if system and wish != "stock" and pillow.is_x86():
        add_system_packages(place)
    ready = bool(_compiled(place)) and wish != "stock"
    reason = "" if ready else pillow.why_stock(wish)
    if not (reason or ready):
        try:
            compile_pillow_simd(place)
        except SetupError as error:
            print(error)
            reason = f"Pillow-SIMD did not compile: see {place.folder / 'setup.log'}"
    if reason and wish == "simd":
        raise SetupError(f"setup failed: PILLOW=simd was asked for, but {reason}.")
    if not reason:
        pillow.write_stand_in(wheels)
    tested = (place.root / "constraints.txt").read_text(encoding="utf-8")
    version = pillow.PILLOW_STOCK if reason else pillow.PILLOW_SIMD
    pinned = f"{tested}\npillow=={version}\n"
    (place.folder / "constraints.txt").write_text(pinned, encoding="utf-8")
    return reason


def check_pillow(site: Path, *, stock: bool, step: str) -> None:
    """See that the chosen Pillow, and no other, owns the `PIL` folder.

    Raises:
        SetupError: Another distribution laid its files over it.
    """
    wanted = f"pillow {pillow.PILLOW_STOCK}" if stock else f"pillow-simd {pillow.PILLOW_SIMD}"
    owners, level = pillow.pillow_owners(site), pillow.installed_simd_level(site)
    if owners != [wanted] or (level == "none") != stock:
        raise SetupError(
            f"setup failed: after {step} the PIL folder is of {' and '.join(owners) or 'nobody'} "
            f"and resizes with {level}, where {wanted} alone was expected. "
            "Run `make clean setup`; if it comes back, a requirement asks for another Pillow."
        )


def install_all(place: Environment, wish: Wish, *, system: bool) -> str:
    """Bring the environment from whatever it is to what is wished; see `choose_pillow`."""
    reason = choose_pillow(place, wish.pillow, system=system)
    groups = project_tables(place.root)["dependency-groups"]
    extras = ",".join(name for name in wish.extras if name not in groups)
    named = [part for name in wish.extras if name in groups for part in ("--group", name)]
    # With --no-index a stand-in that does not fit fails here, instead of being replaced.
    first = ("pillow",) if reason else ("pillow", "--no-index")
    name = f"Pillow {pillow.PILLOW_STOCK}" if reason else f"Pillow-SIMD {pillow.PILLOW_SIMD}"
    steps = {
        f"installing {name}": first,
        f"installing {', '.join(['tesserae', *wish.extras])}": (
            "--editable", f".[{extras}]" if extras else ".", *named,
        ),
    }  # fmt: skip
    pinned = ("-c", ".venv/constraints.txt", "--find-links", ".venv/wheels")
    for step, arguments in steps.items():
        place.pip(step, "install", *arguments, *pinned)
        check_pillow(place.site, stock=bool(reason), step=step)
    place.pip("checking that all requirements fit", "check")
    return reason


def is_ready(place: Environment, wish: Wish, stamp: Mapping[str, Any]) -> bool:
    """Say whether nothing is to be done. A stock Pillow that could now be replaced is to be."""
    made_from = (stamp.get("inputs"), stamp.get("extras"), stamp.get("pillow"))
    if made_from != (digest_of_inputs(place.root), list(wish.extras), wish.pillow):
        return False
    return not stamp["why_stock"] or bool(pillow.why_stock(wish.pillow))


def set_up(place: Environment, wish: Wish, *, system: bool) -> bool:
    """Make the environment as wished.

    Returns:
        Whether there was anything to do.
    """
    stamp = place.stamp()
    if is_ready(place, wish, stamp):
        return False
    (place.folder / "setup.json").unlink(missing_ok=True)
    # One Pillow cannot be put in the place of the other: both own the same files.
    replaced = stamp and stamp["why_stock"] and not pillow.why_stock(wish.pillow)
    fresh = not stamp or bool(replaced) or stamp["pillow"] != wish.pillow
    if fresh:
        make_fresh(place)
    place.write_stamp(wish, install_all(place, wish, system=system and fresh))
    return True


def describe(place: Environment) -> str:
    """Say in a line what the environment is."""
    stamp = place.stamp()
    ready = f"setup: .venv is ready, with {', '.join(stamp['extras']) or 'no extras'}"
    if not stamp["why_stock"]:
        level = pillow.installed_simd_level(place.site).upper()
        return f"{ready}; Pillow-SIMD {pillow.PILLOW_SIMD} ({level})"
    return (
        f"{ready}; STOCK Pillow {pillow.PILLOW_STOCK}, because {stamp['why_stock']}. It resizes "
        "several times slower, and its stores are of another recipe than Pillow-SIMD's. "
        "If you can provide what is missing, do so and run `make setup` again."
    )


@contextlib.contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Hold a lock on the project's folder, so that two setups do not build in one place."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # Lustre without -o flock, NFS without lockd
            print(f"setup: {root} cannot be locked ({error.strerror}): run one setup at a time")
        yield
    finally:
        os.close(handle)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m workflows.setup.install", description="Make .venv."
    )
    before = f"default: what .venv has, or {','.join(DEFAULT_EXTRAS)}"
    parser.add_argument("--extras", help=f"extras and groups of pyproject.toml, a,b; {before}")
    parser.add_argument("--need", default="", help="extras and groups to add to those, a,b")
    parser.add_argument("--pillow", choices=("auto", "simd", "stock"),
                        help="auto: Pillow-SIMD where it compiles with every format; simd: insist "
                        "on it, with fewer formats if need be; default: as .venv was made, or "
                        "auto")  # fmt: skip
    parser.add_argument("--no-system", action="store_true", help="install no system packages")
    parser.add_argument("--quiet", action="store_true", help="say nothing if all is ready")
    return parser.parse_args(argv)


def wish_of(args: argparse.Namespace, place: Environment) -> Wish:
    """Join what is asked for with what the environment already is.

    Raises:
        SetupError: An extra that pyproject.toml does not have.
    """
    stamp = place.stamp()
    asked = stamp.get("extras", DEFAULT_EXTRAS) if args.extras is None else args.extras.split(",")
    extras = sorted({name for name in [*asked, *args.need.split(",")] if name})
    tables = project_tables(place.root)
    known = {*tables["project"].get("optional-dependencies", {}), *tables["dependency-groups"]}
    if unknown := [name for name in extras if name not in known]:
        raise SetupError(
            f"setup failed: there is no extra named {', '.join(unknown)}. "
            f"EXTRAS is a comma-separated list of {', '.join(sorted(known))}."
        )
    return Wish(extras=tuple(extras), pillow=args.pillow or stamp.get("pillow", "auto"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a person does; see the module's text."""
    args = parse(argv)
    place = Environment(Path(__file__).resolve().parents[2])
    try:
        with one_at_a_time(place.root):
            wish = wish_of(args, place)
            changed = set_up(place, wish, system=not args.no_system)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: stopped; the next run starts afresh", file=sys.stderr)
        return 130
    if changed or not args.quiet:
        print(describe(place))
    return 0


if __name__ == "__main__":
    sys.exit(main())
