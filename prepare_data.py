#!/usr/bin/env python3
"""Get face sets, look at them, find what gives a class away, repair it, split and pack them.

\b
Examples:
  python prepare_data.py fetch yonsei --from ~/Downloads/archive.zip
  python prepare_data.py inspect flickr140k
  python prepare_data.py audit my_faces/
  python prepare_data.py normalise my_faces/ my_faces_even/
  python prepare_data.py split my_faces/ --ratios 80/10/10 --folds 5 --out manifest.csv
  python prepare_data.py pack manifest.csv faces256.zip --resolution 256

SOURCE is a folder, a .zip, a named set (demo, flickr140k, rvf10k, deepfake-and-real, yonsei) or a manifest (.csv, or
.parquet where pyarrow is installed) as `split` writes it.
"""

from __future__ import annotations

import click

from app.cli import importing, run

SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}
DATA_ROOT = click.option(
    "--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]"
)


@click.group(help=__doc__, context_settings=SETTINGS)
def main() -> None:
    pass


# ---- fetch ------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("name", metavar="NAME")
@DATA_ROOT
def fetch(name: str, data_root: str | None) -> None:
    """Bring a named set here: flickr140k, rvf10k, deepfake-and-real or yonsei."""
    with importing():
        from faces.source import open_source

    source = open_source(name, data_root=data_root)
    fakes = int(source.labels.sum())
    click.echo(f"{name}: {len(source) - fakes} real, {fakes} fake")


# ---- inspect, audit ---------------------------------------------------------------------------------------------


# ---- normalise --------------------------------------------------------------------------------------------------


# ---- split ------------------------------------------------------------------------------------------------------


# ---- pack -------------------------------------------------------------------------------------------------------


if __name__ == "__main__":
    run(main)
