"""The folder of a run: how a new one is made, which one is the newest, and what a killed process leaves in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from common.reading import json_file
from training.lock import NAME as LOCK
from training.lock import RunLock

LATEST = "latest"  # what is typed for the newest run
CONFIG = "config.json"
SNAPSHOTS = {"generator": ".safetensors", "fakes": ".png"}


def check_writable(folder: Path, parameter: str) -> None:
    """UserError if nothing could be written to `folder`, or made where it does not exist yet; writes nothing.

    parameter: the one that named the folder.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # nor would other machines understand it
        raise UserError(
            f"`{parameter}` {folder}: its name is no UTF-8, which TensorBoard can't write; choose another folder"
        ) from None
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"`{parameter}` {folder}: {there} is a file, not a folder; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"`{parameter}` {folder}: {there} cannot be written to (read-only or no permission); choose another folder"
        )


def new_run(outdir: Path, name: str, lock: RunLock, files: dict[str, object], *, out: Path | None = None) -> Path:
    """Make `<outdir>/<number>-<name>` with the JSON `files` in it, and keep its lock; `out` is a path in place of that.

    Numbers go up, and of processes that begin at once each gets its own. The lock is taken before anything is written.
    If that fails half-way (a full disk), what was made is removed again. UserError where the disk does not take it, or
    where `out` holds something.
    """
    asked, parameter = (outdir, "outdir") if out is None else (out, "out")
    made = [p for p in (asked, *asked.parents) if not p.exists()]
    folder = None
    try:
        asked.mkdir(parents=True, exist_ok=True)
        folder = _numbered(outdir, name) if out is None else out
        lock.take(folder)
        if any(path.name != LOCK for path in folder.iterdir()):
            raise UserError(f"`{parameter}` {folder}: already holds something; give another folder")
        for file, content in files.items():
            write_json(folder / file, content)
    except OSError as e:
        lock.release()
        for path in dict.fromkeys([folder if out is None else None, *made]):
            if path is not None:
                with suppress(OSError):  # not there, or not empty: not ours
                    path.rmdir()
        raise UserError(
            f"`{parameter}` {asked}: cannot be written ({e.strerror or e}); choose a folder with space and permission"
        ) from None
    return folder


def _numbered(outdir: Path, name: str) -> Path:
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")
    number = max((n for d in outdir.iterdir() if (n := number_of(d)) is not None), default=-1)
    while True:
        number += 1
        folder = outdir / f"{number:05d}-{words}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run took it in between
            continue
        if sum(number_of(d) == number for d in outdir.iterdir()) == 1:
            return folder
        folder.rmdir()  # … or the same number under another name: both leave it


def number_of(run: Path) -> int | None:
    """The number that a run folder's name begins with."""
    found = re.match(r"\d+", run.name)
    return int(found.group()) if found else None


def newest_run(outdir: Path, holds: Callable[[Path], bool]) -> Path | None:
    """The newest of the runs below `outdir` for which `holds(folder)` is true; None where there is none.

    The newest is the one of the highest number; of those of one number, or of none, the one that was written to last.
    Groups of runs such as runs/demo/ are looked into only where no run lies in `outdir` itself.
    """
    for pattern in ("*", "*/*"):
        found = [
            (-1 if (number := number_of(run)) is None else number, run.stat().st_mtime_ns, run.name, run)
            for run in outdir.glob(pattern)
            if run.is_dir() and not any(part.startswith(".") for part in run.relative_to(outdir).parts) and holds(run)
        ]
        if found:
            return max(found)[-1]
    return None


def config_in(run: Path) -> dict:
    """What a run's config.json says; {} where there is none, or none that can be read."""
    try:
        found = json_file(run / CONFIG)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_detectors(config: dict) -> bool:
    """Whether a config.json is of train_detector.py: the key that says so had another name once."""
    return 1 in (config.get("detector"), config.get("detective"))


def folders_in(outdir: Path) -> list[Path]:
    """The folders below `outdir` that may be runs, those of groups such as runs/demo/ among them."""
    return [path for pattern in ("*", "*/*") for path in outdir.glob(pattern) if path.is_dir()]


def snapshot_path(run: Path, kind: str, nimg: int) -> Path:
    """Where what a run leaves at a moment lies, a generator or a sheet of fakes: by thousands of images, to the image.

    A name of whole thousands would be that of several snapshots where they are close, and each the end of the last.
    """
    return run / f"{kind}-{nimg // 1000:06d}.{nimg % 1000:03d}{SNAPSHOTS[kind]}"


def snapshots(run: Path, kind: str) -> list[tuple[int, Path]]:
    """The images shown and the file of every snapshot in `run`, earliest first; of names without the last three digits,
    too, as they were written once."""
    name = re.compile(rf"{kind}-(\d+)(?:\.(\d{{3}}))?{re.escape(SNAPSHOTS[kind])}")
    found = [(match, path) for path in run.iterdir() if (match := name.fullmatch(path.name))] if run.is_dir() else []
    return sorted((1000 * int(match[1]) + int(match[2] or 0), path) for match, path in found)


def remove_leftovers(run: Path) -> None:
    """Delete what a killed process was writing when it died: temporary files no reader ever sees."""
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)
