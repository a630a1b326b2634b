"""The options of `tesserae doctor` and of `tesserae completion`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options.fields import Options, argument, option


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """The options of `tesserae doctor`."""

    store: str | None = argument(
        "folder or URL of the store whose disk is checked",
        metavar="STORE",
        default=None,
        implied="the current folder",
    )
    json: bool = option(False, "print the findings as one JSON document")
    install_pillow_simd: bool = option(
        False,
        "first compile Pillow-SIMD, and put it in the place of Pillow in this environment",
    )
    cluster: str | None = option(
        None,
        "also check the ports of the cluster whose scheduler is at ADDRESS",
        implied="none",
        metavar="ADDRESS",
    )
    certs: str | None = option(
        None,
        "folder of certificates for a tls:// ADDRESS",
        implied="$TESSERAE_CERTS, else the user's own folder",
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(Options):
    """The options of `tesserae completion`."""

    shell: str = argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish", "tcsh"))
