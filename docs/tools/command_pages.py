"""The command reference: every command, argument and option, read out of the commands themselves.

python docs/tools/command_pages.py    prints it
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import click

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("detect", "serve", "train_gan", "train_detector", "synth", "evaluate", "prepare_data", "demo")
PARSED = ("stylegan2_ada/convert",)  # python -m, with argparse
HEAD = """# Commands

Made from the commands themselves: what `--help` prints. In the installed package `python detect.py` is `ganface
detect`, and so for the others ([install](install.md)).
"""


def command_reference() -> str:
    """Markdown: a section for each command and sub-command."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    parts = [HEAD]
    for name in SCRIPTS:
        parts += _sections(load(ROOT / f"{name}.py"), f"{name}.py", f"python {name}.py", 2)
    for name in PARSED:
        module = name.replace("/", ".")
        told = _imported(ROOT / f"{name}.py")._parser()
        told.prog = f"python -m {module}"
        parts.append(f"## {module}\n\n```\n{told.format_help()}```\n")
    return "\n".join(parts)


def load(script: Path) -> click.Command:
    """The command of a script, which is imported and not run."""
    return _imported(script).main


def _imported(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"referred_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module


def _sections(command: click.Command, title: str, call: str, level: int) -> list[str]:
    ctx = click.Context(command, info_name=call, **command.context_settings)
    usage = " ".join(command.collect_usage_pieces(ctx)).strip()
    parts = [f"{'#' * level} {title}\n", f"```\n{call} {usage}\n```\n"]
    parts += [_prose(command.help or ""), _options(command, ctx)]
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            if inner is not None and not inner.hidden:
                parts += _sections(inner, f"{title} {name}", f"{call} {name}", level + 1)
    return [part for part in parts if part]


def _prose(text: str) -> str:
    """A command's help; paragraphs that click leaves as they are (\\b) become blocks."""
    out = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            out.append("```\n" + paragraph.lstrip("\b\n") + "\n```\n")
        else:
            out.append(_plain(" ".join(paragraph.split())) + "\n")
    return "\n".join(out)


def _plain(text: str) -> str:
    """Words that Markdown must not read as anything else."""
    return re.sub(r"([*_<>|\[\]])", r"\\\1", text)


def _options(command: click.Command, ctx: click.Context) -> str:
    rows = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None or "--help" in parameter.opts:
            continue
        name, told = record
        if isinstance(parameter, click.Argument) and not told:
            continue  # the usage names it
        told, default = _without_default(told)
        rows.append(f"| `{name}` | {_plain(' '.join(told.split()))} | {_code(default)} |")
    if not rows:
        return ""
    return "\n".join(["| option | | default |", "|---|---|---|", *rows, ""])


def _without_default(told: str) -> tuple[str, str]:
    """click's `[default: X; required]` taken off the end of a help text."""
    found = re.search(r"\s*\[([^\[\]]*(?:default:|required|x>|x<)[^\[\]]*)\]\s*$", told)
    if found is None:
        return told, ""
    return told[: found.start()], found[1].removeprefix("default:").strip()


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    print(command_reference())
