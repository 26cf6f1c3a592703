"""A command as click's CliRunner wants it, run the way its script runs it."""

from __future__ import annotations

import click

from common.cli import run


class Program:
    """`CliRunner().invoke(Program(detect.main), words)`: errors become the lines and exit codes that a person sees."""

    def __init__(self, command: click.Command) -> None:
        self.command, self.name = command, command.name

    def main(self, args, **_) -> None:
        run(self.command, list(args))
