"""What pyproject.toml declares, extras that name extras unfolded."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def unfolded(extra: str) -> list[str]:
    """The requirements of an extra; those of `ganface[a,b]` in its place."""
    out = []
    for spec in EXTRAS[extra]:
        named = re.fullmatch(r"ganface\[([a-z0-9,]+)\]", spec)
        out += [spec] if named is None else [one for name in named[1].split(",") for one in unfolded(name)]
    return list(dict.fromkeys(out))
