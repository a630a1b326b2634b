"""Pillow-SIMD in the place of Pillow, in an environment that pip made.

`make setup` compiles it when it makes an environment. Elsewhere pip has installed Pillow, whose
files Pillow-SIMD would overwrite and whose name it does not have.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import TesseraeError
from pipeline.installation import uses_make
from workflows.setup import detect_pillow
from workflows.setup.detect_pillow import PILLOW_SIMD
from workflows.setup.environment import Environment, SetupError
from workflows.setup.install_pillow import check_pillow, compile_pillow_simd


def replace_pillow(prefix: Path) -> None:
    """Compile Pillow-SIMD, remove Pillow, and install it with an empty `pillow` that needs it.

    Nothing is changed if it cannot be compiled. A line is printed for each step. The output of the
    compiler and of pip is appended to `setup.log` in the environment, and the wheels are kept in
    its folder `wheels`.

    Args:
        prefix: The folder of the environment, `sys.prefix`; not that of the running system.

    Raises:
        TesseraeError: `make setup` makes the environment, it is the system's own, a header or the
            compiler is missing, or a step failed.
    """
    if uses_make():
        raise TesseraeError(
            "this environment is made by make: run `make setup PILLOW=simd`, which compiles it."
        )
    environment = Environment(prefix.parent, prefix.name)
    if not any((prefix / name).exists() for name in ("pyvenv.cfg", "conda-meta")):
        raise TesseraeError(
            f"{prefix} is no virtual environment, and the system's Pillow is left as it is."
            " Install Tesserae in an environment of its own."
        )
    if reason := detect_pillow.why_stock("auto"):
        raise TesseraeError(f"Pillow-SIMD cannot be compiled, because {reason}.")
    wheels = environment.folder / "wheels"
    try:
        wheels.mkdir(exist_ok=True)
        compile_pillow_simd(environment)
        detect_pillow.write_stand_in(wheels)
        environment.pip("removing Pillow", "uninstall", "--yes", "pillow", "pillow-simd")
        step = f"installing Pillow-SIMD {PILLOW_SIMD}"
        names = (f"pillow=={PILLOW_SIMD}", f"pillow-simd=={PILLOW_SIMD}")
        environment.pip(
            step, "install", "--no-deps", "--no-index", "--find-links", str(wheels), *names
        )
        check_pillow(environment.site, stock=False, step=step)
    except SetupError as e:
        raise TesseraeError(str(e)) from e
