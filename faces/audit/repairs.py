"""Which commands repair what the gates found: one for the files and one for the splits, that fit each other.

Of a folder that `prepare_data.py normalise` made, what was done is known (normalise.json): then the original is taken
through it once more with what was left out, or it is said that what is left lies in the pictures.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import shlex
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.options import command_line
from common.reading import json_file
from faces.audit.gates import ALIGN, EVEN, SPLIT, Gate
from faces.manifest import ENDINGS
from faces.normalise import MANIFEST, RECORD
from faces.normalise_report import common_size
from faces.prepare_options import Normalisation
from faces.source import FaceSource

LEVELS = 5  # of folders above an image, in which normalise's record is looked for
LEFT = "Normalising has been done: what is left of this lies in the pictures, and no command takes it out of them"
ADDED = "normalise wrote all files alike: have some been added or changed since?"
BY_FILES = ("metadata", "size")  # gates that see nothing of the pictures
BY_SIZE = ("spectrum", "blockiness")  # gates that a common smaller size helps
AS_NAMED: Mapping[str, str] = types.MappingProxyType({})  # a source that was named without options
ORIGINAL = "ORIGINAL"  # stands for a source whose name is not known


@dataclass(frozen=True)
class Made:
    """What normalise did to the images of a folder. call: how its source was named ("source", "labels", "split",
    "data_root"; an older record has none). to: a size through which both classes should go yet, or 0."""

    folder: Path
    recipe: Normalisation
    call: Mapping[str, str]
    to: int

    @classmethod
    def of(cls, source: FaceSource) -> Made | None:
        """None where the images do not all lie in one folder that normalise made."""
        if not len(source):
            return None
        folders = {_above(source.locate(i)) for i in (0, len(source) // 2, len(source) - 1)}
        folder = folders.pop()
        if folders or folder is None:
            return None
        try:
            record = json_file(folder / RECORD)
            known = {each.name for each in dataclasses.fields(Normalisation)}
            values = {name: value for name, value in record.items() if name in known}
            recipe = Normalisation(**values | {"quality": tuple(record["quality"])})
            call = {name: str(value) for name, value in (record.get("call") or {}).items() if value}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return cls(folder, recipe, call, 0 if recipe.through else common_size(_sides(folder), recipe.resolution)[0])

    def describe(self) -> str:
        """One line about what has been done."""
        r = self.recipe
        kind = "PNG" if r.format == "png" else f"JPEG of quality {r.quality[0]}-{r.quality[1]}"
        done = ["cut out as FFHQ's faces" if r.align == "ffhq" else "not aligned"]
        done += [f"all through {r.through} pixels"] if r.through else []
        where = _near(self.call.get("source", ""))
        of = f" of {where}" if where else ""
        return f"made by normalise{of}: {r.resolution}x{r.resolution} pixels, {kind}, {', '.join(done)}"


def _above(image: str) -> Path | None:
    """The folder above an image that normalise made."""
    return next((folder for folder in list(Path(image).parents)[:LEVELS] if (folder / RECORD).is_file()), None)


def _sides(folder: Path) -> dict[int, list[float]]:
    """Pixels a side of the cuts before they were resized, by label; {} where the manifest does not tell."""
    sides: dict[int, list[float]] = {}
    try:
        with open(folder / MANIFEST, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                sides.setdefault(int(row["label"]), []).append(float(row["side"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return sides


def with_repairs(gates: Sequence[Gate], spec: str, made: Made | None, call: Mapping[str, str] = AS_NAMED) -> list[Gate]:
    """The gates, those that failed with the command that repairs them, or with what there is to know in its place.

    spec: how the person named the source. call: by which other options ("labels", "split", "data_root")."""
    kinds = {gate.repair for gate in gates}
    files, splits = "", ""
    more = _more(gates, made)
    if kinds & {EVEN, ALIGN} and (made is None or more):
        files, spec = _normalise(spec, made, more or ({"align": "ffhq"} if ALIGN in kinds else {}), call)
    if SPLIT in kinds:  # what normalise writes needs no more telling
        splits = _split(spec, {} if files else call)
    found = []
    for gate in gates:
        if gate.repair == SPLIT:
            gate = dataclasses.replace(gate, repair=splits)
        elif gate.repair and made is not None and not _helps(more, gate):
            left = ADDED if gate.name in BY_FILES else LEFT
            gate = dataclasses.replace(gate, repair="", meaning=f"{gate.meaning}. {left}")
        elif gate.repair:
            gate = dataclasses.replace(gate, repair=files)
        found.append(gate)
    return found


def _more(gates: Sequence[Gate], made: Made | None) -> dict[str, Any]:
    """What was left out when the images were normalised, of what would help."""
    if made is None:
        return {}
    if made.recipe.align == "none" and any(gate.repair == ALIGN for gate in gates):
        return {"align": "ffhq"}
    if made.to and any(gate.repair and gate.name in BY_SIZE for gate in gates):
        return {"through": made.to}
    return {}


def _helps(more: Mapping[str, Any], gate: Gate) -> bool:
    """Whether a gate may pass when images that were normalised are normalised with `more`."""
    return gate.name not in BY_FILES and ("align" in more or ("through" in more and gate.name in BY_SIZE))


def _normalise(spec: str, made: Made | None, more: Mapping[str, Any], call: Mapping[str, str]) -> tuple[str, str]:
    """The command that writes a source's files anew (the original's, where `spec` was made of one), and its folder."""
    how: dict[str, Any] = {}
    if made is None:
        how = {name: shlex.quote(value) for name, value in call.items()}
    else:
        usual, recipe = Normalisation(), made.recipe
        how = {each.name: getattr(recipe, each.name) for each in dataclasses.fields(recipe)}
        how = {name: value for name, value in how.items() if value != getattr(usual, name)}
        how |= {name: shlex.quote(made.call[name]) for name in ("labels", "split", "data_root") if name in made.call}
        spec = _near(made.call.get("source", ORIGINAL))
    how |= more
    if "quality" in how:
        how["quality"] = "-".join(map(str, how["quality"]))
    dest = _free(f"{_base(spec)}_even")
    return command_line("prepare_data.py", "normalise", shlex.quote(spec), shlex.quote(dest), **how), dest


def _split(spec: str, call: Mapping[str, str]) -> str:
    manifest = _base(spec) + ("_split.csv" if os.path.splitext(spec)[1].lower() in ENDINGS else ".csv")
    quoted = shlex.quote(spec), shlex.quote(manifest)
    named = {name: shlex.quote(value) for name, value in call.items() if name != "split"}
    return command_line("prepare_data.py", "split", quoted[0], **named, group_by="near-duplicate", out=quoted[1])


def _base(spec: str) -> str:
    """A source's name without its ending, to which something may be added."""
    base = spec.rstrip("/\\") or spec
    stem, ending = os.path.splitext(base)
    return stem if ending.lower() in (".zip", *ENDINGS) else base


def _free(name: str) -> str:
    """`name`, or with a number behind it where there is something of that name."""
    number, free = 2, name
    while os.path.lexists(free):
        number, free = number + 1, f"{name}{number}"
    return free


def _near(path: str) -> str:
    """A path as short as it can be typed from here."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
