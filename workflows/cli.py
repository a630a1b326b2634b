"""The `tesserae` command and its dispatch to one module per subcommand.

Only the module of the given subcommand is imported, so that `tesserae info` does not pay for
loading Dask. An error is printed as one sentence, with exit status 1; `--debug` shows the
traceback.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cluster.errors import ClusterError
from cluster.limits import too_many_files
from pipeline.errors import TesseraeError
from pipeline.filesystem import NO_ROOM_ERRNOS, advice_for
from pipeline.installation import EXTRAS, install_advice
from tesserae_command import is_own, lacks_module
from workflows.commands import Command, Group
from workflows.options.ranges import Range
from workflows.terminal import signals
from workflows.terminal.formatting import printable

COMMANDS = {
    "prepare": "decode and resize an image data set into a store",
    "tune": "find the fastest workers and threads for prepare on this machine",
    "verify": "check every file of a store",
    "repair": "restore damaged files of a store",
    "info": "show what a store holds",
    "train": "train a model on a store: wgan, classify, colourise, superres or devise",
    "features": "extract features of all images with a pretrained network",
    "search": "search images by words, words by images, images by images",
    "classify": "say what images are with a trained classifier",
    "upscale": "enlarge images with a trained network",
    "words": "show which classes of a store have a word vector",
    "report": "evaluate a training run and write an HTML report, or compare runs",
    "export": "export a trained network, or a store's rows as Parquet or WebDataset",
    "push": "copy a store, an export or a run to a URL",
    "pull": "copy a pushed folder from a URL and verify it",
    "sample-images": "generate images with a trained run",
    "study": "run small experiments that test claims of the papers",
    "loader": "benchmark the data loader on a store",
    "cluster": "start, inspect and stop a persistent cluster",
    "sample": "create a small sample data set laid out like ImageNet",
    "demo": "try everything once: sample, prepare, verify, train and search",
    "doctor": "check this machine's installation and resources",
    "completion": "print a script that completes commands in a shell",
}

INTERRUPTED = 130
"""The exit status after Ctrl-C, by the convention of shells."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises errors as sentences, from the subparser that knows the options."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Reject unknown arguments here: the parent parser would refer to its own help text."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return parsed, unknown

    def _unknown(self, arguments: Sequence[str]) -> str:
        options = [word.partition("=")[0] for word in arguments if word.startswith("-")]
        if not options:
            return f"unexpected argument {', '.join(map(repr, arguments))}"
        names = [option for action in self._actions for option in action.option_strings]
        return "there is " + ", ".join(f"no option {word}{_like(word, names)}" for word in options)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as e:
            if not isinstance(action.type, Range):
                raise
            self.error(f"{action.option_strings[-1]} is {arg_string}: {e.message}")

    def _match_arguments_partial(
        self, actions: Sequence[argparse.Action], arg_strings_pattern: str
    ) -> list[int]:
        """Let an argument that may be omitted wait for what follows an option, as others do."""
        counts = super()._match_arguments_partial(actions, arg_strings_pattern)
        is_last = "O" not in arg_strings_pattern
        if not is_last and counts and not counts[-1] and actions[len(counts) - 1].nargs == "*":
            counts.pop()
        return counts

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as e:
            hint = _like(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{e.message}{hint}") from None

    def error(self, message: str) -> NoReturn:
        raise TesseraeError(f"{message.rstrip('.')}. See `{self.prog} --help`.")


def _like(word: str, names: Iterable[str]) -> str:
    """Return ` (did you mean X?)` if *names* has a name similar to *word*, else ''."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and print its errors to standard error.

    It installs signal handlers, so it is for the main thread of a process of its own. The process's
    standard output and error then escape characters that their encoding lacks.

    Args:
        argv: The arguments without the program's name (default: those of the process). With
            `--debug` among them, the errors of a command are raised instead of printed.

    Returns:
        The exit status: that of the command, 1 after an error or if the reader of the output has
        closed the pipe, or 130 after Ctrl-C.

    Raises:
        SystemExit: The help of a command was requested and printed.
        Exception: Errors of other classes than TesseraeError, ClusterError, ValueError, OSError,
            MemoryError and KeyboardInterrupt are not caught; they are defects.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    signals.install_handlers()
    if sys.stdout is None or sys.stderr is None:  # the parent process has closed the descriptor
        null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until Python exits
        sys.stdout, sys.stderr = sys.stdout or null, sys.stderr or null
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot encode must not stop a run
            stream.reconfigure(errors="backslashreplace")
    try:
        return dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt as e:
        signals.ignore_all()
        print(f"\ntesserae: stopped. {e}".rstrip(), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed the pipe, such as `head`
        sys.stderr.close()
        return 1
    except (TesseraeError, ClusterError, ValueError, OSError, MemoryError) as e:
        if debug:
            raise
        print(f"tesserae: {_sentence(e)}", file=sys.stderr)
        return 1


def dispatch(words: Sequence[str]) -> int:
    """Run one command; errors propagate as exceptions.

    Args:
        words: The name of the command and its arguments, such as `["info", "STORE"]`.

    Returns:
        The exit status of the command; 0 after help or the version was printed.

    Raises:
        TesseraeError: There is no such command or option, a value is invalid, or a package is
            missing; commands raise further errors.
        SystemExit: The help of a command was requested and printed.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from workflows.setup.version import version_text

        print(version_text())
        return 0
    name = words[0]
    if name not in COMMANDS:
        raise TesseraeError(
            f"{name!r} is not a command{_like(name, COMMANDS)}: expected one of"
            f" {', '.join(COMMANDS)}."
        )
    try:
        return _call(name, words[1:])
    except ModuleNotFoundError as e:
        if is_own(e.name):
            raise TesseraeError(lacks_module(e.name)) from e
        extra = EXTRAS.get(str(e.name))
        if extra is None:
            raise
        extra = "search" if name == "search" else extra  # which has train, too
        raise TesseraeError(f"tesserae {name} needs {e.name}: {install_advice(extra)}.") from e


def command_of(name: str) -> tuple[Command | Group, argparse.ArgumentParser]:
    """Return a command and the parser of its arguments.

    Args:
        name: The name of the command, such as `prepare` or `sample-images`.

    Returns:
        The command, or the group of commands, and a new parser that has its flags. The parser
        raises a `TesseraeError` for invalid arguments, and SystemExit after it has printed help.

    Raises:
        ModuleNotFoundError: There is no such command.
    """
    module = importlib.import_module(f"workflows.commands.{name.replace('-', '_')}")
    parser = _Parser(
        prog=f"tesserae {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Add --debug to any command to see the traceback of an error.",
        allow_abbrev=False,  # an abbreviation would become ambiguous when options are added
    )
    command: Command | Group = module.COMMAND
    command.add_to(parser)
    return command, parser


def _call(name: str, words: Sequence[str]) -> int:
    with _importing():
        command, parser = command_of(name)
    args = parser.parse_args(list(words))
    if isinstance(command, Group):
        command = command.selected(args)
    options = [kind.from_args(args) for kind in command.options]
    with _importing():
        function = command.function()
    return function(*options)


@contextmanager
def _importing() -> Iterator[None]:
    # These two settings save a quarter of the start of a short run: the garbage collector would
    # traverse module objects, which are never freed, and OpenBLAS's idle threads would spin. Tasks
    # set their own number of threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _overview() -> str:
    lines = [f"  {name:<14} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: tesserae COMMAND ...",
            "",
            "Decode an image data set once into sharded zarr stores on a Dask cluster, then train,",
            "evaluate and search on them.",
            "",
            *lines,
            "",
            "Run `tesserae COMMAND --help` for the options of a command.",
        ]
    )


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, TesseraeError | ClusterError | ValueError):
        return printable(text)
    if why := too_many_files(error):
        return printable(f"{why}.")
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        # Other numbers may be of a file that was to be read, where the same advice would be wrong.
        advice = f". {advice_for(error)}." if error.errno in NO_ROOM_ERRNOS else ""
        return printable(f"{place}{error.strerror}{advice}")
    return printable(f"{type(error).__name__}: {text}")
