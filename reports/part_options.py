"""Judging in parts, on many machines: what may be asked for, declared once (see `common.options`). No numpy here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import UserError
from common.options import OUT, Checked, argument, option


class Part(NamedTuple):
    """Part `number` (from 0) of `of`."""

    number: int
    of: int

    def files(self, count: int) -> range:
        """Which of `count` files are this part's: neighbours, so that an archive is read from one end to the other."""
        return range(self.number * count // self.of, (self.number + 1) * count // self.of)


ENGINES = ("here", "ray")
PARTS = 64  # of `engine` ray


@dataclass(frozen=True, kw_only=True)
class PartOptions(Checked):
    """One part of a judging that is shared out."""

    shard: str | None = option(
        None,
        "Judge part I (0 to N-1) of N of the files alone, into --out; started again it goes on, or is done.",
        metavar="I/N",
    )
    out: str | None = option(None, "Folder of the parts, a Parquet file each.", metavar="DIR")
    engine: str = option(
        "here",
        "Who judges: this process, or Ray Data's workers all parts (--parts, --out); the cluster of $RAY_ADDRESS, else"
        " this machine.",
        choices=ENGINES,
    )
    parts: int | None = option(
        None, "How many parts --engine ray makes.  [default: 64]", low=1, high=1_000_000, metavar="N"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "ray":
            if self.shard is not None or self.out is None:
                raise UserError("`engine` ray judges all parts into a folder: give `out`, and no `shard`")
            return
        if self.parts is not None:
            raise UserError("`parts` belongs to `engine` ray; here `shard` I/N says of how many")
        if (self.shard is None) != (self.out is None):
            missing = "out" if self.out is None else "shard"
            raise UserError(f"`shard` and `out` belong together: `{missing}` is missing")
        if self.shard is not None:
            _ = self.part

    @property
    def asked(self) -> bool:
        """Whether this is a judging in parts at all."""
        return self.out is not None

    @property
    def part(self) -> Part:
        """What `shard` says. UserError where that is no part."""
        found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", self.shard or "")
        if found is None or not int(found[1]) < int(found[2]):
            raise UserError(f"`shard` {self.shard}: give I/N, part I of N counted from 0, such as 0/8 to 7/8")
        return Part(int(found[1]), int(found[2]))


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Parts to one table."""

    parts: str = argument("DIR")
    out: str | None = OUT(default=None, help="A new .parquet or .csv file.  [default: DIR/verdicts.parquet]")
