"""What networks, and the losses they learn by, let one choose (see `common.options`). No PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass

import click

from common.options import option

SIZES = ("tiny", "base")  # of the hybrid
BRANCHES = ("spatial", "artefact")
RESIDUALS = ("highpass", "neighbour", "wavelet", "spectrum", "pixels")
HEADS = ("linear", "seeds")  # of published networks
CONSISTENCIES = ("kl", "mse")


class Listed(click.ParamType):
    """Words with commas between; `known`: the only ones there are, each at most once."""

    name = "list"

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.known = known

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in str(value).split(",") if part.strip())
        if self.known and (not parts or not set(parts) <= set(self.known) or len(set(parts)) < len(parts)):
            self.fail(f"{value!r}: give {', '.join(self.known)}, or {','.join(self.known)}")
        return parts


def read_span(text: str) -> tuple[int, int | None] | None:
    """ "1-6" as (1, 6), "1-" as (1, None); None for what is written otherwise."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or not dash or (last and not last.isdecimal()):
        return None
    return int(first), int(last) if last else None


class Span(click.ParamType):
    """FIRST-LAST, or FIRST- up to the last there is."""

    name = "span"

    def convert(self, value, param, ctx):
        if isinstance(value, (tuple, list)):
            return tuple(value)
        span = read_span(str(value))
        if span is None or (span[1] is not None and span[1] < span[0]):
            self.fail(f"{value!r}: give the first and the last level, such as 1-6, or 1- for all from there on")
        return span


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What may differ between networks of one name. patches: whether a published network judges patches as well. blur,
    noise: of blur_noise_cnn."""

    size: str = option("tiny", "Size of the hybrid.", choices=SIZES)
    branches: tuple[str, ...] = option(
        BRANCHES, "What the hybrid looks through.", metavar="LIST", parse=Listed(BRANCHES), whole=True
    )
    residual: str = option("highpass", "What the hybrid's artefact branch sees.", choices=RESIDUALS)
    stride1: int = option(
        0,
        "Leave out a backbone's first N down-samplings: finer traces, 4 times the time each.",
        metavar="N", low=0, high=2,
    )  # fmt: skip
    head: str = option(
        "linear",
        "A backbone's: one layer; or pooling, dense with L2, dropout, batch norm, one layer.",
        choices=HEADS,
    )
    dropout: float = option(0.3, "Before the verdict.", metavar="P", low=0, high=0.95)
    reconstruct: bool = option(False, "capsnet: with the decoder that redraws the image.")
    levels: tuple[int, int | None] | None = option(
        None,
        "levels:NAME: from which level (the stem's is 0) to which it looks.  [default: all]",
        metavar="FIRST-LAST", parse=Span(), whole=True,
    )  # fmt: skip
    correlations: int = option(
        0,
        "levels:NAME: correlations of every two channels, of levels of at most N channels.",
        metavar="N", low=0, high=256,
    )  # fmt: skip
    patches: bool = True
    blur: float = 1.0
    noise: float = 0.05
