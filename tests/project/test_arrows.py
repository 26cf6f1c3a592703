"""An import may only point down the house (docs/architecture.md), and only to what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "faces": 0,
    "stylegan2_ada.ops": 0,
    "stylegan2_ada": 1,
    "discriminator": 2,
    "synth": 2,
    "metrics": 2,
    "adversarial": 3,
    "app": 4,
}
ROOMS = sorted({room.split(".")[0] for room in FLOORS})
# packages whose import name is not their distribution's name
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return next((room for n in (2, 1) if (room := ".".join(parts[:n])) in FLOORS), None)


def imported_by(file: Path, root: Path = ROOT):
    """(line, absolute module name) of every import in a file, those inside functions too."""
    package = file.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = [*base, *([node.module] if node.module else [])]
            # `from . import x` and `from stylegan2_ada import ops` name modules by their last word
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def wrong_arrows(root: Path):
    scripts = {file.stem for file in root.glob("*.py")}
    for file in sorted(file for room in ROOMS for file in (root / room).rglob("*.py")):
        here = room_of(".".join(file.relative_to(root).with_suffix("").parts))
        for line, name in imported_by(file, root):
            there = room_of(name)
            if there is None:
                wrong = name.split(".")[0] in scripts
            else:
                wrong = there != here and FLOORS[there] >= FLOORS[here]
            if wrong:
                yield f"{file.relative_to(root)}:{line} imports {name}: {there or 'a script'} is not below {here}"


def test_arrows_point_down():
    wrong = list(wrong_arrows(ROOT))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("faces/a.py", "import torch", False),
        ("faces/a.py", "from stylegan2_ada.ops import upfirdn2d", True),
        ("stylegan2_ada/ops/a.py", "from ..config import x", True),
        ("stylegan2_ada/ops/a.py", "from . import b", False),
        ("stylegan2_ada/a.py", "from .ops import b", False),
        ("stylegan2_ada/a.py", "from . import ops", False),
        ("synth/a.py", "def f():\n    import metrics.fid", True),
        ("synth/a.py", "from faces import decode", False),
        ("adversarial/a.py", "from app.cli import run", True),
        ("app/a.py", "import detect", True),
        ("app/a.py", "from adversarial import run", False),
    ],
)
def test_the_check_knows_up_from_down(tmp_path, file, text, wrong):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    (tmp_path / "detect.py").touch()
    assert bool(list(wrong_arrows(tmp_path))) == wrong


def python_files(*folders: str):
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def test_every_package_is_a_room_or_named():
    known = {*ROOMS, "tests", "benchmarks", "docs", "requirements"}
    packages = {init.parent.name for init in ROOT.glob("*/__init__.py")}
    assert packages <= known, f"a new folder at the top: {packages - known}; give it a floor here and in the docs"


@pytest.mark.parametrize("kind", ["rooms", "tests"])
def test_imports_are_declared(kind):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = extras["dev"] if kind == "tests" else [spec for name in extras if name != "dev" for spec in extras[name]]
    declared = project["dependencies"] + optional
    declared = {re.match(r"[\w-]+", spec)[0].lower() for spec in declared}
    files = python_files(*ROOMS) + sorted(ROOT.glob("*.py"))
    if kind == "tests":
        files = python_files("tests", "benchmarks")
    own = {*ROOMS, "tests", "benchmarks", *(file.stem for file in ROOT.glob("*.py")), *(file.stem for file in files)}
    missing = {}
    for file in files:
        for _, name in imported_by(file):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in own or top == "__future__":
                continue
            if DISTRIBUTIONS.get(top, top.replace("_", "-")).lower() not in declared:
                missing.setdefault(top, str(file.relative_to(ROOT)))
    assert not missing, f"imported but not declared in pyproject.toml: {missing}"
