"""The licences of everything this project stands on: `make licences`, or python requirements/licences.py.

Each package that is installed here and that pyproject.toml asks for, by itself, by an extra, or by one of these
packages: its version and the licence that its own metadata name. Nothing is asked of the network. Exit code 1 where a
package names none, or one that asks for the source of what uses it (GPL, AGPL).
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ASKS = re.compile(r"\bA?GPL|\bGNU (Affero )?General Public", re.IGNORECASE)  # the Lesser one does not

ELSEWHERE = {"cuda-toolkit": "empty: it only asks for the nvidia-* packages"}  # where a package itself is silent


def wanted() -> list[str]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    specs = [*project["dependencies"], *(spec for extra in project["optional-dependencies"].values() for spec in extra)]
    return [spec for spec in specs if not spec.startswith(project["name"])]


def closure(specs: Iterable[str]) -> dict[str, Distribution | None]:
    """name: what is installed of these requirements and of all that they ask for; None for what is not."""
    found: dict[str, Distribution | None] = {}
    todo = [(Requirement(spec), "") for spec in specs]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, of = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of}):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found[name] = there = distribution(name)
            except PackageNotFoundError:
                found[name] = None
                continue
            todo += [(Requirement(spec), extra) for spec in there.requires or []]
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """What a package's metadata, or else the first line of its licence file, say; empty where they say nothing."""
    said = package.metadata
    if expression := said.get("License-Expression"):
        return expression
    classes = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if line.startswith("License")]
    if classes := [name for name in classes if name != "OSI Approved"]:
        return ", ".join(classes)
    files = [file for file in package.files or [] if re.match(r"LICEN[CS]E|COPYING", file.name, re.IGNORECASE)]
    for text in (said.get("License") or "", *(file.read_text("utf-8") for file in files if file.suffix != ".py")):
        lines = [line.strip() for line in text.splitlines() if re.search(r"[a-z]{2}", line, re.IGNORECASE)]
        if lines and lines[0].upper() != "UNKNOWN":
            return lines[0][:60]
    return ELSEWHERE.get(canonicalize_name(said["Name"]), "")


def main() -> int:
    packages = closure(wanted())
    rows = [(name, package.version, licence(package)) for name, package in packages.items() if package is not None]
    for name, version, said in rows:
        print(f"{name:28s} {version:18s} {said or 'NOT TOLD'}")
    absent = [name for name, package in packages.items() if package is None]
    untold = [name for name, _, said in rows if not said]
    asking = [name for name, _, said in rows if ASKS.search(said) and not re.search(r"LGPL|Lesser", said)]
    print(f"not installed here, so not listed: {', '.join(absent) or 'none'}")
    print(f"{len(rows)} packages; no licence told: {', '.join(untold) or 'none'}; GPL: {', '.join(asking) or 'none'}")
    return 1 if untold or asking else 0


if __name__ == "__main__":
    sys.exit(main())
