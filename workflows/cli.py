"""The `tesserae` command: one word, one module.

Only the module of the word that was typed is imported, so that `tesserae info` does not pay for
Dask. Whatever goes wrong is one sentence and exit status 1; `--debug` shows where it came from.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from cluster.errors import ClusterError
from cluster.limits import too_many_files
from pipeline.errors import TesseraeError
from workflows.commands.ranges import Range
from workflows.terminal import signals
from workflows.terminal.formatting import printable

COMMANDS = {
    "prepare": "decode and resize a whole image set into a store",
    "verify": "check every file of a store",
    "repair": "bring damaged files of a store back",
    "info": "say what a store holds",
    "train": "train a stage on a store: wgan, colourise, devise",
    "features": "run a network over a store, and keep what it makes of each picture",
    "search": "find pictures by words, words by pictures, pictures by pictures",
    "words": "say which classes of a store have word vectors",
    "report": "show how a training run went, and judge what it makes",
    "export": "write the network that a run has trained as a folder that others open",
    "sample-images": "make pictures with a run that was trained to",
    "study": "try what papers claim, and print a table of what came out",
    "loader": "measure what a loader delivers from a store",
    "cluster": "start, look at and stop a cluster that stands",
    "sample": "make a small ImageNet-shaped folder of photographs",
    "demo": "sample, prepare, verify, train and search, in one go",
    "doctor": "say what is active on this machine, and what is missing",
}

EXTRAS = {
    **dict.fromkeys(("torch", "scipy", "sklearn", "threadpoolctl"), "train"),
    **dict.fromkeys(("torchmetrics", "transformers"), "features"),
    **dict.fromkeys(("gensim", "faiss"), "devise"),
}
"""Package -> the extra that has it."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are sentences, each raised by the parser that knows the options."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what this parser does not know: the one above would name its own help text."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return parsed, unknown

    def _unknown(self, words: Sequence[str]) -> str:
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not options:
            return f"there is no place for {', '.join(map(repr, words))}"
        known = [option for option in self._option_string_actions if option.startswith("--")]
        return "there is " + ", ".join(f"no option {word}{_like(word, known)}" for word in options)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as e:
            if not isinstance(action.type, Range):
                raise
            self.error(f"{action.option_strings[-1]} is {arg_string}: {e.message}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as e:
            hint = _like(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{e.message}{hint}") from None

    def error(self, message: str) -> NoReturn:
        raise TesseraeError(f"{message.rstrip('.')}. See `{self.prog} --help`.")


def _like(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` where *known* has something like *word*, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    signals.listen()
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started us: nobody listens
        nobody = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until Python ends
        sys.stdout, sys.stderr = sys.stdout or nobody, sys.stderr or nobody
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot encode stops nothing
            stream.reconfigure(errors="backslashreplace")
    try:
        return dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt as e:
        signals.ignore()
        print(f"\ntesserae: stopped. {e}".rstrip(), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 1
    except (TesseraeError, ClusterError, ValueError, OSError, MemoryError) as e:
        if debug:
            raise
        print(f"tesserae: {_sentence(e)}", file=sys.stderr)
        return 1


def dispatch(words: Sequence[str]) -> int:
    """Run one command; what goes wrong is raised."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(_version())
        return 0
    name = words[0]
    if name not in COMMANDS:
        raise TesseraeError(
            f"{name!r} is no command{_like(name, COMMANDS)}: expected one of {', '.join(COMMANDS)}."
        )
    try:
        return _call(name, words[1:])
    except ModuleNotFoundError as e:
        extra = EXTRAS.get(str(e.name))
        if extra is None:
            raise
        raise TesseraeError(
            f"tesserae {name} needs {e.name}: run `make setup EXTRAS={extra}`."
        ) from e


def _call(name: str, words: Sequence[str]) -> int:
    command = _load(f"workflows.commands.{name.replace('-', '_')}")
    parser = _Parser(
        prog=f"tesserae {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--debug shows the traceback of an error.",
        allow_abbrev=False,  # half a word that is clear today is not when there are more
    )
    command.add_arguments(parser)
    args = parser.parse_args(list(words))
    return int(_load(command.IMPLEMENTATION).run(args))


def _load(module: str) -> ModuleType:
    # A quarter of the start of a short run: the collector looks again and again at modules, which
    # stay, and OpenBLAS's threads spin, which have nothing to do here. Tasks are given theirs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _overview() -> str:
    lines = [f"  {name:<13} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: tesserae COMMAND ...",
            "",
            "From a whole image set to sharded zarr stores, on a Dask cluster.",
            "",
            *lines,
            "",
            "`tesserae COMMAND --help` says more.",
        ]
    )


def _version() -> str:
    try:
        return f"tesserae {version('tesserae')}"
    except PackageNotFoundError:
        return "tesserae, not installed"


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, TesseraeError | ClusterError | ValueError):
        return printable(text)
    if why := too_many_files(error):
        return printable(f"{why}.")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return printable(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return printable(f"{type(error).__name__}: {text}")
