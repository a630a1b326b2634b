"""Virtual environments for the packages that are compared, created once and kept separate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".env"


def python_of(name: str, requirements: tuple[str, ...]) -> str:
    """Return the Python of an environment, which is created if it does not exist or is outdated.

    Args:
        name: The name of the environment.
        requirements: Arguments of one `pip install` each, which are run in order, because some
            packages are built with those that were installed before.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    record = folder / "requirements.txt"
    content = "\n".join(requirements)
    if not record.exists() or record.read_text() != content:
        print(f"creating the environment {name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for requirement in requirements:
            pip = [str(python), "-m", "pip", "install", "--quiet", *requirement.split()]
            subprocess.run(pip, check=True)
        record.write_text(content)
    return str(python)
