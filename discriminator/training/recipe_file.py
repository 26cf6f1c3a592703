"""Recipe files: the options of `train_detector.py` for one kind of training, as a person would read them.

A recipe is a TOML file: `about`, a few words, and a table `[options]` whose keys are the options without the
dashes in front (`frozen-epochs = 20`). An option on the command line wins over the recipe's. No PyTorch here: `--help`
must answer at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from common import reading
from common.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
PLAIN = (bool, int, float, str)
RENAMED = {"crop": "random-crop"}


def names() -> list[str]:
    """The recipes that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(spec: str, known: Collection[str], never: Collection[str] = ()) -> dict:
    """{"name": without folder and ending, "about", "options": option -> value} of the recipe called `spec`, or of the
    file of that path. known: what options there are, as `frozen-epochs`. never: options that no recipe may set.

    UserError, naming the file, where there is none, it is no recipe, or an option is unknown."""
    path = FOLDER / f"{spec}.toml"
    if spec not in names():
        path = Path(spec)
        if not path.suffix == ".toml" and not path.exists():
            hint = _near(spec, names()) or f"give one of {', '.join(names())}, or a .toml file"
            raise UserError(f"`recipe` {spec}: there is no such recipe; {hint}")
    try:
        data = reading.toml_of(reading.read_bytes(path))
    except OSError as error:
        raise UserError(f"`recipe` {spec}: can't be read ({error.strerror}); check the path") from None
    except reading.Unreadable as error:
        raise UserError(f"`recipe` {spec}: is not TOML ({error}); mend the file") from None
    about, values = data.get("about", ""), data.get("options")
    if extra := sorted(set(data) - {"about", "options"}):
        raise UserError(f"`recipe` {spec}: {extra[0]} does not belong there: options stand below a line [options]")
    if not isinstance(about, str) or not isinstance(values, dict) or not values:
        raise UserError(f"`recipe` {spec}: has no options; a recipe has a line [options] with lines like epochs = 30")
    values = {RENAMED.get(key, key): value for key, value in values.items()}
    for key, value in values.items():
        if key in never:
            raise UserError(f"`recipe` {spec}: {key} is for the command line alone; take it out of the file")
        if key not in known:
            hint = _near(key, known) or "the help of train_detector.py lists them all"
            raise UserError(f"`recipe` {spec}: unknown option {key!r}; {hint}")
        listed = isinstance(value, list) and all(isinstance(v, str) for v in value)
        if not (type(value) in PLAIN or listed):
            raise UserError(f"`recipe` {spec}: {key} must be a number, true, false, a text or a list of texts")
    return {"name": path.stem, "about": about, "options": values}


def _near(word: str, among: Collection[str]) -> str:
    return "".join(f"did you mean {one}?" for one in difflib.get_close_matches(word, among, 1))
