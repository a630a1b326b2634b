"""An environment for each thing that is measured, made once, so that none gets in another's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".env"


def python_of(name: str, requirements: tuple[str, ...]) -> str:
    """The Python of the environment called *name*, with *requirements* installed."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    made_with = folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if not made_with.exists() or made_with.read_text() != wanted:
        print(f"making an environment: {name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for requirement in requirements:  # one by one: some are built with what came before
            pip = [str(python), "-m", "pip", "install", "--quiet", *requirement.split()]
            subprocess.run(pip, check=True)
        made_with.write_text(wanted)
    return str(python)
