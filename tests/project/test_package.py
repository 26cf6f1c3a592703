"""The wheel: one importable name, `ganface`, that does in any folder what the checkout's scripts do."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from faces.procedural.portrait import render_face
from ganface import backend
from ganface.__main__ import COMMANDS
from tests import light
from tests.project.test_arrows import ROOMS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    backend.stage(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photo") / "face.png"
    Image.fromarray(render_face(2, 256)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from faces.decode import load_image", "from ganface.faces.decode import load_image"),
        ("    from faces import manifest, (\n", "    from ganface.faces import manifest, (\n"),
        ("from .faces import x", "from .faces import x"),
        ("from interfaces.web import x", "from interfaces.web import x"),
        ("from training of its own", "from training of its own"),
        ("python -m stylegan2_ada.ops", "python -m ganface.stylegan2_ada.ops"),
        ("python train_gan.py --data x", "ganface train-gan --data x"),
        ("as `detect.py --json`", "as `ganface detect --json`"),
        ("torchrun --nnodes=4 train_gan.py --data x", "torchrun --nnodes=4 -m ganface train-gan --data x"),
        ("benchmarks/synth.py", "benchmarks/synth.py"),
        ("tests/test_detect.py, my_synth.py", "tests/test_detect.py, my_synth.py"),
        ('command_line("prepare_data.py", "audit")', 'command_line("ganface prepare-data", "audit")'),
        ("with `make demo`", "with `ganface demo`"),
    ],
)  # fmt: skip
def test_what_is_rewritten(before, after):
    assert backend.rewritten(before) == after


def test_an_import_that_can_not_be_moved_is_refused(tmp_path):
    assert list(backend.left_behind("import faces.decode\nimport os\nfrom synth import grid\n")) == [
        "faces.decode",
        "synth",
    ]
    assert list(backend.left_behind("from ganface.faces import decode\nfrom . import web\nimport webbrowser")) == []


def test_everything_of_the_rooms_is_in_the_package_and_nothing_else(staged):
    assert sorted(backend.ROOMS) == ROOMS
    assert sorted(path.name for path in staged.iterdir()) == sorted([*backend.BESIDE, "ganface", "models"])
    listed = subprocess.run(["git", "ls-files", "-z", *ROOMS, "models"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the rooms cannot be told")
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    missing = [name for name in names if not (staged / "ganface" / name).exists()]
    assert not missing, "a kind of file that the build does not know: add its ending to CODE in ganface/backend.py"
    commands = {path.stem for path in (staged / "ganface" / "commands").iterdir()}
    assert commands == {name.replace("-", "_") for name in COMMANDS} == set(backend.SCRIPTS)
    assert {path.stem for path in ROOT.glob("*.py")} == commands | {"bootstrap"}
    for path in staged.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ganface."):
                file = staged / node.module.replace(".", "/")
                assert file.is_dir() or file.with_suffix(".py").is_file(), f"{path}: {node.module}"


def test_the_package_judges_as_the_checkout_does(staged, photo, tmp_path):
    here = json.loads(light.run(["detect.py", photo, "--json"], tmp_path).stdout)
    done = light.run(["-m", "ganface", "detect", photo, "--json"], tmp_path, root=staged)
    there = json.loads(done.stdout)
    assert str(staged) in there["detector"]["file"] and there["detector"]["sha256"] == here["detector"]["sha256"]
    for one in (here, there):
        one["results"][0].pop("seconds")
    assert there["results"] == here["results"] and there["operating_point"] == here["operating_point"]


JUDGE = """
import sys, ganface
said = ganface.judge(sys.argv[2])
print(said.results[0].verdict, said.results[0].probability, ganface.Judgement.__module__, "torch" in sys.modules)
"""


@pytest.mark.skipif(not (ROOT / "reports" / "library.py").is_file(), reason="no reports/library.py yet")
def test_one_import_judges_in_both(staged, photo, tmp_path):
    here, there = (light.run(["-c", JUDGE, photo], tmp_path, root=root) for root in (ROOT, staged))
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    verdict, probability, module, torch = there.stdout.split()
    assert module == "ganface.reports.library" and torch == "False"
    assert [verdict, probability, "reports.library", "False"] == here.stdout.split()


HELPS = """
import importlib, sys, click
def walk(command, name):
    print(f"== {name}")
    print(command.get_help(click.Context(command, info_name=name)))
    for word, inner in getattr(command, "commands", {}).items():
        walk(inner, f"{name} {word}")
for name in COMMANDS:
    module = importlib.import_module("ganface.commands." + name.replace("-", "_"))
    walk(module.main, f"ganface {name}")
print(sorted(name for name in sys.modules if name.partition(".")[0] in ROOMS))
"""


def test_help_speaks_of_what_can_be_typed(staged, tmp_path):
    code = f"COMMANDS = {list(COMMANDS)!r}\nROOMS = {ROOMS!r}\n{HELPS}"
    done = light.run(["-c", code], tmp_path, root=staged)
    assert done.returncode == 0, done.stderr
    *told, modules = done.stdout.strip().splitlines()
    assert modules == "[]", "nothing is imported under the checkout's names"
    assert not [line for line in told if ".py" in line], "a script is spoken of that is not there"
    assert sum(line.startswith("== ") for line in told) > len(COMMANDS)


def test_the_command_that_judges_again_is_the_packages(staged, photo, tmp_path):
    """`Next:` and the report said `python 'ganface detect'`."""
    again = light.run(["-m", "ganface", "detect", photo], tmp_path, root=staged).stderr
    assert again.endswith(f" answers: ganface detect {photo} --explain maps/\n"), again
    light.run(["-m", "ganface", "detect", photo, "--report", "r.html"], tmp_path, root=staged)
    told = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["report"]["command"]
    assert told == f"ganface detect {photo} --report r.html"


def test_one_word_more_or_less(staged, tmp_path):
    def said(*words):
        done = light.run(["-m", "ganface", *words], tmp_path, root=staged)
        return done.returncode, done.stdout + done.stderr

    assert said()[0] == 2 and said("--help")[0] == 0 and all(name in said("--help")[1] for name in COMMANDS)
    code, text = said("detekt")
    assert code == 2 and text.startswith("error: detekt: no such command") and text.count("\n") == 1
    code, text = said("train-gan", "--data", "demo")
    assert code == 2 and "pip install 'ganface[train]'" in text and text.count("\n") == 1
    assert "Usage: ganface train-detector calibrate" in said("train-detector", "calibrate", "--help")[1]


def test_the_checkout_has_the_same_command(tmp_path, photo):
    """`ganface` of an editable install: the scripts of the root, from any folder."""
    done = light.run(["-m", "ganface", "detect", photo], tmp_path)
    command = done.stderr.splitlines()[-1].partition("answers: ")[2]
    assert shlex.split(command)[1:3] == [str(ROOT / "detect.py"), photo], done.stderr
    done = light.run(["-m", "ganface", "detect", photo, "--json"], tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["detector"]["file"] == str(ROOT / "models" / "detector.safetensors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="no setuptools that can build")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import sys; sys.path.insert(0, 'ganface'); import backend; print(backend.build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip().splitlines()[-1]


def test_the_wheel(wheel, staged):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        assert {name.split("/")[0] for name in names} == {"ganface", info}
        assert archive.read(f"{info}/entry_points.txt").decode().split() == [
            "[console_scripts]", "ganface", "=", "ganface.__main__:main",
        ]  # fmt: skip
        licences = {name for name in names if name.startswith(f"{info}/licenses/")}
        assert licences == {f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICE", *LICENCES)}
        laid_out = {str(path.relative_to(staged)) for path in (staged / "ganface").rglob("*") if path.is_file()}
        assert {name for name in names if name.startswith("ganface/")} == {n for n in laid_out if ".pyc" not in n}
        required = [line for line in archive.read(f"{info}/METADATA").decode().splitlines() if "Requires-Dist" in line]
    assert not [line for line in required if "torch" in line and "extra ==" not in line]
    assert wheel.stat().st_size < 40e6


LICENCES = tuple(f"models/{path.name}" for path in (ROOT / "models").glob("*.LICENSE"))


def test_a_source_archive_is_enough_to_build_of(staged, tmp_path):
    for name in ("sources", "staged"):
        (tmp_path / name).mkdir()
    backend.stage_sources(tmp_path / "sources")
    code = f"import backend; from pathlib import Path; backend.stage(Path({str(tmp_path / 'staged')!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "sources" / "ganface", capture_output=True)
    assert done.returncode == 0, done.stderr
    for path in staged.rglob("*"):
        there = tmp_path / "staged" / path.relative_to(staged)
        assert path.is_dir() or path.suffix == ".pyc" or there.read_bytes() == path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.network
def test_the_wheel_in_an_environment_of_its_own(wheel, photo, tmp_path):
    """pip, a fresh environment, another folder."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    home = tmp_path / "home"
    home.mkdir()
    how = {"cwd": home, "env": light.environment(home), "capture_output": True, "text": True, "timeout": 1200}
    done = subprocess.run([programs / "python", "-m", "pip", "install", "-q", wheel], **how)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([programs / "ganface", "detect", photo, "--json"], **how)
    told = json.loads(done.stdout)
    assert told["runtime"] == "onnx" and told["results"][0]["verdict"] in ("REAL", "FAKE", "UNSURE"), done.stderr
    assert str(tmp_path / "venv") in told["detector"]["file"]
    code = "import ganface, sys; print(ganface.__file__); import faces"
    done = subprocess.run([programs / "python", "-c", code], **how)
    assert str(tmp_path / "venv") in done.stdout and "No module named 'faces'" in done.stderr
