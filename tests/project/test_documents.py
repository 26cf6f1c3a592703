"""Commands, options and links that the documents show exist."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(document: Path):
    """Words of each command line in the fenced blocks, continuation lines joined, comments and prompts cut off."""
    for block in FENCE.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if re.match(r"(\S+=\S+ )*(make|python3?|torchrun|tensorboard|\S*/python)\b", line):
                words = shlex.split(line.split(" | ")[0].split(" > ")[0], comments=True)
                while "=" in words[0]:
                    words = words[1:]
                yield line, words


def click_command(script: Path) -> click.Command:
    spec = importlib.util.spec_from_file_location(f"documented_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module.main


def check_options(script: Path, words: list[str]) -> None:
    command = click_command(script)
    if isinstance(command, click.Group):
        # a group that has options of its own works without a command, too
        first = next((word for word in words if not word.startswith("-")), None)
        command = command.commands.get(first, command) if command.invoke_without_command else command.commands[first]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in {*known, "--help", "--debug"}, f"{script.name} has no option {word}"
    if {"--help", "--debug"}.isdisjoint(words) and not isinstance(command, click.Group):
        context = click.Context(command, resilient_parsing=True)  # values are not looked at
        command.parse_args(context, [word for word in words if word != command.name])
        assert not context.args, f"{script.name} {command.name} takes no {' '.join(context.args)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_exist(document):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = [*re.search(r"^JOBS := (.*)$", makefile, re.MULTILINE)[1].split(), "help"]
    for line, words in commands(document):
        if words[0] == "make":
            assert all(w in jobs for w in words[1:] if "=" not in w and not w.startswith("-")), line
            continue
        if words[0] in ("tensorboard",):
            continue
        words = [word for word in words[1:] if not re.match(r"--(nproc_per_node|standalone|nnodes)", word)]
        if words[0] == "-m":
            path = ROOT / words[1].replace(".", "/")
            ours = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert ours or words[1] in ("pip", "venv", "pytest"), f"{document.name}: no module {words[1]}: {line}"
        elif words[0] == "bootstrap.py":
            assert words[1] in jobs, line
        elif words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file(), f"{document.name}: no script {words[0]}: {line}"
            if "/" not in words[0]:
                check_options(ROOT / words[0], words[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


def test_the_readme_shows_both_commands_and_the_scripts():
    shown = {words[0] if words[0] == "make" else words[1]: words for _, words in commands(DOCUMENTS[0])}
    assert {"make", "bootstrap.py", "train_gan.py", "synth.py", "detect.py"} <= set(shown)
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted(ROOT.glob("*.py"))], ids=lambda p: p.name)
def test_runs_of_drawn_faces_are_called_as_they_are_made(document):
    """`make demo` and `train_gan.py --data demo` name their runs by data, size and configuration."""
    for name in re.findall(r"\bruns/[\w/-]*\bdemo\b[\w-]*", document.read_text(encoding="utf-8")):
        assert re.fullmatch(r"runs/demo|runs/(demo/)?\d{5}-demo-\d+-\w+", name), f"{document.name}: {name}"
