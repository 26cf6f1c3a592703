"""torchrun's restarts: after a lost worker (`--max-restarts`) a launch goes on with the very run that it began."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from common.files import write_json
from common.reading import json_file
from training.checkpoint import checkpoints

NAME = ".launch.json"  # in a run's folder: which launch trains it
_marked: set[Path] = set()  # by this process, which may train several runs one after the other


def mark(folder: Path, begun: Path | None) -> None:
    """Write into a run's folder that this launch trains it, from the checkpoint `begun` on (None: from the start).

    Without torchrun nothing is written.
    """
    _marked.add(folder.resolve())
    if (launch := _this_launch()) is not None:
        write_json(folder / NAME, launch | {"begun": None if begun is None else begun.name})


def own_checkpoint(folders: Iterable[Path]) -> Path | None:
    """Where a launch that was started anew goes on: the newest checkpoint of that of the run folders which is its own.

    None at its first start, and where nothing had been saved yet. A checkpoint that lay there before (a run that
    was resumed from an earlier one) counts only where the launch began with it.
    """
    launch = _this_launch()
    if launch is None:
        return None
    own = [folder for folder in folders if _is_of(folder / NAME, launch) and folder.resolve() not in _marked]
    if not own:
        return None
    folder = max(own, key=lambda f: (f / NAME).stat().st_mtime_ns)
    since = (folder / NAME).stat().st_mtime_ns
    saved = [path for path in checkpoints(folder) if path.stat().st_mtime_ns >= since]
    if saved:
        return saved[-1]
    begun = json_file(folder / NAME)["begun"]
    return folder / begun if begun and (folder / begun).is_file() else None


def _this_launch() -> dict | None:
    """What all restarts of a launch have in common and no other launch has; None without torchrun.

    On one machine that is the process of torchrun itself; on several the first rank may come to lie on another one, so
    there it is the name that `--rdzv-id` gives, which must be the launch's own.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    launch = {"run_id": os.environ["TORCHELASTIC_RUN_ID"]}
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        if launch["run_id"] in ("", "none"):
            return None
    else:
        parent = os.getppid()
        launch |= {"host": socket.gethostname(), "process": f"{parent} {_start_of(parent)}"}
    return launch


def _start_of(process: int) -> str:
    """When a process began, in the system's ticks; numbers of processes are used again. "" where it can't be told."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _is_of(path: Path, launch: dict) -> bool:
    try:
        told = json_file(path)
        return {name: told[name] for name in told if name != "begun"} == launch
    except (OSError, ValueError, TypeError):
        return False
