#!/usr/bin/env python3
"""Every number of a GPU that the documents lack, within ten minutes: one JSON and one page.

\b
    make gpu-check                                      # or: python3 bootstrap.py gpu-check
    python benchmarks/gpu_check.py --out gpu-check --minutes 9.5
    python benchmarks/gpu_check.py fill gpu-check/gpu-check.json      # into docs/performance.md
    python benchmarks/gpu_check.py --device cpu --tiny --out dry      # a dry run without a GPU

The stages (`benchmarks/gpu_stages.py`) run in order of worth, each in a process of its own with a limit of its own, so
that none can take the time or the numbers of another; JSON and page are written anew after every stage. The same
command again goes on: stages that ended well are not repeated, the others are. No network is needed, and nothing but
PyTorch and what training imports; what else is missing costs its stage alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import click  # noqa: E402

from benchmarks import gpu_page  # noqa: E402
from benchmarks.gpu_stages import STAGES, Scale  # noqa: E402
from common.files import write_json, write_text  # noqa: E402

DONE = "done"
SHORTEST = 10.0  # seconds below which no stage is begun
RESERVE = 5.0  # for ending a process and writing the page


@dataclass(frozen=True)
class Check:
    """A check in a folder. minutes: for all stages together, this call."""

    out: Path
    scale: Scale
    minutes: float = 9.5
    only: tuple[str, ...] = ()

    @property
    def settings(self) -> dict:
        """What results of one file have in common."""
        return {"device": self.scale.device, "tiny": self.scale.tiny, "torch": metadata.version("torch")}

    @property
    def target(self) -> Path:
        return self.out / "gpu-check.json"

    def command(self, name: str) -> list[str]:
        """What runs a stage in a process of its own."""
        words = [sys.executable, __file__, "stage", name, "--out", str(self.out.resolve())]
        return [*words, "--device", self.scale.device, *(["--tiny"] if self.scale.tiny else [])]

    def file(self, name: str, ending: str) -> Path:
        return self.out / "stages" / f"{name}.{ending}"

    def begun(self) -> dict:
        """The results of an earlier call, or new ones. ValueError where those are of another machine or size."""
        if not self.target.is_file():
            return {"format": 1, "settings": self.settings, "stages": {}}
        found = json.loads(self.target.read_text(encoding="utf-8"))
        if found.get("settings") != self.settings:
            raise ValueError(
                f"{self.target} is of {found.get('settings')}, this would be of {self.settings}: give another --out"
            )
        return found


def run(check: Check, say=print) -> dict:
    """All stages that are still to be done; returns the results, which lie in the folder, too."""
    (check.out / "stages").mkdir(parents=True, exist_ok=True)
    results, end = check.begun(), time.monotonic() + 60 * check.minutes
    for name in [name for name in STAGES if name in check.only or not (check.only or STAGES[name].optional)]:
        stage, before = STAGES[name], results["stages"].get(name, {})
        if before.get("state") == DONE:
            say(f"{name:10s} {DONE} before")
            continue
        limit = min(stage.limit, end - time.monotonic() - RESERVE)
        if limit < SHORTEST:
            entry = {"state": "no time left", "seconds": 0.0, "limit": stage.limit, "rows": before.get("rows", [])}
        else:
            say(f"{name:10s} {stage.what}, at most {limit:.0f} s")
            entry = run_stage(check, name, limit)
        results["stages"][name] = {"what": stage.what, **entry}
        results["when"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        results["stages"] = {key: results["stages"][key] for key in STAGES if key in results["stages"]}
        write_json(check.target, results)
        write_text(check.out / "gpu-check.html", gpu_page.page(results))
        say(f"{name:10s} {entry['state']} after {entry['seconds']:.0f} s, {len(entry['rows'])} results")
    return results


def run_stage(check: Check, name: str, limit: float) -> dict:
    """One stage in its own process, ended with all its children at its limit; what it found until then."""
    rows, log = check.file(name, "jsonl"), check.file(name, "log")
    rows.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            check.command(name), stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            state = DONE if code == 0 else f"failed (exit code {code})"
        except subprocess.TimeoutExpired:
            state = "stopped at its limit"
        finally:
            _end(process)
    lines = log.read_text(errors="replace").splitlines()
    return {
        "state": state,
        "seconds": time.monotonic() - began,
        "limit": limit,
        "rows": list(_kept(rows)),
        "log": "" if state == DONE else "\n".join(lines[-25:]),
    }


def _end(process: subprocess.Popen) -> None:
    """The process and those that it started, if they still run."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # its session is its own, so nobody else's
        else:
            process.kill()
    process.wait()


def _kept(path: Path) -> Iterator[dict]:
    """The rows of a stage, of each key the last; a line that was cut off by the end is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            found[row["key"]] = row
    yield from found.values()


def _no_gpu() -> str:
    """Why there is nothing to check, or "". Asked of a process of its own: this one shall hold no memory of a GPU."""
    asked = "import torch; print(torch.__version__, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    version, _, seen = done.stdout.strip().partition(" ")
    if done.returncode:
        return f"PyTorch can't be imported ({(done.stderr.strip().splitlines() or ['no reason given'])[-1]})"
    return "" if seen == "True" else f"PyTorch {version} sees no CUDA GPU here"


@click.group(invoke_without_command=True, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", default="gpu-check", show_default=True, metavar="DIR", help="Where results go.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="A dry run at sizes that take seconds.")
@click.option("--minutes", default=9.5, show_default=True, help="For all stages together.")
@click.option("--only", multiple=True, type=click.Choice(list(STAGES)), help="Some stages; may be given several times.")
@click.pass_context
def main(ctx, out, device, tiny, minutes, only) -> None:
    if ctx.invoked_subcommand:
        return
    if device == "cuda" and (lacking := _no_gpu()):
        click.echo(
            f"error: {lacking}; run it on a machine with one, or give --device cpu --tiny for a dry run", err=True
        )
        sys.exit(2)
    try:
        results = run(Check(Path(out), Scale(device, tiny), minutes, only), click.echo)
    except (ValueError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    states = {name: stage["state"] for name, stage in results["stages"].items()}
    click.echo(f"{out}/gpu-check.json and gpu-check.html written")
    if again := [name for name, state in states.items() if state != DONE]:
        click.echo(f"not done: {', '.join(again)}; the same command goes on with them")
    sys.exit(0 if not again else 1)


@main.command(help="Write the numbers of a gpu-check.json into docs/performance.md.")
@click.argument("results", type=click.Path(exists=True, dir_okay=False))
@click.option("--document", default=str(ROOT / "docs" / "performance.md"), type=click.Path(exists=True, dir_okay=False))
def fill(results, document) -> None:
    path = Path(document)
    try:
        found = json.loads(Path(results).read_text(encoding="utf-8"))
        write_text(path, gpu_page.filled(path.read_text(encoding="utf-8"), found))
    except ValueError as error:
        click.echo(f"error: {results} into {document}: {error}", err=True)
        sys.exit(2)
    click.echo(f"{document}: filled")


@main.command(hidden=True)
@click.argument("name", type=click.Choice(list(STAGES)))
@click.option("--out", required=True)
@click.option("--device", required=True)
@click.option("--tiny", is_flag=True)
def stage(name, out, device, tiny) -> None:
    """One stage, in this process; rows go to its file as they are found."""
    scale = Scale(device, tiny)
    with Check(Path(out), scale).file(name, "jsonl").open("a", encoding="utf-8") as file:
        for row in STAGES[name].run(scale):
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
