"""The documentation site: it builds without a warning, loads nothing from elsewhere, its references are complete."""

import ast
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "docs" / "tools"
MKDOCS = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material")),
    reason="the extra docs is not installed (pip install -e '.[docs]')",
)


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(config: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "site"
    told = build(ROOT / "mkdocs.yml", folder)
    assert told.returncode == 0, told.stderr
    return folder


@MKDOCS
def test_it_builds_with_every_page_of_the_menu(site):
    named = re.findall(r": ([\w/-]+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 20 and all((site / f"{name}.html").is_file() for name in named)
    assert not list(site.rglob("*.py")) and not (site / "numbers").exists()


@MKDOCS
def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", text)
        assert not loaded, f"{page.name} loads {loaded}"
        for picture in re.findall(r'<img[^>]*src="([^"]+)"', text):
            assert (page.parent / picture).is_file(), f"{page.name}: {picture}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


@MKDOCS
def test_the_search_knows_all_pages_also_without_a_server(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages = {entry["location"].split("#")[0] for entry in index["docs"]}
    assert {"install.html", "commands.html", "python-api.html", "model-card.html", "ethics.html"} <= pages
    assert (site / "search" / "search_index.js").is_file()
    assert "IFrameWorker" in (site / "index.html").read_text(encoding="utf-8")


@MKDOCS
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to open the pages with")
def test_the_search_answers_where_pages_are_opened_as_files(site, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{site}/index.html?q=calibrate"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    hits = re.findall(r'<a href="([^"#]+)[^"]*" class="md-search-result__link"', shown)
    assert re.search(r"\d+ matching documents", shown) and len(hits) > 2
    assert any("commands.html" in hit for hit in hits) and all(hit.startswith(f"file://{site}/") for hit in hits)


@MKDOCS
@pytest.mark.parametrize("wrong", ["[away](nowhere.md)", "[deep](data.md#no-such-heading)"])
def test_a_broken_link_is_an_error(wrong, tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = tmp_path / "docs" / "ethics.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{wrong}\n", encoding="utf-8")
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT}/mkdocs.yml\ndocs_dir: docs\nhooks: [{TOOLS}/site_pages.py]\n", encoding="utf-8")
    told = build(config, tmp_path / "site")
    assert told.returncode == 1 and "ethics.md" in told.stderr and wrong[wrong.index("(") + 1 : -1] in told.stderr


def test_the_command_reference_has_every_command_and_option():
    commands = tool("command_pages")
    text = commands.command_reference()
    sections = dict(re.findall(r"^#+ (\S+\.py(?: \S+)*)\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL))

    def walk(command: click.Command, title: str) -> None:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert max(parameter.opts, key=len) in sections[title], f"{title} lacks {parameter.opts}"
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{title} {name}")

    for name in commands.SCRIPTS:
        walk(commands.load(ROOT / f"{name}.py"), f"{name}.py")
    public = {path.stem for path in ROOT.glob("*.py")} - {"bootstrap"}
    assert set(commands.SCRIPTS) == public, "a command of the root is missing in docs/tools/command_pages.py"


def test_the_python_reference_says_what_the_functions_take():
    from discriminator.detector_base import DetectorBase
    from reports.library import judge

    text = tool("python_pages").python_reference()
    for function, heading in ((judge, "### judge"), (DetectorBase.predict, "#### DetectorBase.predict")):
        block = text[text.index(heading + "\n") :]
        shown = re.search(rf"^({function.__name__}\(.*?)\n```", block, re.MULTILINE | re.DOTALL)[1]
        args = ast.parse(f"def {shown}: ...").body[0].args
        names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
        names += [args.kwarg.arg] if args.kwarg else []
        assert names == list(inspect.signature(function).parameters)
        assert inspect.getdoc(function).split(".")[0].split("\n")[0][:40] in block
