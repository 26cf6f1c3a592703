"""The build backend of pyproject.toml: a wheel in which everything lies inside one package, `ganface`.

The rooms of the checkout have names that are too common for a shared site-packages (`web`, `training`). So the build
copies them into a folder `ganface/`, the scripts of the root into `ganface/commands/`, the weights into
`ganface/models/`, and writes `from faces.decode import ...` as `from ganface.faces.decode import ...`, as programs are
changed that carry their libraries within themselves. What help and errors tell people to type becomes what they can
type there: `ganface detect` for `python detect.py`. Then setuptools makes the wheel of that folder. An editable install
copies nothing; its `ganface` finds the checkout.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ganface"
OTHERS = (PACKAGE, "tests", "benchmarks")  # folders that are no rooms
ROOMS = tuple(sorted({file.parent.name for file in ROOT.glob("*/__init__.py")} - {*OTHERS}))
SCRIPTS = ("detect", "serve", "train_gan", "train_detector", "synth", "evaluate", "prepare_data", "demo")
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")  # for the wheel's metadata
CODE = (".py", ".cpp", ".cu", ".cuh", ".h", ".toml", ".css", ".html", ".js")

_ROOM = "|".join(ROOMS)
_IMPORT = re.compile(rf"\bfrom ((?:{_ROOM})(?:\.\w+)*) import\b")
_SUSPECT = re.compile(rf"^\s*(?:import|from) [^#]*\b(?:{_ROOM}|{'|'.join(SCRIPTS)})\b", re.MULTILINE)
_MODULE = re.compile(rf"-m ((?:{_ROOM})\b)")
_SCRIPT = re.compile(rf"(?:\bpython3? )?(?<![\w/.-])({'|'.join(SCRIPTS)})\.py\b")
_TORCHRUN = re.compile(rf"(torchrun (?:--\S+ )*)({'|'.join(SCRIPTS)})\.py\b")


def rewritten(text: str) -> str:
    """The source of a room or script as it stands in the package."""
    text = _IMPORT.sub(rf"from {PACKAGE}.\1 import", text)
    text = _MODULE.sub(rf"-m {PACKAGE}.\1", text)
    text = _TORCHRUN.sub(lambda found: f"{found[1]}-m {_typed(found[2])}", text)
    text = _SCRIPT.sub(lambda found: _typed(found[1]), text)
    return text.replace("make demo", f"{PACKAGE} demo")


def _typed(script: str) -> str:
    return f"{PACKAGE} {script.replace('_', '-')}"


def left_behind(text: str) -> Iterator[str]:
    """Imports of a rewritten file that still name a room or script of the checkout."""
    for node in ast.walk(ast.parse(text)) if _SUSPECT.search(text) else ():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        yield from (name for name in names if name.partition(".")[0] in (*ROOMS, *SCRIPTS))


def stage(into: Path, root: Path = ROOT) -> None:
    """Lay out in the folder `into` what setuptools is to make a wheel of."""
    package = into / PACKAGE
    for name in BESIDE:
        shutil.copyfile(root / name, into / name)
    shutil.copytree(root / "models", into / "models", ignore=shutil.ignore_patterns("*.onnx", "*.safetensors"))
    shutil.copytree(root / "models", package / "models")
    for name in ("__init__.py", "__main__.py"):
        _copy_code(root / PACKAGE / name, package / name)
    for room in ROOMS:
        for folder, folders, files in os.walk(root / room):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in files:
                if name.endswith(CODE):
                    file = Path(folder, name)
                    _copy_code(file, package / file.relative_to(root))
    for script in SCRIPTS:
        _copy_code(root / f"{script}.py", package / "commands" / f"{script}.py")
    shutil.copyfile(root / "MODEL_CARD.md", package / "MODEL_CARD.md")  # its known failures are told by the web page


def stage_sources(into: Path, root: Path = ROOT) -> None:
    """Lay out in the folder `into` what a source archive holds."""
    for pattern in ("*.py", "*.md", "*.toml", "*.yml", "*.cff", "LICENSE", "NOTICE", "Makefile"):
        for file in root.glob(pattern):
            shutil.copyfile(file, into / file.name)
    for name in (*ROOMS, PACKAGE, "models", "docs", "requirements", "examples"):
        if not (root / name).is_dir():
            continue
        shutil.copytree(root / name, into / name, ignore=shutil.ignore_patterns("__pycache__"))
    (into / "MANIFEST.in").write_text("graft .\nglobal-exclude *.py[cod]\n", encoding="utf-8")


def _copy_code(source: Path, dest: Path) -> None:
    dest.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    if source.suffix in (".py", ".html"):
        text = rewritten(text)
    if source.suffix == ".py" and (wrong := list(left_behind(text))):
        raise RuntimeError(f"{source}: `import {wrong[0]}` can't be moved; write `from {wrong[0]} import ...`")
    dest.write_text(text, encoding="utf-8", newline="\n")


# ---- what pip and uv call (PEP 517 and 660) --------------------------------------------------------------------------


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """The wheel; returns its name."""
    from setuptools import build_meta

    return _built(stage, build_meta.build_wheel, wheel_directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    """The source archive: all that the wheel is made of, and the documents; returns its name."""
    from setuptools import build_meta

    return _built(stage_sources, build_meta.build_sdist, sdist_directory, config_settings)


def _built(lay_out, build, directory, config_settings):
    """What setuptools' `build` makes of what `lay_out` puts into a folder; its name."""
    there, before = Path(directory).resolve(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        os.chdir(folder)
        try:
            return build(str(there), config_settings)
        finally:
            os.chdir(before)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel that only points to this checkout; returns its name."""
    from setuptools import build_meta

    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
