"""The project's commands under one name: `ganface detect photo.jpg`, or `python -m ganface detect photo.jpg`."""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMANDS = {
    "detect": "is a face in a photo or video real, or made by a generator?",
    "serve": "the same on a web page and by HTTP (extra web)",
    "train-gan": "train the generator and its detector against each other (extra train)",
    "train-detector": "train a detector by itself, or calibrate one (extra train)",
    "synth": "sample a trained generator (extra train)",
    "evaluate": "measure generators and detectors (extra train)",
    "prepare-data": "look at a data set, repair, split and pack it (extra train)",
    "demo": "all of it in a few minutes, on drawn faces (extra train)",
}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first word names, and exit with its code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print("usage: ganface COMMAND ...\n\n" + "\n".join(f"  {name:15} {what}" for name, what in COMMANDS.items()))
        print("\nganface COMMAND --help tells of one; the extras: pip install 'ganface[web]'")
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(own_version())
        sys.exit(0)
    if words[0] not in COMMANDS:
        print(f"error: {words[0]}: no such command; give one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    script = scripts() / (words[0].replace("-", "_") + ".py")
    sys.argv[1:] = words[1:]
    runpy.run_path(str(script), run_name="__main__")


def scripts() -> Path:
    """The folder of the commands: in the installed package, or the root of a checkout."""
    inside = Path(__file__).resolve().parent / "commands"
    return inside if inside.is_dir() else inside.parents[1]


def own_version() -> str:
    try:
        return version("ganface")
    except PackageNotFoundError:
        return "a checkout"


if __name__ == "__main__":
    main()
