"""The start of the `tesserae` command, after a check that Python finds Tesserae's own packages.

`pipeline`, `workflows` and `cluster` are names that a user's module or another package may have,
too, and another distribution is called `tesserae`. The name of this module is no one else's, so
that it is found in any case. It uses the standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
"""The folder that Tesserae's modules are in: that of a checkout, or `site-packages`."""
MODULES = {
    "tesserae": "tesserae.py",
    "pipeline": "pipeline/__init__.py",
    "workflows": "workflows/__init__.py",
    "cluster": "cluster/__init__.py",
}
"""The names of Tesserae's modules and packages, each with its file in `FOLDER`."""


def main() -> int:
    """Run the command, and return its exit status.

    If Python finds another module in place of one of Tesserae's, that is printed, and the status
    is 1. Ctrl-C while modules are loaded ends it quietly, as later: no handler is installed yet.
    """
    if problem := next(iter(other_modules().values()), ""):
        print(f"tesserae: {problem}", file=sys.stderr)
        return 1
    try:
        from workflows.cli import main as run_command
    except KeyboardInterrupt:
        return 130  # 128 and the number of SIGINT, as shells have it
    except ModuleNotFoundError as e:
        if not is_own(e.name):
            raise
        print(f"tesserae: {lacks_module(e.name)}", file=sys.stderr)
        return 1
    return run_command()


def other_modules() -> dict[str, str]:
    """Return the modules that Python finds in place of Tesserae's.

    Returns:
        For the name of each, such as `pipeline`, a sentence that says where the other module is and
        what to do; empty if all modules are Tesserae's.
    """
    found = ((name, _origin(name)) for name in MODULES)
    return {
        name: _explain(name, origin)
        for name, origin in found
        if origin is None or os.path.realpath(origin) != os.path.realpath(FOLDER / MODULES[name])
    }


def is_own(name: str | None) -> bool:
    """Return True if a module has a name of Tesserae's.

    Args:
        name: The full name of the module, such as `pipeline.errors`; None for an unknown one.
    """
    return name is not None and name.partition(".")[0] in MODULES


def lacks_module(name: str | None) -> str:
    """Return the sentence about a module of Tesserae that cannot be found.

    Args:
        name: Its full name, such as `pipeline.errors`.
    """
    return (
        f"{FOLDER} lacks Tesserae's module {name}: another package may have overwritten it. Install"
        " Tesserae again, in a virtual environment of its own."
    )


def _origin(name: str) -> str | None:
    """Return the file or the folder that a name is imported from; None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was made without an import has no specification
        spec = None
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def _explain(name: str, origin: str | None) -> str:
    if origin is None:
        return lacks_module(name)
    file = Path(origin)
    module = file.parent if file.name == "__init__.py" else file
    folder = module.parent
    where = f"Python finds {name} in {module}, not Tesserae's in {FOLDER}"
    if owners := owners_of(str(file.relative_to(folder)), folder):
        return (
            f"{where}. It belongs to {' and '.join(owners)}: install Tesserae in a virtual"
            " environment without it."
        )
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder.resolve() in {Path(path).resolve() for path in paths if path}:
        return f"{where}. Remove {folder} from PYTHONPATH, or rename {module.name}."
    return f"{where}. Rename {module.name}, or start Python in another folder."


def owners_of(file: str, folder: Path) -> list[str]:
    """Return the distributions that have installed a file; several mean that it was overwritten.

    Args:
        file: The path of the file in *folder*, such as `pipeline/__init__.py`.
        folder: A folder that distributions are installed in, such as `site-packages`.

    Returns:
        The `name version` of each, sorted, such as `pillow-simd 12.1.1.post0`. Names are in lower
        case, with - for _.
    """
    owners = []
    for record in folder.glob("*.dist-info/RECORD"):
        if re.search(rf"^{re.escape(file)},", record.read_text(encoding="utf-8"), re.MULTILINE):
            name, version = record.parent.name.removesuffix(".dist-info").split("-", 1)
            owners.append(f"{name.lower().replace('_', '-')} {version}")
    return sorted(owners)


if __name__ == "__main__":
    sys.exit(main())
