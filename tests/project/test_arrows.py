"""An import may only point down the house (docs/architecture.md), and only to what pyproject.toml declares."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.project.declared import EXTRAS, PROJECT, unfolded

ROOT = Path(__file__).resolve().parents[2]
# one line of rooms, as docs/architecture.md draws it; rooms that share a place do not know each other
LINE = (
    "common < faces, stylegan2_ada < training < metrics < discriminator, evidence < synth"
    " < adversarial, evaluation < reports < web"
)
PLACE = {room: place for place, rooms in enumerate(LINE.split(" < ")) for room in rooms.split(", ")}
ROOMS = sorted(PLACE)
OPS = "stylegan2_ada.ops"  # a house of its own inside its room: it knows nothing of the rest of it
# packages whose import name is not their distribution's name
BY_HAND = {"schemathesis"}  # of a slow test that says what to install
DISTRIBUTIONS = {
    "PIL": "pillow",
    "c2pa": "c2pa-python",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def allowed(here: str, there: str) -> bool:
    """Whether module `here` may import module `there`, both of rooms."""
    room, other = here.split(".")[0], there.split(".")[0]
    if room == other:
        return not here.startswith(OPS) or there.startswith(OPS)
    return PLACE[other] < PLACE[room]


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
        here = ".".join(file.relative_to(root).with_suffix("").parts)
        for line, name in imported_by(file, root):
            top = name.split(".")[0]
            if top in scripts - set(ROOMS) or (top in ROOMS and not allowed(here, name)):
                yield f"{file.relative_to(root)}:{line} imports {name}: it is not to the left of {here} in the line"


def imports_between_files(root: Path) -> dict[str, set[str]]:
    """Which module imports which, late and type-only imports included; packages' own __init__ stand aside."""
    modules = {
        ".".join(file.relative_to(root).with_suffix("").parts): file
        for room in ROOMS
        for file in (root / room).rglob("*.py")
        if file.name != "__init__.py"
    }
    return {
        here: {there for _, name in imported_by(file, root) for there in (name, name.rpartition(".")[0])}
        & modules.keys() - {here}
        for here, file in modules.items()
    }


def circles(root: Path) -> list[set[str]]:
    """Groups of modules that reach each other by imports."""
    arrows = imports_between_files(root)

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            new = arrows[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reach = {module: reached(module) for module in arrows}
    found = {frozenset(m for m in reach[module] if module in reach[m]) for module in arrows if module in reach[module]}
    return sorted((set(group) for group in found), key=sorted)


def test_no_module_reaches_itself():
    assert circles(ROOT) == []


def test_a_circle_is_found(tmp_path):
    for room, text in (("faces/a", "from faces import b"), ("faces/b", "def f():\n    from faces.c import x"),
                       ("faces/c", "import faces.a"), ("faces/d", "import faces.a")):  # fmt: skip
        (tmp_path / room).parent.mkdir(exist_ok=True)
        (tmp_path / f"{room}.py").write_text(text)
    assert circles(tmp_path) == [{"faces.a", "faces.b", "faces.c"}]


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
        ("stylegan2_ada/a.py", "from faces.decode import decode", True),
        ("metrics/a.py", "def f():\n    import synth.grid", True),
        ("synth/a.py", "from faces import decode", False),
        ("adversarial/a.py", "from evaluation import compare", True),
        ("evaluation/a.py", "if TYPE_CHECKING:\n    from reports import page", True),
        ("common/a.py", "from faces import decode", True),
        ("web/a.py", "import detect", True),
        ("web/a.py", "from adversarial import run", False),
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
    known = {*ROOMS, "ganface", "tests", "benchmarks", "docs", "requirements"}
    packages = {init.parent.name for init in ROOT.glob("*/__init__.py")}
    assert packages <= known, f"a new folder at the top: {packages - known}; give it a floor here and in the docs"


@pytest.mark.parametrize("kind", ["rooms", "tests"])
def test_imports_are_declared(kind):
    extras = ["dev"] if kind == "tests" else [name for name in EXTRAS if name != "dev"]
    declared = PROJECT["dependencies"] + [spec for name in extras for spec in unfolded(name)]
    declared = {re.match(r"[\w-]+", spec)[0].lower() for spec in declared}
    files = python_files(*ROOMS) + sorted(ROOT.glob("*.py"))
    if kind == "tests":
        files = python_files("tests", "benchmarks")
    scripts = {file.stem for file in ROOT.glob("*.py")}
    own = {*ROOMS, "ganface", "tests", "benchmarks", *scripts, *(file.stem for file in files)}
    missing = {}
    for file in files:
        for _, name in imported_by(file):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in own or top == "__future__":
                continue
            if top not in BY_HAND and DISTRIBUTIONS.get(top, top.replace("_", "-")).lower() not in declared:
                missing.setdefault(top, str(file.relative_to(ROOT)))
    assert not missing, f"imported but not declared in pyproject.toml: {missing}"


def test_a_benchmark_started_by_its_path_finds_the_rooms():
    """`python benchmarks/x.py` looks in benchmarks/ alone, unless the file adds the root before it imports."""
    for file in python_files("benchmarks"):
        source = file.read_text(encoding="utf-8")
        rooms = [line for line, name in imported_by(file) if name.split(".")[0] in ROOMS]
        if rooms and "__main__" in source:
            added = [n for n, line in enumerate(source.splitlines(), 1) if line.startswith("sys.path.insert(0, ")]
            assert added and added[0] < min(rooms), f"{file.name}: add the root to sys.path first"
