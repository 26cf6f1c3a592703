"""What mkdocs calls while it builds the site: pages made of other things, and links that lead out of docs/.

README.md, MODEL_CARD.md, CHANGELOG.md and CONTRIBUTING.md become pages, so that they are written once; the commands and
the Python API are read out of the code. A link to any other file of the repository is shown as the file's name.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from command_pages import command_reference  # noqa: E402
from python_pages import python_reference  # noqa: E402

COPIED = {  # a file of the root -> its page
    "README.md": "index.md",
    "MODEL_CARD.md": "model-card.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
ORIGIN = {page: name for name, page in COPIED.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
SOURCE = re.compile(r'(<img src=)"([^"]+)"')
SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>')
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    """Add the pages that docs/ does not hold."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in COPIED.items()}
    made |= {"commands.md": command_reference(), "python-api.md": python_reference()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links as the repository needs them into links as the site needs them."""
    here = page.file.src_uri
    folder = posixpath.dirname(ORIGIN.get(here, "docs/" + here))
    parts = FENCE.split(markdown)
    for at in range(0, len(parts), 2):
        linked = LINK.sub(lambda found: _link(found, folder, here), parts[at])
        parts[at] = SOURCE.sub(lambda found: f'{found[1]}"{_beside(found[2], folder, here)}"', linked)
    return "".join(parts)


def on_post_page(output, page, config):
    """The theme would fetch the search's worker from a server; ours stands in the page."""
    script = (HERE / "offline_worker.js").read_text(encoding="utf-8")
    return SHIM.sub(lambda _: f"<script>{script}</script>", output)


def on_post_template(output_content, template_name, config):
    """The page of lost links, too."""
    return on_post_page(output_content, None, config)


def _beside(target: str, folder: str, here: str) -> str:
    """A picture's place as a page of the site names it."""
    path = posixpath.normpath(posixpath.join(folder, target)).removeprefix("docs/")
    if not (ROOT / "docs" / path).is_file():
        raise FileNotFoundError(f"{here}: no picture {target}")
    return posixpath.relpath(path, posixpath.dirname(here) or ".")


def _link(found: re.Match[str], folder: str, here: str) -> str:
    picture, words, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, _, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(folder, path))
    page = COPIED.get(path) or (path[len("docs/") :] if path.startswith("docs/") else None)
    if page is None or not page.endswith((".md", ".png", ".jpg", ".svg")):
        if not (ROOT / path).exists():
            return found[0]  # mkdocs says that it leads nowhere
        return f"{words} (`{path}`)" if path not in words else words
    seen = posixpath.relpath(page, posixpath.dirname(here) or ".")
    return f"{picture}[{words}]({seen}{'#' + anchor if anchor else ''})"
