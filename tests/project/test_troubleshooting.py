"""docs/troubleshooting.md speaks of options, messages, files and variables that exist."""

import importlib.util
import re
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROOMS = [init.parent for init in ROOT.glob("*/__init__.py")]
SOURCES = [*ROOT.glob("*.py"), *(p for room in ROOMS for p in room.rglob("*.py"))]
FOREIGN = {"--nproc_per_node", "--install"}  # of torchrun and xcode-select
OTHERS = {"NCCL_DEBUG", "PYTORCH_ENABLE_MPS_FALLBACK"}


@pytest.fixture(scope="module")
def code() -> str:
    """All source, with string literals that go on in the next line joined."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in SOURCES)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def spans() -> list[str]:
    without_blocks = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", without_blocks.replace("\\|", "|"))


def click_command(script: Path) -> click.Command:
    spec = importlib.util.spec_from_file_location(f"named_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def options_of(command: click.Command) -> set[str]:
    own = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    return own.union(*(options_of(c) for c in getattr(command, "commands", {}).values()))


def test_options_exist(code):
    known = FOREIGN | {"--debug", "--help"}
    for script in ("train_gan.py", "synth.py", "detect.py"):
        known |= options_of(click_command(ROOT / script))
    known |= set(re.findall(r'add_argument\("(--[a-z-]+)"', code))
    named = {o for span in spans() for o in re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", span)}
    assert len(named) > 25 and named <= known, named - known


def test_messages_are_what_the_program_says(code):
    """Every span of the table of warnings, and those that begin like a message, piece by piece between the dots."""
    table = re.findall(r"^\| `([^`]+)` \|", TEXT, flags=re.MULTILINE)
    messages = [s for s in table if "…" in s or " " in s]
    messages += [s.split(": ", 1)[1] for s in spans() if s.startswith(("warning: ", "error: ")) and s.endswith(".8")]
    messages += [s.split(": ", 1)[1] for s in spans() if s.startswith("error: …")]
    assert len(messages) >= 8
    for message in messages:
        pieces = [piece.strip() for piece in message.split("…") if len(piece.strip()) > 3]
        for piece in pieces:
            words = re.escape(piece).replace("ADA\\ p\\ =", "ADA p =").replace("0\\.8", r"\S+")
            words = words.replace(r"gradients\ of\ D", r"gradients\ of\ \S+")
            assert re.search(words, code), piece


def test_words_of_the_log_exist(code):
    for word in ("ops", "shape", "size", "few", "memory", "changed"):
        assert re.search(rf'"{word}  +', code), word
    fields = (f'"{name}"' for name in ("reals", "n_real", "n_fake", "dims", "kernel"))
    for name in ("Gradients/skipped_", "NON-FINITE", "Health/", *fields):
        assert name in code, name


def test_environment_variables_are_read_somewhere(code):
    named = {v for span in spans() for v in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", span)}
    assert {"STYLEGAN_OPS", "FACES_DEBUG"} <= named
    for variable in named - OTHERS:
        assert f'"{variable}"' in code, variable


def test_the_index_leads_to_every_chapter():
    def anchor(title: str) -> str:
        return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")

    titles = re.findall(r"^##+ (.+)$", TEXT, flags=re.MULTILINE)
    anchors = {anchor(title) for title in titles}
    linked = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert linked <= anchors, linked - anchors
    symptoms = {anchor(t) for t in re.findall(r"^### (.+)$", TEXT, flags=re.MULTILINE)}
    assert symptoms <= linked, symptoms - linked


def test_commands_name_modules_and_scripts_that_exist():
    for span in spans():
        if m := re.match(r"python -m ([\w.]+)", span):
            path = ROOT / m[1].replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), span
        elif m := re.match(r"(?:python )?(\w+\.py)\b", span):
            assert (ROOT / m[1]).is_file(), span
