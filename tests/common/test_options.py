"""Options declared on a dataclass: the command that is made of them, and the bounds that library callers meet."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest

from common import cli
from common.errors import UserError
from common.options import DEVICE, Checked, argument, check, flags_of, given, option, options

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Asked:
    photo: str = argument("PHOTO")
    batch_gpu: int | None = option(None, "Images at once.", metavar="N", low=1, high=9)
    rate: float = option(0.5, "A rate.", low=0, above=True)
    dims: int | None = option(None, "Width.", choices=(64, 768))
    kind: str = option("a", "Kind.", choices=("a", "b"))
    mirror: bool = option(False, "Mirrored.", negative=True)
    quick: bool = option(False, "Quick.", flags=("-q", "--quick"))
    data: tuple[str, ...] = option((), "Several.", metavar="SOURCE")
    device: str = DEVICE(help="Where.")
    start: str | None = None  # no option: what the code itself fills in

    def __post_init__(self):
        check(self)


@pytest.fixture
def command():
    """`command(*words)` -> (the dataclass, what was written), or the exit code and line of a refusal."""
    made = []

    @click.command(context_settings={"show_default": True})
    @options(Asked, "asked", kind="b")
    @click.pass_context
    def main(ctx, asked):
        made.append((asked, given(ctx, Asked)))

    def call(*words):
        main.main([str(word) for word in words], standalone_mode=False)
        return made.pop()

    call.main = main
    return call


def test_a_command_is_made_of_the_dataclass(command):
    asked, written = command("face.png", "--batch-gpu", 4, "--dims", 64, "-q", "--data", "x", "--data", "y")
    assert asked == Asked("face.png", batch_gpu=4, dims=64, quick=True, data=("x", "y"), kind="b")
    assert written == {"photo", "batch_gpu", "dims", "quick", "data"}
    assert command("p", "--no-mirror", "--rate", "2")[0].rate == 2.0 and command("p", "--mirror")[0].mirror


def test_a_command_may_take_the_values_alone():
    made = []
    command = click.command()(options(Asked, "values", make=dict, rate=None)(lambda values: made.append(values)))
    command.main(["p", "--dims", "768"], standalone_mode=False)
    assert made[-1]["rate"] is None and made[-1]["dims"] == 768 and "start" not in made[-1]


@pytest.mark.parametrize(
    "words",
    [(), ("p", "--batch-gpu", "0"), ("p", "--batch-gpu", "10"), ("p", "--rate", "0"), ("p", "--kind", "c"),
     ("p", "--dims", "65"), ("p", "--rate", "nan"), ("p", "--start", "x")],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_the_command(command, words):
    with pytest.raises(click.UsageError):
        command(*words)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"batch_gpu": 0}, "`batch_gpu` 0 is too small; give at least 1"),
        ({"batch_gpu": 10}, "`batch_gpu` 10 is too large; give at most 9"),
        ({"rate": 0}, "`rate` 0 is too small; give more than 0"),
        ({"kind": "c"}, "`kind` c is unknown; choose one of a, b"),
        ({"dims": 65}, "`dims` 65 is unknown; choose one of 64, 768"),
    ],
)
def test_and_by_the_library_with_the_fields_name(values, line):
    with pytest.raises(UserError) as refused:
        Asked("p", **values)
    assert str(refused.value) == line


def test_a_parameter_in_an_error_is_shown_as_its_flag(capsys):
    @click.group()
    def main():
        pass

    @main.command()
    @options(Asked)
    def inner(options):
        raise UserError(f"`batch_gpu` {options.batch_gpu} is no divisor; give `kind` b, not `nothing` or `ls -l`")

    with pytest.raises(SystemExit) as left:
        cli.run(main, ["inner", "p", "--batch-gpu", "3"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: --batch-gpu 3 is no divisor; give --kind b, not `nothing` or `ls -l`\n"
    assert flags_of(main, ["inner"])["quick"] == "--quick"


def test_help_shows_defaults_and_nothing_else(command):
    told = command.main.get_help(click.Context(command.main, show_default=True, terminal_width=100))
    assert "[default: auto]" in told and "--mirror / --no-mirror" in told and "--start" not in told
    assert "[default: b]" in told  # this command's own


def test_a_refused_value_is_told_as_it_was_written(command, capsys):
    for words, line in (
        (["--batch-gpu", "0"], "--batch-gpu 0 is too small; give at least 1"),
        (["--rate", "inf"], "--rate inf is not a finite number; give one"),
        (["--kind", "c"], "--kind c is unknown; choose one of a, b"),
        (["--batch-gpu", "x"], "--batch-gpu 'x' is not a whole number; give one"),
        (["--batch-gpu", "1e3"], "--batch-gpu '1e3' is not a whole number; give one"),
        (["--rate", "half"], "--rate 'half' is not a number; give one"),
    ):
        with pytest.raises(SystemExit):
            cli.run(command.main, ["p", *words])
        assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.float64("inf")])
def test_no_number_is_no_value(command, value, capsys):
    """Neither from a command line nor from Python, whatever kind of float it is; tuples are looked into."""
    with pytest.raises(UserError, match="`rate` (nan|-?inf) is not a finite number"):
        Asked("p", rate=value)
    with pytest.raises(UserError, match="`steps` (nan|-?inf) is not a finite number"):
        Steps((0.5, value))
    with pytest.raises(SystemExit) as left:
        cli.run(command.main, ["p", f"--rate={value}"])
    assert left.value.code == 2 and "is not a finite number; give one" in capsys.readouterr().err


@dataclass(frozen=True)
class Steps(Checked):
    steps: tuple[float, ...] = option((), "Several.")


def _commands(command):
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


@pytest.mark.parametrize(
    "name", ["detect", "evaluate", "prepare_data", "serve", "synth", "train_detector", "train_gan", "demo"]
)
def test_every_number_of_every_command_is_held_to_that(name, monkeypatch):
    """An option that click itself would read takes `nan`: each must be read by the one place that refuses it."""
    numbers = []
    spec = importlib.util.spec_from_file_location(f"{name}_command", ROOT / f"{name}.py")  # `synth` is a room, too
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for command in _commands(module.main):
        for parameter in command.params:
            assert not isinstance(parameter.type, click.types.FloatParamType), f"{command.name} {parameter.name}"
            if parameter.type.name == "float":
                numbers.append(parameter)
    for parameter in numbers:
        for word in ("nan", "inf", "-inf", "NaN", "1e999"):
            with pytest.raises(click.BadParameter, match="finite|too (small|large)"):
                parameter.type.convert(word, parameter, None)


def test_an_empty_word_is_no_path(command, capsys):
    """`--csv "$OUT"` with OUT unset wrote into the current folder, or nowhere; both silently."""
    refused = "'' is empty (an unset variable?); give a value, or leave it out"
    for words, line in (
        (["p", "--device", ""], f"--device {refused}"),
        (["p", "--device="], f"--device {refused}"),
        (["p", "--data", "x", "--data", ""], f"--data {refused}"),
        ([""], f"Invalid value for 'PHOTO': {refused}"),
        (["p", "--kind", ""], "--kind '' is unknown; choose one of a, b"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.run(command.main, words)
        assert left.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    "name", ["detect", "evaluate", "prepare_data", "serve", "synth", "train_detector", "train_gan"]
)
def test_every_text_of_every_command_is_held_to_that(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"{name}_command", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    held = 0
    for command in _commands(module.main):
        for parameter in command.params:
            if parameter.type.name == "text" and parameter.default != "" and parameter.nargs == 1:
                with pytest.raises(click.BadParameter, match="is empty"):
                    parameter.type.convert("", parameter, None)
                held += 1
    assert held


@pytest.mark.parametrize("value", ["1e308", "1e10", "3e9"])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("detect", ["--decode-seconds", "--max-pixels"]),
        ("serve", ["--photo-seconds", "--video-seconds", "--url-seconds", "--timeout", "--max-mb", "--max-pixels"]),
    ],
)
def test_what_a_timer_or_a_size_is_made_of_has_an_upper_bound(name, flags, value, monkeypatch, capsys):
    """Before: a traceback, when the server started or at the first photo."""
    spec = importlib.util.spec_from_file_location(f"{name}_command", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for flag in flags:
        with pytest.raises(SystemExit) as left:
            cli.run(module.main, [*(["a.jpg"] if name == "detect" else []), flag, value])
        assert left.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {flag} {value} is too large; give at most ")
