"""Which generator is meant: a file, a URL, a run folder, or nothing at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from stylegan2_ada.download import fetch, is_remote


def generator_in(run: Path) -> Path | None:
    """The generator a run folder offers: the best one by FID if there is one, else that of the highest kimg."""
    best = run / "generator-best.safetensors"
    if best.is_file():
        return best
    numbered = [
        (int(match[1]), path)
        for path in run.glob("generator-*.safetensors")
        if (match := re.fullmatch(r"generator-(\d+)\.safetensors", path.name))
    ]
    return max(numbered)[1] if numbered else None


def newest_in(folder: Path, *, deeper: bool = True) -> Path | None:
    """The generator of the newest run in `folder` that has one; runs are numbered: `00003-faces` is newer than
    `00002-faces`. Where `folder` holds none itself, those in its sub-folders count (`deeper`)."""
    runs = [(int(match[0]), p.name, p) for p in folder.iterdir() if (match := re.match(r"\d+", p.name)) and p.is_dir()]
    for _, _, run in sorted(runs, reverse=True):
        if (found := generator_in(run)) is not None:
            return found
    # groups of runs, such as runs/demo/, only where no run lies in `folder` itself
    groups = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")] if deeper else []
    found = [path for group in groups if (path := newest_in(group, deeper=False)) is not None]
    return max(found, key=lambda p: (p.stat().st_mtime_ns, p), default=None)


def find_network(
    spec: str | None, runs: str | Path = "runs", *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The network file for `--network`: a file of any kind that `read_networks` knows, a URL (fetched to the cache
    folder), a run folder, a folder of runs, or None (the newest of `runs`).

    progress: called with (bytes so far, bytes in all or 0) while a URL is downloaded.

    Raises `UserError` where there is none, `ValueError` where a URL cannot be fetched.
    """
    if spec is not None and is_remote(spec):
        return fetch(spec, progress)
    path = Path(runs if spec is None else spec)
    train = "train one with `python train_gan.py --data demo --cfg tiny --resolution 64`"
    if path.is_dir():
        found = generator_in(path) or newest_in(path)
        if found is None:
            raise UserError(f"{path}: holds no generator-*.safetensors of a run yet: {train}, or give --network")
        return found
    if spec is None:
        raise UserError(f"there is no folder ./{path} with a trained generator: {train}, or give --network FILE")
    if not path.exists():
        raise UserError(f"--network {path}: no such file or folder: check the path")
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
