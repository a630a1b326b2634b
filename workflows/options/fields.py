"""Options as the fields of a frozen dataclass, from which the command line is generated.

    @dataclass(frozen=True, kw_only=True)
    class ResizeOptions(Options):
        source: str = argument("folder of images", metavar="SOURCE")
        size: int = option(224, "side of the images, in pixels", minimum=1)

gives the positional argument SOURCE and the flag `--size N` with default 224, a check of the range
wherever the options come from, and a line of the help text for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import pkgutil
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from workflows.options.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How a field appears on the command line, and which values it accepts."""

    help: str
    """The help text: a phrase that says the effect and the unit, without the default."""
    implied: str = ""
    """The meaning of an omitted option, where its default value does not say so."""
    choices: tuple[str, ...] | tuple[int, ...] = ()
    """The allowed values; empty: any."""
    limits: Range = Range()
    """The range of a number."""
    legacy_value: Any = None
    """The value that a run folder implies which lacks the option, because it is older."""
    metavar: str | None = None
    """The placeholder of the value in the help text; None: N, X, PATH or NAME, by type."""
    group: str = "options"
    """The heading of the help text under which the flag is listed."""
    name: str | None = None
    """The long flag, if it is not the field's name."""
    aliases: tuple[str, ...] = ()
    bare: Any = None
    """The value of the flag without a value; None: the flag needs one."""
    repeatable: bool = False
    """True if a repeated flag adds values; otherwise the last one counts."""
    positional: bool = False
    """True for an argument without a flag."""


def option(
    default: Any,
    help: str,
    *,
    implied: str = "",
    choices: Sequence[str] | Sequence[int] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    words: Mapping[str, int] = MappingProxyType({}),
    legacy_value: Any = None,
    metavar: str | None = None,
    group: str = "options",
    name: str | None = None,
    aliases: tuple[str, ...] = (),
    bare: Any = None,
    repeatable: bool = False,
) -> Any:
    """Return a dataclass field for a flag, such as `--batch-size N` for the field `batch_size`.

    Args:
        default: The default value, in the type of the annotation; `dataclasses.MISSING` if the flag
            is required.
        help: The help text: a phrase that says the effect and the unit, without the default.
        implied: The meaning of an omitted option, as text for `(default: ...)`, where the default
            is None or does not explain itself.
        choices: The allowed values, or those of each item of a tuple (default: any). The range is
            not checked with choices.
        minimum: The smallest allowed value (default: no limit).
        maximum: The largest allowed value (default: no limit). Limits apply to each item of a
            tuple.
        above: An exclusive lower bound, used without *minimum* (default: no limit).
        words: Words that may be typed in place of a number, with the number that each stands for,
            which may be outside the limits (default: none).
        legacy_value: The value that a run folder implies which lacks the option, because it is
            older (default: *default*).
        metavar: The placeholder of the value in the help text (default: the choices; without any, N
            for int, X for float, PATH for Path, otherwise NAME).
        group: The heading of the help text under which the flag is listed.
        name: The long flag, such as `--class` (default: `--` and the field's name with - for _).
        aliases: Further names of the flag, such as `-o`; without effect for bool.
        bare: The value that the flag has if it is given without a value (default: it needs one).
        repeatable: True if a repeated flag of a tuple adds values (default: the last one counts).

    Returns:
        The result of `dataclasses.field`, to be assigned in the body of an `Options` class. The
        annotation there gives the type: `int`, `float`, `str`, `Path`, each also with `| None`, a
        tuple such as `tuple[int, ...]` for a flag with one or more values, or `bool` for the flags
        `--x` and `--no-x` without a value.
    """
    flag = Flag(
        help=help,
        implied=implied,
        choices=tuple(choices),  # type: ignore[arg-type]
        limits=Range(minimum=minimum, maximum=maximum, above=above, words=tuple(words.items())),
        legacy_value=default if legacy_value is None else legacy_value,
        metavar=metavar,
        group=group,
        name=name,
        aliases=aliases,
        bare=bare,
        repeatable=repeatable,
    )
    return dataclasses.field(default=default, metadata={"flag": flag})


def argument(
    help: str,
    *,
    metavar: str,
    default: Any = MISSING,
    choices: Sequence[str] = (),
    implied: str = "",
) -> Any:
    """Return a dataclass field for a positional argument.

    Args:
        help: The help text: a phrase without an article, such as `folder of images`, which errors
            also use.
        metavar: The name of the argument in the help text and in errors, such as STORE.
        default: The value if it is omitted (default: `dataclasses.MISSING`: the argument is
            required).
        choices: The allowed values (default: any).
        implied: The meaning of an omitted argument, as text for `(default: ...)`.

    Returns:
        The result of `dataclasses.field`, to be assigned in the body of an `Options` class, whose
        annotation gives the type of the value.
    """
    flag = Flag(
        help=help, metavar=metavar, choices=tuple(choices), implied=implied, positional=True
    )
    return dataclasses.field(default=default, metadata={"flag": flag})


@dataclass(frozen=True, kw_only=True)
class PrintingFlag:
    """A flag that prints a text and ends the command, as `--help` does; it is no option."""

    name: str
    """The flag, such as `--show`."""
    help: str
    """The help text: a phrase that says what is printed."""
    text: str
    """The function that returns the text, as `module:function`. It is called with the namespace of
    what the command line names before the flag, and may raise ValueError."""
    group: str = "options"
    """The heading of the help text under which the flag is listed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The base class of all options: checking, reading and storing them."""

    PRINTING_FLAGS: ClassVar[tuple[PrintingFlag, ...]] = ()
    """The flags of the command line that print a text instead of running the command."""
    FORMER_NAMES: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Former name -> present name of each option that was renamed: its former flag is accepted."""
    QUICK_VALUES: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Option name -> value that `--quick` gives it unless the command line names the option; only
    for a class with an option `quick`."""
    OMITTED_FLAGS: ClassVar[frozenset[str]] = frozenset()
    """The names of options, usually inherited ones, that the command sets: they have no flags."""

    def __post_init__(self) -> None:
        """Convert lists to tuples and paths to the field's type, and check every value.

        Raises:
            ValueError: A value has the wrong type, or is outside its choices or its range.
        """
        kinds = _kinds_of(type(self))  # type: ignore[arg-type]
        for field in dataclasses.fields(self):
            kind, value = kinds[field.name], getattr(self, field.name)
            converted = kind.convert(value)
            if converted is not value:
                object.__setattr__(self, field.name, converted)
            if "flag" in field.metadata:
                _check_option(field, kind, converted)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Return the options of a command line; omitted ones have their defaults.

        With `--quick`, omitted ones that `QUICK_VALUES` lists have the values of that.

        Args:
            args: The result of a parser to which `add_flags` has added these options; attributes
                that are no options are ignored.

        Raises:
            TypeError: A required option is missing.
            ValueError: A value has the wrong type, or is outside its choices or its range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        named = {name: getattr(args, name) for name in names if hasattr(args, name)}
        small = cls.QUICK_VALUES if named.get("quick") else {}
        return cls(**{**small, **named})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the options from the result of `as_dict`, of this version or an earlier one.

        Args:
            values: Values by present name; names that are no options, former names too, are
                ignored, and a missing one gets the `legacy_value` of its `option`, which is usually
                its default.

        Raises:
            ValueError: A value has a wrong type or is outside its choices or its range, or a
                required one is missing, as in a damaged or foreign run folder.
            KeyError: A field of the class was declared by neither `option` nor `argument`.
        """
        return cls(
            **{name: values.get(name, default) for name, default in cls.legacy_values().items()}
        )

    @classmethod
    def legacy_values(cls) -> dict[str, Any]:
        """Return the values that hold in a run that was started before an option existed.

        Returns:
            The value of each option by name: its `legacy_value`, which is its default unless it was
            declared otherwise.
        """
        return {field.name: flag_of(field).legacy_value for field in dataclasses.fields(cls)}

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, as JSON can hold them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Kind:
    """The type of a field: of one value, or of the items of a tuple."""

    type: type
    """The type of a value, or of each item of a tuple."""
    is_tuple: bool = False
    """True if the field holds a tuple of any length."""
    optional: bool = False
    """True if the field may be None."""

    @classmethod
    def of(cls, hint: Any) -> Kind:
        """Return the kind of a field.

        Args:
            hint: The evaluated type of the field, such as `int`, `Path | None` or `tuple[str,
                ...]`; a union is written with `|`, and only its first member beside None counts.

        Returns:
            The `type` of a value or of the items of a tuple, and the flags `is_tuple` and
            `optional`.
        """
        members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = next(member for member in members if member is not types.NoneType)
        is_tuple = typing.get_origin(plain) is tuple
        item = typing.get_args(plain)[0] if is_tuple else plain
        return cls(item, is_tuple, optional=types.NoneType in members)

    def convert(self, value: Any) -> Any:
        """Return a value in the type of the field, where JSON or the caller has another one for it.

        Args:
            value: Any value. A list becomes a tuple, whose items are not converted, where the field
                holds a tuple; text becomes a path, and a path text, where it holds one value of
                that type. Anything else is returned unchanged, for `accepts` to judge.
        """
        if self.is_tuple:
            return tuple(value) if isinstance(value, list) else value
        if self.type is Path and isinstance(value, str):
            return Path(value)
        return str(value) if self.type is str and isinstance(value, Path) else value

    def accepts(self, value: Any) -> bool:
        """Return True if a value is of this kind.

        Args:
            value: The result of `convert`. An int counts as a float, too, but 1.0 is no int; True
                and False are no numbers.
        """
        if value is None:
            return self.optional
        if self.is_tuple:
            return isinstance(value, tuple) and all(map(self._accepts_item, value))
        return self._accepts_item(value)

    def _accepts_item(self, value: Any) -> bool:
        if self.type in (int, float):
            return type(value) is int or type(value) is self.type
        return isinstance(value, self.type)

    def __str__(self) -> str:
        name = f"tuple of {self.type.__name__}" if self.is_tuple else self.type.__name__
        return f"{name} or None" if self.optional else name


@functools.cache
def _kinds_of(options: type[Options]) -> dict[str, Kind]:
    """Return the kind of each field of an options class: to evaluate annotations takes long."""
    hints = typing.get_type_hints(options)
    return {field.name: Kind.of(hints[field.name]) for field in dataclasses.fields(options)}


def flag_of(field: dataclasses.Field[Any]) -> Flag:
    """Return the description of a field that `option` or `argument` declared.

    Args:
        field: A field of `dataclasses.fields` of an `Options` class.

    Raises:
        KeyError: The field was declared in another way.
    """
    flag: Flag = field.metadata["flag"]
    return flag


def _spelling(field: dataclasses.Field[Any]) -> str:
    flag = flag_of(field)
    if flag.positional:
        return flag.metavar or field.name.upper()
    return flag.name or f"--{field.name.replace('_', '-')}"


def _check_option(field: dataclasses.Field[Any], kind: Kind, value: Any) -> None:
    flag, spelling = flag_of(field), _spelling(field)
    if not kind.accepts(value):
        raise ValueError(f"{spelling} is {str(value)[:60]!r}: expected {kind}.")
    if flag.positional and value == "" and field.default is MISSING:
        raise ValueError(f"{spelling} is empty: expected a {flag.help}.")
    for item in () if value is None else value if kind.is_tuple else (value,):
        if flag.choices and item not in flag.choices and value != field.default:
            expected = ", ".join(map(str, flag.choices))
            raise ValueError(f"{spelling} is {item!r}: expected one of {expected}.")
        if kind.type in (int, float):
            limits = dataclasses.replace(flag.limits, kind=type(item))
            if not flag.choices and (expected := limits.expected(item)):
                raise ValueError(f"{spelling} is {item}: expected {expected}.")


def add_flags(parser: argparse.ArgumentParser, options: type[Options]) -> None:
    """Add an argument to a parser for each field of an options class, grouped by heading.

    The fields of the class come before those of its bases. A parsed namespace holds only what the
    command line names: `Options.from_args` adds the defaults.

    Args:
        parser: The parser, which is changed in place. Former names of the flags are added, too,
            without help.
        options: The class of the options.
    """
    kinds = _kinds_of(options)  # type: ignore[arg-type]
    groups: dict[str, Any] = {"options": parser}
    for field in _fields(options):
        heading = "options" if flag_of(field).positional else flag_of(field).group
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        _add(groups[heading], field, kinds[field.name], _help(field, options.QUICK_VALUES))
    for flag in options.PRINTING_FLAGS:
        group = groups.get(flag.group, parser)
        group.add_argument(flag.name, action=_Print, text=flag.text, help=flag.help)
    for action in list(parser._actions):
        for former in (old for old, new in options.FORMER_NAMES.items() if new == action.dest):
            spelling = former.replace("_", "-")
            _accept(parser, action, f"--{spelling}")
            if isinstance(action, _Switch):
                _accept(parser, action, f"--no-{spelling}")


def flags_of(options: Options, *, exclude: Collection[str] = ()) -> list[str]:
    """Return the flags of a command line that gives these options, without positional arguments.

    Args:
        options: The options; those with their default value need no flag.
        exclude: The names of options to leave out (default: none).
    """
    words: list[str] = []
    for field in _fields(type(options)):
        value, spelling = getattr(options, field.name), _spelling(field)
        if flag_of(field).positional or field.name in exclude or value in (field.default, None):
            continue
        if isinstance(value, bool):
            words.append(spelling if value else f"--no-{spelling[2:]}")
        elif isinstance(value, tuple):
            words += [spelling, *map(str, value)]
        else:  # in one word, as a value may begin with a hyphen
            words.append(f"{spelling}={value}")
    return words


def _fields(options: type[Options]) -> list[dataclasses.Field[Any]]:
    """Return the fields that are flags, those of the class itself before those of its bases."""
    by_name = {field.name: field for field in dataclasses.fields(options)}
    names = dict.fromkeys(n for base in options.__mro__ for n in inspect.get_annotations(base))
    return [
        by_name[n]
        for n in names
        if n in by_name and "flag" in by_name[n].metadata and n not in options.OMITTED_FLAGS
    ]


def _add(group: Any, field: dataclasses.Field[Any], kind: Kind, help: str) -> None:
    flag = flag_of(field)
    if kind.type is bool:
        _add_switch(group, field, help)
        return
    keywords = {"help": help, **_value_keywords(field, kind)}
    required = field.default is MISSING
    if flag.positional:
        if not required:  # argparse would take a suppressed default for a value that was typed
            keywords |= {"nargs": "*" if kind.is_tuple else "?", "default": field.default}
        group.add_argument(field.name, **keywords)
    else:
        names = [*flag.aliases, _spelling(field)]
        group.add_argument(*names, dest=field.name, required=required, **keywords)


def _value_keywords(field: dataclasses.Field[Any], kind: Kind) -> dict[str, Any]:
    """Return the keywords of `add_argument` that tell how values of a field are read and named."""
    flag = flag_of(field)
    keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "type": kind.type}
    if flag.choices:
        keywords["choices"] = flag.choices
    elif kind.type in (int, float):
        keywords["type"] = dataclasses.replace(flag.limits, kind=kind.type)
    if flag.metavar or not flag.choices:
        placeholder = {int: "N", float: "X", Path: "PATH"}.get(kind.type, "NAME")
        keywords["metavar"] = flag.metavar or placeholder
    if kind.is_tuple:
        keywords |= {"nargs": "+", "action": "extend" if flag.repeatable else "store"}
    elif flag.bare is not None:
        keywords |= {"nargs": "?", "const": flag.bare}
    return keywords


class _Print(argparse.Action):
    """The action of a flag that prints a text and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, text: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)
        self._text = text

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            text = pkgutil.resolve_name(self._text)(namespace)
        except ValueError as e:
            parser.error(str(e))
        print(text)
        parser.exit()


class _Switch(argparse.Action):
    """The action of a flag without a value: `--x` sets True, `--no-x` False."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **keywords)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, not str(option_string).startswith("--no-"))


def _add_switch(group: Any, field: dataclasses.Field[Any], help: str) -> None:
    spelling = _spelling(field)
    negation = f"--no-{spelling[2:]}"
    # Where False is the default, its flag is accepted, for scripts, but the help need not show it.
    visible = (spelling,) if field.default is False else (spelling, negation)
    action = group.add_argument(
        *visible, action=_Switch, dest=field.name, default=argparse.SUPPRESS, help=help
    )
    _accept(group, action, negation)


def _accept(group: Any, action: argparse.Action, *spellings: str) -> None:
    """Accept further spellings of an option, which the help text does not show."""
    for spelling in spellings:
        group._option_string_actions.setdefault(spelling, action)


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help(field: dataclasses.Field[Any], quick_values: Mapping[str, Any]) -> str:
    flag, default = flag_of(field), field.default
    implied = flag.implied
    if not implied and not any(default is none for none in (MISSING, None, False, "", ())):
        implied = "yes" if default is True else _value_text(default)
    if field.name in quick_values:
        implied += f"; {_value_text(quick_values[field.name])} with --quick"
    text = f"{flag.help} (default: {implied})" if implied else flag.help
    return text.replace("%", "%%")
