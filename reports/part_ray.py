"""A judging in parts by Ray Data: each row of the pipeline is a part, each worker a process with a judge of its own.

What a worker does with a part is `reports.part_judge`, as for `shard`: a journal, then a Parquet file that is whole or
absent, in a folder that all machines see. A worker that is lost is replaced by Ray, and the part goes on behind its
journal's last whole line; so nothing depends on what Ray itself remembers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import Ended, UserError, one_line
from common.extras import needing
from discriminator.options import DetectOptions
from reports.part_judge import PartJudge
from reports.part_options import Part
from reports.parts import Source, arrow, check_folder, check_same, part_path

# nothing is told to Ray's makers; what goes wrong is told by this project
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
# A node on this machine listens at 127.0.0.1 alone. Ray does that by itself on macOS and Windows, and elsewhere turns a
# 127.0.0.1 that it is given into the machine's address at which it listens to everybody; read when it is imported.
LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


class Worker:
    """One process of Ray: judges whole parts, one after the other. A row in, {"part": i}; a row out, with `error`
    and the last of what there is to tell."""

    def __init__(self, asked: DetectOptions, files: Any, of: int, folder: str, here: str) -> None:
        import ray

        os.chdir(here)  # where relative paths mean what they meant
        self.of, self.folder = of, Path(folder)
        self.judge = PartJudge.opened(asked, ray.get(files[0]))

    def __call__(self, row: dict) -> dict:
        part, told = Part(int(row["part"]), self.of), [""]
        try:
            self.judge(part, self.folder, tell=told.append, progress=_nothing)
        except UserError as error:
            return {"part": part.number, "error": str(error), "told": ""}
        return {"part": part.number, "error": "", "told": told[-1]}


def _nothing(*_: object) -> None:
    return None


def judge_by_ray(
    asked: DetectOptions,
    source: Source,
    of: int,
    folder: Path,
    *,
    tell: Callable[[str], object],
    progress: Callable[[int, int], object],
) -> None:
    """Judge all `of` parts of a source into a folder; parts that are there are not judged again.

    On the cluster of $RAY_ADDRESS, else on this machine's cores. asked.workers: cores of a worker, 1 by default.
    progress: called with the parts that are done, and all. UserError without Ray, where parts could not be judged
    (the others are there), or where the folder holds parts of another source."""
    arrow(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = source.told()
    check_folder(folder, head, of)
    todo = []
    for i in range(of):
        if (path := part_path(folder, Part(i, of))).exists():
            check_same(path, head)
        else:
            todo.append(i)
    done = of - len(todo)
    if done:
        tell(f"{done} of {of} parts were judged already" + ("" if todo else ": nothing is left to do"))
    if not todo:
        return
    with needing("`engine` ray needs Ray Data", "ray"):
        for name, value in (SETTINGS if os.environ.get("RAY_ADDRESS") else SETTINGS | LOCAL).items():
            os.environ.setdefault(name, value)
        import ray
        import ray.data
    progress(done, of)
    cores = asked.workers or 1
    asked = dataclasses.replace(asked, workers=cores)
    begun = not ray.is_initialized()
    if begun:
        _begin(ray)
    try:
        most = max(1, min(len(todo), int(ray.cluster_resources().get("CPU", 1)) // cores))
        files = [ray.put(source.files)]  # in a list, so that Ray hands the reference on, not the files
        pipeline = ray.data.from_items([{"part": i} for i in todo], override_num_blocks=len(todo)).map(
            Worker,
            fn_constructor_args=(asked, files, of, str(folder.absolute()), os.getcwd()),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most), num_cpus=cores,
        )  # fmt: skip
        troubles = []
        for row in pipeline.iter_rows():
            done += not row["error"]
            troubles += [row["error"]] if row["error"] else []
            if row["told"]:
                tell(f"part {row['part']}: {row['told']}")
            progress(done, of)
    finally:
        if begun:
            ray.shutdown()
    if troubles:
        raise UserError(f"{len(troubles)} of {of} parts could not be judged; the first: {troubles[0]}")


def _begin(ray: Any) -> None:
    """Ray's cluster of the environment, or one on this machine that listens to nobody else."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not os.environ.get("RAY_ADDRESS"):
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        with _own_signals():
            ray.init(**quiet)
    except Exception as error:  # Ray raises plain Exception, ConnectionError and more
        raise UserError(
            f"`engine` ray: Ray did not start ({one_line(error)[:200]}); look at $RAY_ADDRESS, or at what"
            " else this machine does"
        ) from None


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself (exit code 15, a dump of C++ frames): what was there before comes back, and one that
    comes while Ray starts means what it means elsewhere."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise Ended(signal.SIGTERM) from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:
                with contextlib.suppress(ValueError):  # not the main thread
                    signal.signal(number, handler)
