"""Options declared once: a dataclass says name, type, bounds, default and help; commands are made of it.

    @dataclass(frozen=True)
    class Sampling:
        seeds: str | None = option(None, "Seeds, like 0-99,200.", metavar="LIST")
        batch: int = option(64, "Images in flight.", low=1)
        device: str = DEVICE()

    @click.command()
    @options(Sampling)
    def main(options: Sampling): ...

A field's annotation gives the type: `bool` is a flag, `tuple[X, ...]` may be given several times, `X | None` has no
default that could be shown. Library callers make the dataclass themselves; `Checked` holds them to the same bounds.
Light on purpose: `--help` must answer at once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from common.errors import UserError

KEY = "option"
DAY = 86_400.0  # seconds: the longest wait that may be asked for; a timer takes no number of any size


@dataclass(frozen=True)
class Option:
    """What a command line needs to know of a field beyond its name, type and default."""

    help: str
    metavar: str | None = None
    choices: Sequence | None = None
    low: float | None = None
    high: float | None = None
    above: bool = False  # `low` itself is too small
    flags: tuple[str, ...] = ()  # instead of --the-fields-name
    negative: bool = False  # a flag has a --no-… as well
    hidden: bool = False
    parse: click.ParamType | None = None  # a type of its own
    whole: bool = False  # `parse` makes the whole tuple of one word: not given several times
    eager: Callable | None = None  # click's callback, called before other options are read
    argument: bool = False  # stands without a name


def option(default: Any = dataclasses.MISSING, help: str = "", **how: Any) -> Any:
    """A dataclass field that is an option of a command; `how`: the other fields of `Option`. No default: required."""
    return dataclasses.field(default=default, metadata={KEY: Option(help, **how)})


def argument(metavar: str, default: Any = dataclasses.MISSING) -> Any:
    """A field that stands on the command line without a name; `tuple[str, ...]` takes any number of them."""
    return option(default, metavar=metavar, argument=True)


def of(cls: type) -> dict[str, Option]:
    """The fields of a dataclass that are options, by name."""
    return {field.name: field.metadata[KEY] for field in dataclasses.fields(cls) if KEY in field.metadata}


def options(
    cls: type, into: str = "options", *, but: Sequence[str] = (), make: Callable | None = None, **defaults: Any
) -> Callable:
    """Decorates a click callback with the options of dataclass `cls`; it gets an instance as the keyword `into`.

    but: fields that this command does not offer; they keep their defaults. defaults: other ones for this command. make:
    called with the values instead of `cls` (`dict`: where the command cannot make an instance yet).
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if KEY in f.metadata and f.name not in but}

    def decorate(callback: Callable) -> Callable:
        @functools.wraps(callback)
        def with_instance(*args: Any, **given: Any) -> Any:
            values = {name: _typed(hints[name], given.pop(name)) for name in known}
            return callback(*args, **{into: (make or cls)(**values)}, **given)

        decorated = with_instance
        for name, field in reversed(known.items()):
            decorated = _parameter(name, hints[name], field, defaults.get(name, field.default))(decorated)
        return decorated

    return decorate


def given(ctx: click.Context, cls: type) -> set[str]:
    """The fields of `cls` that the person wrote on the command line."""
    written = click.core.ParameterSource.COMMANDLINE
    return {name for name in of(cls) if ctx.get_parameter_source(name) == written}


def check(values: Any) -> None:
    """Hold a dataclass to the bounds and choices that its options declare. Raises UserError that names the field."""
    for name, how in of(type(values)).items():
        value = getattr(values, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and (reason := _wrong(how, one)):
                raise UserError(f"`{name}` {one}{reason}")


def refuse(values: Any, names: Sequence[str], why: str, given: Collection[str] = ()) -> None:
    """UserError for the first of these fields that is among the `given`, or not at its default: beside the others it
    would change nothing, and whoever gave it expects otherwise. why: what is said behind its name and value."""
    for name in names:
        value = getattr(values, name)
        if name in given or value != getattr(type(values), name):
            shown = "" if isinstance(value, (bool, tuple)) else f" {value}"
            raise UserError(f"`{name}`{shown}: {why}")


@dataclass(frozen=True)
class Checked:
    """A dataclass of options that is held to their bounds whoever makes it."""

    def __post_init__(self) -> None:
        check(self)


def _wrong(how: Option, value: Any) -> str | None:
    """What is wrong with a value, to be written behind it; None where it will do."""
    if how.choices is not None:
        return None if value in how.choices else f" is unknown; choose one of {', '.join(map(str, how.choices))}"
    if isinstance(value, numbers.Real) and not math.isfinite(value):  # NumPy's numbers, too
        return " is not a finite number; give one"
    if how.low is not None and (value < how.low or (how.above and value == how.low)):
        return f" is too small; give {'more than' if how.above else 'at least'} {how.low:g}"
    if how.high is not None and value > how.high:
        return f" is too large; give at most {how.high:g}"
    return None


def command_line(*words: str, **options: object) -> str:
    """What a person may type: `command_line("prepare_data.py", "audit", "faces/", limit=9)` gives "python
    prepare_data.py audit faces/ --limit 9". An option whose name is a word of Python has an underscore behind it."""
    flags = (f"--{name.rstrip('_').replace('_', '-')} {value}" for name, value in options.items())
    program = ("python",) if words[0].endswith(".py") else ()  # the installed package has no scripts
    return " ".join((*program, *words, *flags))


def flags_of(command: click.Command, words: Sequence[str] = ()) -> dict[str, str]:
    """Parameter name -> how a person writes it (`--batch-gpu`, `PHOTO`), of a command or of the sub-command among
    `words`."""
    found = {
        str(p.name): max(p.opts, key=len) if isinstance(p, click.Option) else str(p.metavar or p.name).split()[0]
        for p in command.params
    }
    for word in words:
        if inner := getattr(command, "commands", {}).get(word):
            return found | flags_of(inner)
    return found


def write_sections(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter, sections: Mapping[str, str], width: int
) -> None:
    """A command's `format_options`: every heading of `sections` above the options named there (blanks between).

    width: of the column of their names, at most."""
    params = {max(p.opts, key=len)[2:].replace("-", "_"): p for p in command.get_params(ctx)}
    for title, names in sections.items():
        with formatter.section(title):
            records = [params[name].get_help_record(ctx) for name in names.split()]
            formatter.write_dl([record for record in records if record is not None], col_max=width)


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """`text` with every parameter in backticks shown as its flag: "`batch_gpu` 3" becomes "--batch-gpu 3"."""
    return re.sub(r"`([a-z]\w*)`", lambda named: flags.get(named[1], named[0]), text)


def _plain(hint: Any) -> tuple[Any, bool]:
    """(type without None, whether it may be given several times)"""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(inner for inner in typing.get_args(hint) if inner is not type(None))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        return (inner[0], True) if inner[-1] is Ellipsis else (hint, False)
    return hint, False


def _typed(hint: Any, value: Any) -> Any:
    kind, several = _plain(hint)
    if kind is int and isinstance(value, str):  # of a choice between numbers
        return int(value)
    return tuple(value) if several and value is not None else value


def _parameter(name: str, hint: Any, field: dataclasses.Field, default: Any) -> Callable:
    """The click decorator for a field."""
    how: Option = field.metadata[KEY]
    kind, several = _plain(hint)
    required = default is dataclasses.MISSING
    if how.argument:
        one = Word(kind) if kind in (str, Path) and not several else None
        return click.argument(name, metavar=how.metavar, required=required, nargs=-1 if several else 1, type=one)
    flags = how.flags or ("--" + name.replace("_", "-"),)
    facts: dict[str, Any] = {"help": how.help, "hidden": how.hidden, "required": required}
    if not required:
        facts["default"] = default
    if default == "":
        facts["show_default"] = False  # «nothing» is no value worth printing
    if how.eager is not None:
        facts |= {"is_eager": True, "callback": how.eager}
    if kind is bool:
        if how.negative:
            flags = (*flags[:-1], f"{flags[-1]}/--no-{flags[-1][2:]}")
        return click.option(*flags, name, is_flag=True, **facts)
    multiple = several and not how.whole
    typ = str if default == "" else _click_type(kind, how)
    return click.option(*flags, name, metavar=how.metavar, multiple=multiple, type=typ, **facts)


def _click_type(kind: Any, how: Option) -> Any:
    if how.parse is not None:
        return how.parse
    if how.choices is not None:
        return _Choice([str(choice) for choice in how.choices])
    if kind in (str, Path):
        return Word(kind)
    return _Number(kind, how) if kind in (int, float) else kind


class _Choice(click.Choice):
    def get_invalid_choice_message(self, value, ctx) -> str:
        return f"{value or repr(value)} is unknown; choose one of {', '.join(map(str, self.choices))}"


class Word(click.ParamType):
    """Text that is not empty: `--csv "$OUT"` with OUT unset would be taken for the current folder, or for nothing."""

    name = "text"

    def __init__(self, kind: Callable[[str], Any] = str) -> None:
        self.kind = kind

    def convert(self, value, param, ctx):
        if value == "":
            self.fail("'' is empty (an unset variable?); give a value, or leave it out", param, ctx)
        return self.kind(value)


class _Number(click.ParamType):
    """An int or float within the bounds of its option; no bound would catch `nan`, which is none."""

    def __init__(self, kind: type, how: Option) -> None:
        self.base, self.how = (click.INT if kind is int else click.FLOAT), how
        self.name = self.base.name

    def convert(self, value, param, ctx):
        try:
            number = self.base.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a {'whole ' * (self.base is click.INT)}number; give one", param, ctx)
        if reason := _wrong(self.how, number):
            self.fail(f"{value}{reason}", param, ctx)
        return number


# ---- what many commands share: `DEVICE()` makes a field of it, `DEVICE(help=…)` one that differs ---------------------

DEVICE = functools.partial(option, default="auto", help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
THREADS = functools.partial(
    option, default=None, help="Threads for computing.  [default: all cores]", metavar="N", low=1
)
WORKERS = functools.partial(
    option, default=None, help="Threads that decode images.  [default: one per core]", metavar="N", low=1
)
SEED = functools.partial(option, default=0, help="Everything random follows from it.", metavar="N", low=0)
FORCE = functools.partial(option, default=False, help="Replace files that are there already.")
OUT = functools.partial(option, metavar="FILE")
OUTDIR = functools.partial(option, metavar="DIR")
BATCH = functools.partial(option, metavar="N", low=1)
CHECKPOINT_MINUTES = functools.partial(
    option, default=10.0, help="Save the state at least this often.", metavar="X", low=0
)
QUIET = functools.partial(option, default=False)
THRESHOLD = functools.partial(option, default=None, metavar="P")
CSV = functools.partial(option, default=None)
AS_JSON = functools.partial(option, default=False, flags=("--json",))
