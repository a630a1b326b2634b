"""Create `.venv`, the virtual environment of the project, with the standard library only.

`make setup` runs this with the system's Python before anything is installed, so it is not a
`tesserae` command and imports nothing but the standard library. `tesserae doctor` shares its
checks.

The steps are: create a virtual environment with a new pip; install the system packages that
compiling needs, when run as root; install Pillow-SIMD or stock Pillow (`install_pillow` decides
which); install the project with its extras, pinned to the tested versions. After each
installation the owner of the `PIL` folder is checked. The stamp is written last: without it the
next run starts from scratch. A new environment takes about 90 s on 2 cores, of which the compiler
takes 30 s; a second run takes 0.2 s.
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

from workflows.setup import detect_pillow
from workflows.setup.detect_pillow import PILLOW_SIMD, PILLOW_STOCK
from workflows.setup.environment import (
    Environment,
    EnvironmentConfig,
    SetupError,
    digest_of_inputs,
    project_tables,
)
from workflows.setup.install_pillow import check_pillow, choose_pillow

DEFAULT_EXTRAS = ("devkit", "lsun", "s3", "sample", "slurm")


def make_fresh(environment: Environment) -> None:
    """Create a `.venv` that contains only a new pip, in place of an earlier one of `make setup`.

    Args:
        environment: The environment, `Environment(root)` with the absolute path of the project. Its
            folder is removed first.

    Raises:
        SetupError: There is a `.venv` that `make setup` did not create, this Python cannot create
            environments, or pip cannot be installed.
    """
    if environment.folder.exists():
        if not (environment.folder / "setup.started").exists():
            raise SetupError(
                f"setup failed: {environment.folder} was not created by `make setup`, so it is"
                " left unchanged. Delete it or move it away, then run `make setup` again."
            )
        shutil.rmtree(environment.folder)
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"setup failed: {sys.executable} cannot create environments, it has no ensurepip. "
            "Install the system package python3-venv, or choose another: make setup PYTHON=..."
        )
    environment.folder.mkdir()
    (environment.folder / "setup.started").touch()
    step = f"creating .venv with Python {platform.python_version()}"
    environment.run(step, sys.executable, "-I", "-m", "venv", ".venv")
    environment.pip("upgrading pip", "install", "pip", "--upgrade", "-c", "constraints.txt")


def install_all(environment: Environment, config: EnvironmentConfig, *, system: bool) -> str:
    """Install Pillow and the project with its extras.

    Nothing is marked as complete: the caller writes the stamp.

    Args:
        environment: The environment, which exists and has pip: `Environment(root)` with the
            absolute path of the project.
        config: The packages that it shall contain: `extras` (names of extras and dependency groups
            of pyproject.toml; pip ignores others) and `pillow` (`auto`, `simd` or `stock`).
        system: True to install missing system packages.

    Returns:
        The reason why stock Pillow was installed; empty for Pillow-SIMD.

    Raises:
        SetupError: A step failed, `pillow` is `simd` and Pillow-SIMD cannot be compiled here, or
            another distribution owns the `PIL` folder.
    """
    reason = choose_pillow(environment, config.pillow, system=system)
    groups = project_tables(environment.root)["dependency-groups"]
    extras = ",".join(name for name in config.extras if name not in groups)
    group_flags = [flag for name in config.extras if name in groups for flag in ("--group", name)]
    # --no-index makes a mismatched stand-in fail here, instead of being replaced from the index.
    first = ("pillow",) if reason else ("pillow", "--no-index")
    name = f"Pillow {PILLOW_STOCK}" if reason else f"Pillow-SIMD {PILLOW_SIMD}"
    steps = {
        f"installing {name}": first,
        f"installing {', '.join(['tesserae', *config.extras])}": (
            "--editable", f".[{extras}]" if extras else ".", *group_flags,
        ),
    }  # fmt: skip
    pinned = ("-c", ".venv/constraints.txt", "--find-links", ".venv/wheels")
    # The extension is optional: an old one must not remain if the new one cannot be compiled.
    for extension in environment.root.glob("pipeline/images/_jpeg_crop.*.so"):
        extension.unlink()
    for step, arguments in steps.items():
        environment.pip(step, "install", *arguments, *pinned)
        check_pillow(environment.site, stock=bool(reason), step=step)
    environment.pip("checking that all requirements are satisfied", "check")
    return reason


def is_ready(environment: Environment, config: EnvironmentConfig, stamp: Mapping[str, Any]) -> bool:
    """Return True if there is nothing to install or update.

    It is False too if stock Pillow is installed and Pillow-SIMD can be compiled by now.

    Args:
        environment: The environment, `Environment(root)` with the absolute path of the project.
        config: The packages that it shall contain, with its `extras` sorted.
        stamp: The result of `environment.stamp()`; an empty one gives False.

    Raises:
        OSError: A file of the project is missing.
    """
    recorded = (stamp.get("inputs"), stamp.get("extras"), stamp.get("pillow"))
    if recorded != (digest_of_inputs(environment.root), list(config.extras), config.pillow):
        return False
    return not stamp["why_stock"] or bool(detect_pillow.why_stock(config.pillow))


def set_up(environment: Environment, config: EnvironmentConfig, *, system: bool) -> bool:
    """Create or update the environment.

    An environment that is incomplete, was made for another `config.pillow`, or holds stock Pillow
    where Pillow-SIMD can be compiled by now, is removed and created anew.

    Args:
        environment: The environment, `Environment(root)` with the absolute path of the project.
        config: The packages that it shall contain: `extras` (names of extras and dependency groups
            of pyproject.toml, sorted) and `pillow` (`auto`, `simd` or `stock`).
        system: True to install missing system packages into a new environment.

    Returns:
        True if there was anything to do; False if the environment was left as it is.

    Raises:
        SetupError: A step failed, or there is a `.venv` that `make setup` did not create.
    """
    stamp = environment.stamp()
    if is_ready(environment, config, stamp):
        return False
    (environment.folder / "setup.json").unlink(missing_ok=True)
    # Pillow and Pillow-SIMD own the same files, so one cannot replace the other in place.
    replaced = stamp and stamp["why_stock"] and not detect_pillow.why_stock(config.pillow)
    fresh = not stamp or bool(replaced) or stamp["pillow"] != config.pillow
    if fresh:
        make_fresh(environment)
    environment.write_stamp(config, install_all(environment, config, system=system and fresh))
    return True


def ready_line(environment: Environment) -> str:
    """Return a line that describes a complete environment: its extras and its Pillow.

    Args:
        environment: The environment, which `set_up` has completed.

    Raises:
        KeyError: It is incomplete.
    """
    stamp = environment.stamp()
    ready = f"setup: .venv is ready, with {', '.join(stamp['extras']) or 'no extras'}"
    if not stamp["why_stock"]:
        level = detect_pillow.installed_simd_level(environment.site).upper()
        return f"{ready}; Pillow-SIMD {PILLOW_SIMD} ({level})"
    return (
        f"{ready}; STOCK Pillow {PILLOW_STOCK}, because {stamp['why_stock']}. It resizes"
        " several times slower, and a store prepared with it cannot be continued with Pillow-SIMD."
        " Install what is missing if you can, and run `make setup` again."
    )


@contextlib.contextmanager
def setup_lock(root: Path) -> Iterator[None]:
    """Lock the project's folder inside the block, so that only one set-up runs at a time.

    It waits for another set-up to end. On a file system without locks it prints a warning and goes
    on.

    Args:
        root: The folder of the project, which must exist.

    Yields:
        None.
    """
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # Lustre without -o flock, NFS without lockd
            print(f"setup: {root} cannot be locked ({error.strerror}): run one setup at a time")
        yield
    finally:
        os.close(handle)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: The arguments without the program's name; None: those of the process.

    Returns:
        The namespace with `extras` and `pillow` (None if omitted) and `need` (empty if omitted),
        all of them texts as typed, and the flags `no_system` and `quiet`.

    Raises:
        SystemExit: The arguments are invalid, or ask for help.
    """
    parser = argparse.ArgumentParser(
        prog="python3 -m workflows.setup.install",
        description="Create or update the virtual environment .venv.",
    )
    default = f"default: those of the present .venv, else {','.join(DEFAULT_EXTRAS)}"
    parser.add_argument(
        "--extras",
        metavar="A,B",
        help=f"comma-separated extras and dependency groups of pyproject.toml ({default})",
    )
    parser.add_argument(
        "--need",
        default="",
        metavar="A,B",
        help="comma-separated extras and groups to install in addition (default: none)",
    )
    parser.add_argument("--pillow", choices=("auto", "simd", "stock"),
                        help="auto compiles Pillow-SIMD if every image format is available; simd "
                        "requires Pillow-SIMD, with fewer formats if need be; stock installs "
                        "Pillow (default: that of the present .venv, else auto)")  # fmt: skip
    parser.add_argument(
        "--no-system", action="store_true", help="do not install system packages with apt-get"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing if the environment is up to date"
    )
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace, environment: Environment) -> EnvironmentConfig:
    """Return the configuration of the flags, with that of the present environment as the default.

    Args:
        args: The result of `parse_arguments`, whose `extras` and `need` are comma-separated names.
        environment: The environment, `Environment(root)` with the absolute path of the project; it
            need not exist.

    Returns:
        The configuration: `extras`, with those of `need` added, sorted and without duplicates, and
        `pillow`, which is `auto` if neither the flags nor the environment name another.

    Raises:
        SetupError: pyproject.toml does not have a requested extra.
    """
    stamp = environment.stamp()
    base = stamp.get("extras", DEFAULT_EXTRAS) if args.extras is None else args.extras.split(",")
    extras = sorted({name for name in [*base, *args.need.split(",")] if name})
    tables = project_tables(environment.root)
    defined = {*tables["project"].get("optional-dependencies", {}), *tables["dependency-groups"]}
    if unknown := [name for name in extras if name not in defined]:
        raise SetupError(
            f"setup failed: there is no extra named {', '.join(unknown)}. "
            f"EXTRAS is a comma-separated list of {', '.join(sorted(defined))}."
        )
    return EnvironmentConfig(
        extras=tuple(extras), pillow=args.pillow or stamp.get("pillow", "auto")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Create or update the virtual environment `.venv`, and print its extras and its Pillow.

    It waits for another set-up of the same project to end. Errors go to standard error.

    Args:
        argv: The arguments without the program's name (default: those of the process).

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.

    Raises:
        SystemExit: The arguments are invalid, or ask for help.
    """
    args = parse_arguments(argv)
    environment = Environment(Path(__file__).resolve().parents[2])
    try:
        with setup_lock(environment.root):
            config = read_config(args, environment)
            changed = set_up(environment, config, system=not args.no_system)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: stopped; the next run starts from scratch", file=sys.stderr)
        return 130
    if changed or not args.quiet:
        print(ready_line(environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
