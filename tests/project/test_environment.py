"""pyproject.toml, environment.yml and the constraints name one and the same set of packages."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

import bootstrap
from common.extras import EXTRA_OF
from tests.project.declared import EXTRAS, PROJECT, unfolded

ROOT = Path(__file__).resolve().parents[2]
DECLARED = [Requirement(spec) for spec in PROJECT["dependencies"] + unfolded("dev")]


def constraints() -> dict[str, str]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin) for pin in pins), "a constraint is name==version, nothing else"
    assert len(pins) == len({pin.split("==")[0] for pin in pins})
    return dict(pin.split("==") for pin in pins)


def test_conda_environment_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert conda[0] == "python" + PROJECT["requires-python"]
    assert [spec.split(">")[0] for spec in conda] == ["python", "pip"]
    assert sorted(map(str, map(Requirement, pip["pip"]))) == sorted(map(str, DECLARED))


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_bounds_and_pins(requirement):
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == {">=", "<"}, "every dependency has a lower and an upper bound"
    pinned = constraints().get(requirement.name.lower())
    assert pinned is not None, f"{requirement.name} has no pin: add it to requirements/constraints.txt"
    assert requirement.specifier.contains(pinned)


def test_installed_versions_meet_the_bounds():
    from importlib.metadata import PackageNotFoundError, version

    for requirement in DECLARED:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue  # `opencv-python` under another name, a conda build, ...: the import is what counts
        assert requirement.specifier.contains(installed.split("+")[0]), f"{requirement}: {installed} is installed"


def test_bootstrap_can_be_parsed_by_an_old_python():
    source = (ROOT / "bootstrap.py").read_bytes()
    source.decode("ascii")  # Python 2 refuses other characters before it reads a line
    tree = ast.parse(source, feature_version=(3, 4))
    assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr) for node in ast.walk(tree))


def test_making_the_detector_again_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Its trainings take hours: none is begun anew for a break in a later one."""
    monkeypatch.setenv("FACES_SHARED", str(tmp_path / "shared"))
    monkeypatch.chdir(tmp_path)
    folder = Path("runs", "shipped-detector")
    for name in ("lite0-1", "lite0-2", "lite0-3", "matched-lite0"):
        folder.joinpath(name).mkdir(parents=True)
    for done in ("lite0-1", "lite0-2", "matched-lite0"):
        (folder / done / "detector.safetensors").touch()
    (folder / "lite0-3" / "checkpoint-000250.pt").touch()
    folder.joinpath("squeezenet").mkdir()
    folder.joinpath("squeezenet", "config.json").touch()  # killed before its first checkpoint
    calls = []
    monkeypatch.setattr(bootstrap, "run", lambda words, env=None: calls.append(words) or 0)
    assert bootstrap.reproduce_detector([]) == 0
    commands = [words for words in calls if words[0] != "-m"]
    half, mean, once, last = (str(folder / f"{name}.safetensors") for name in ("half", "mean", "joined", "detector"))
    lite = [str(folder / f"lite0-{k}") for k in (1, 2, 3)]
    assert commands[0][:7] == ["evaluate.py", "ensemble", *lite[:2], "--method", "soup", "--data"]
    assert commands[1] == ["train_detector.py", "--resume", lite[2]]
    assert commands[2][:6] == ["evaluate.py", "ensemble", half, lite[2], "--method", "soup"]
    others = [str(folder / name) for name in ("matched-lite0", "matched-lite1", "squeezenet")]
    assert [words[words.index("--out") + 1] for words in commands[3:5]] == others[1:]
    assert "levels:timm:tf_efficientnet_lite1" in commands[3] and "matched-filter" in commands[3]
    assert [path.name for path in folder.glob("squeezenet*")] == ["squeezenet.1"]
    assert commands[5][2:6] == [mean, *others]
    assert commands[5].count("--data") == commands[6].count("--data") == 3
    assert commands[5][commands[5].index("--out") + 1] == once
    assert commands[6][:3] == ["evaluate.py", "second-look", once] and commands[6][-2] == last
    assert commands[7][:3] == ["evaluate.py", "detector", last]
    assert all("--force" in words for words in commands if words[0] == "evaluate.py") and len(commands) == 8


def test_room_is_counted_on_the_disk_where_it_is_taken(monkeypatch, tmp_path):
    """pip unpacks in the environment what it has in the temporary folder: on one disk both must fit."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    disks = {bootstrap.ROOT: (1, 9.9e9), str(tmp_path): (1, 9.9e9)}
    monkeypatch.setattr(bootstrap.os, "stat", lambda path: SimpleNamespace(st_dev=disks[path][0]))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=disks[path][1]))
    told = bootstrap.too_full((7.0, 3.5))
    assert told == f"the disk of {bootstrap.ROOT} has 9.9 GB free, and the packages take about 10.5"
    disks[str(tmp_path)] = (2, 3.6e9)
    assert bootstrap.too_full((7.0, 3.5)) == ""
    disks[str(tmp_path)] = (2, 3.4e9)
    assert bootstrap.too_full((7.0, 3.5)) == f"the disk of {tmp_path} has 3.4 GB free, and the packages take about 3.5"


def test_make_and_bootstrap_know_the_same_jobs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = re.search(r"^JOBS := (.*)$", makefile, re.MULTILINE)[1].split()
    tree = ast.parse((ROOT / "bootstrap.py").read_text(encoding="utf-8"))
    known = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "JOBS"
    )
    assert {*jobs, "help"} == set(known)


def test_ci_runs_the_test_command_of_the_readme():
    assert re.search(r"^\s*(exec )?make test$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_a_missing_package_leads_to_its_extra():
    """What `common.extras` says of every import: the extra that brings it; and nothing of the base is in it."""
    distributions = {
        "sklearn": "scikit-learn",
        "pillow_heif": "pillow-heif",
        "c2pa": "c2pa-python",
        "pip_audit": "pip-audit",
        "python_multipart": "python-multipart",
        "prometheus_client": "prometheus-client",
    }
    for module, extra in EXTRA_OF.items():
        if extra in EXTRAS:
            assert distributions.get(module, module) in [Requirement(spec).name for spec in EXTRAS[extra]], module
    brought = {Requirement(spec).name for name in EXTRAS if name not in ("dev", "docs") for spec in EXTRAS[name]}
    assert brought <= {distributions.get(module, module) for module in EXTRA_OF}, "common/extras.py does not know these"
    base = {Requirement(spec).name for spec in PROJECT["dependencies"]}
    assert not base & brought and "torch" not in base


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
