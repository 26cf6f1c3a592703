"""Options declared on a dataclass: the command that is made of them, and the bounds that library callers meet."""

from __future__ import annotations

from dataclasses import dataclass

import click
import pytest

from common import cli
from common.errors import UserError
from common.options import DEVICE, argument, check, flags_of, given, option, options


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
        (["--batch-gpu", "x"], "--batch-gpu 'x' is not a valid integer."),
    ):
        with pytest.raises(SystemExit):
            cli.run(command.main, ["p", *words])
        assert capsys.readouterr().err == f"error: {line}\n"
