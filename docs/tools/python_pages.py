"""The Python reference: signatures and docstrings of what other programs use, read from the source without running it.

python docs/tools/python_pages.py    prints it
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Python API

Read from the docstrings. In the installed package every room lies in `ganface` (`from ganface.faces.decode import
load_image`); there, and in a checkout, `ganface.judge` is `reports.library.judge`. Public means: described here.
Whatever is wrong with an argument is a `common.errors.UserError` of one line.
"""
API: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "Verdicts": (
        ("reports/library.py", ("judge", "Judgement", "Answer", "FaceFound")),
        ("discriminator/judge.py", ("Judge",)),
        ("discriminator/detector_base.py", ("DetectorBase",)),
        ("discriminator/detector.py", ("Detector",)),
        ("discriminator/onnx_detector.py", ("OnnxDetector",)),
        ("common/errors.py", ("UserError", "BadImage")),
    ),
    "Photos": (
        ("faces/decode.py", ("load_image", "decode_image", "from_pillow")),
        ("faces/preprocess.py", ("Preprocess",)),
        ("faces/degrade.py", ("Degradation", "preset", "apply_batch")),
    ),
    "Generators": (
        ("synth/network.py", ("open_generator",)),
        ("synth/sample.py", ("sample",)),
        ("synth/folder.py", ("sample_to_folder",)),
        ("synth/mixing.py", ("mix_to_folder",)),
        ("synth/film.py", ("walk_to_video",)),
        ("synth/photo.py", ("project_photo",)),
        ("synth/options.py", ("FromNetwork", "Rendering")),
    ),
    "Metrics": (
        ("metrics/fid.py", ("compare",)),
        ("metrics/classification.py", ("roc_auc", "tpr_at_fpr", "ece", "report")),
    ),
}
SECTION = re.compile(r"^([\w, ]{1,60}): ", re.MULTILINE)


def python_reference() -> str:
    """Markdown: a section for each class and function of API."""
    parts = [HEAD]
    for title, modules in API.items():
        parts.append(f"## {title}\n")
        for path, names in modules:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            for name in names:
                parts += _described(tree, path, name)
    return "\n".join(parts)


def _described(tree: ast.Module, path: str, name: str) -> list[str]:
    named = (each for each in tree.body if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
    node = next((each for each in named if each.name == name), None)
    if node is None:
        raise LookupError(f"docs/tools/python_pages.py: {path} has no {name}")
    module = path.removesuffix(".py").replace("/", ".")
    parts = [f"### {name}\n", f"```python\nfrom {module} import {name}\n```\n"]
    if not isinstance(node, ast.ClassDef):
        return [*parts, *_function(node)]
    parts += [f"```python\n{_fields(node)}\n```\n"] if _fields(node) else []
    parts.append(_prose(ast.get_docstring(node)))
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    for method in methods:
        if (not method.name.startswith("_") or method.name == "__call__") and ast.get_docstring(method):
            parts += [f"#### {name}.{method.name}\n", *_function(method)]
    return parts


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    kept = "".join(f"@{mark}\n" for mark in ("property", "classmethod", "staticmethod") if mark in marks)
    return [f"```python\n{kept}{_signature(node)}\n```\n", _prose(ast.get_docstring(node))]


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """In one line, or with an argument a line where that is too long."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({ast.unparse(node.args)}){returns}"
    if len(line) <= 100:
        return line
    args, arguments = node.args, []
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    for arg, default in zip(positional, defaults):
        arguments.append(_argument(arg, default))
    if args.vararg or args.kwonlyargs:
        arguments.append(f"*{ast.unparse(args.vararg)}" if args.vararg else "*")
    arguments += [_argument(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg:
        arguments.append(f"**{ast.unparse(args.kwarg)}")
    return f"{node.name}(\n" + "".join(f"    {one},\n" for one in arguments) + f"){returns}"


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(arg) + ("" if default is None else f" = {ast.unparse(default)}")


def _fields(node: ast.ClassDef) -> str:
    """The annotated public fields of a class, as it declares them."""
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return "\n".join(ast.unparse(each) for each in fields if not ast.unparse(each.target).startswith("_"))


def _prose(text: str | None) -> str:
    """A docstring as Markdown: indented examples become blocks, `name: what it is` begins a line of its own."""
    out = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            out.append("```python\n" + inspect.cleandoc(paragraph) + "\n```\n")
        else:
            safe = re.sub(r"(?<!`)([<>])(?!`)", r"\\\1", paragraph)
            safe = re.sub(r"\]\(", r"]\\(", safe)
            lines = safe.splitlines()
            joined = [f"\n**{m[1]}**: {line[m.end() :]}" if (m := SECTION.match(line)) else line for line in lines]
            out.append("\n".join(joined).strip() + "\n")
    return "\n".join(out)


if __name__ == "__main__":
    print(python_reference())
