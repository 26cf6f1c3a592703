#!/usr/bin/env python3
"""How good a generator is (FID and its relatives), and how good a detector is.

\b
Examples:
  python evaluate.py generator runs/00003-faces-256 --data flickr140k --metrics fid,kid,pr
  python evaluate.py generator samples/faces --data my_faces/ --num 5000 --json fid.json
"""

from __future__ import annotations

import click

from app.cli import run

SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}


@click.group(help=__doc__, context_settings=SETTINGS)
def main() -> None:
    pass


# ---- generator --------------------------------------------------------------------------------------------------


# ---- detector ---------------------------------------------------------------------------------------------------


if __name__ == "__main__":
    run(main)
