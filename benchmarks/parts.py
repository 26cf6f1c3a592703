"""Judging many small files in parts while workers are killed: is each file in the table once, and at what rate?

    python benchmarks/parts.py --files 200000 --engine here --kills 20
    python benchmarks/parts.py --files 200000 --engine ray --kills 20

Drawn faces of 64 px in tar archives of 1000 are judged whole (no faces looked for) by a detector of one layer, so what
is measured is the way around the network: reading, decoding, journals, tables. --model measures with another detector.
A line of JSON is printed. Exit code 1 where a file is missing, is there twice, or has another score than its twin.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

WORKER = "ray::MapWorker"  # as Ray Data's pool of actors calls its processes
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
KINDS, IN_A_TAR = 50, 1000
ALIKE = 1e-6  # scores of a photo in other company (docs/reliability.md): a part that goes on makes other batches


def make(folder: Path, files: int, side: int) -> None:
    """Tars of 64-pixel JPEG files, of KINDS different ones in turn."""
    from PIL import Image

    from faces.procedural.portrait import render_face

    photos = []
    for seed in range(KINDS):
        out = io.BytesIO()
        Image.fromarray(render_face(seed, side)).save(out, "JPEG", quality=90)
        photos.append(out.getvalue())
    for start in range(0, files, IN_A_TAR):
        with tarfile.open(folder / f"{start // IN_A_TAR:05d}.tar", "w") as archive:
            for number in range(start, min(start + IN_A_TAR, files)):
                info = tarfile.TarInfo(f"{number:08d}.jpg")
                info.size = len(photos[number % KINDS])
                archive.addfile(info, io.BytesIO(photos[number % KINDS]))


def small_detector(path: Path) -> Path:
    from tests.bad_files import detector

    detector().save(path)
    return path


def below(pid: int, word: str) -> list[int]:
    """Descendants of a process whose command line begins with `word`; all of them for ''."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
    found, todo = [], [pid]
    while todo:
        up = todo.pop()
        children = [child for child, parent in parents.items() if parent == up]
        todo += children
        found += [child for child in children if names[child].startswith(word)]
    return found


def processor_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


class Killer:
    """Ends processes at random moments, at most `kills` of them."""

    def __init__(self, kills: int, every: float) -> None:
        self.left, self.every, self.rng, self.killed = kills, every, random.Random(1), 0
        self.next = time.monotonic() + every

    def maybe(self, pids: list[int]) -> None:
        if self.left and pids and time.monotonic() > self.next:
            os.kill(self.rng.choice(pids), signal.SIGKILL)
            self.left -= 1
            self.killed += 1
            self.next = time.monotonic() + self.every * (0.5 + self.rng.random())


def here(command: list[str], parts: int, killer: Killer) -> None:
    """Shards one after the other, each begun again until it is done."""
    for number in range(parts):
        while True:
            running = subprocess.Popen([*command, "--shard", f"{number}/{parts}"], stdout=subprocess.DEVNULL)
            while running.poll() is None:
                time.sleep(0.1)
                killer.maybe([running.pid])
            if running.returncode == 0:
                break
            if running.returncode != -signal.SIGKILL:
                sys.exit(f"error: part {number} ended with {running.returncode}")


def by_ray(command: list[str], parts: int, killer: Killer) -> None:
    """One command; its workers are killed, not the agents of Ray's node, without which the node ends itself."""
    running = subprocess.Popen([*command, "--engine", "ray", "--parts", str(parts)], stdout=subprocess.DEVNULL)
    while running.poll() is None:
        time.sleep(0.2)
        killer.maybe(below(running.pid, WORKER) if killer.left else [])
    if running.returncode:
        sys.exit(f"error: the command ended with {running.returncode}")


def wrong(folder: Path, files: int) -> str:
    """What is wrong with the table; '' where each file is in it once, with its twins' score."""
    pq = importlib.import_module("pyarrow.parquet")  # an extra: only this needs it

    table = pq.read_table(folder / "verdicts.parquet", columns=["index", "file", "probability", "status"]).to_pylist()
    if [row["index"] for row in table] != list(range(files)):
        return "the files' numbers are not 0, 1, 2, …"
    if any(int(Path(row["file"]).stem) != row["index"] for row in table):
        return "files are not in their order"
    if statuses := Counter(row["status"] for row in table).keys() - {"judged"}:
        return f"files that are {', '.join(statuses)}"
    scores: dict[int, list[float]] = {}
    for row in table:
        scores.setdefault(row["index"] % KINDS, []).append(row["probability"])
    spread = max(max(same) - min(same) for same in scores.values())
    if spread > ALIKE:
        return f"scores of one photo differ by {spread}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--side", type=int, default=64, help="pixels of a file")
    parser.add_argument("--engine", choices=("here", "ray"), default="here")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between kills, on average")
    parser.add_argument("--model", help="a detector  [default: one layer, made here]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tars").mkdir()
        make(folder / "tars", asked.files, asked.side)
        model = asked.model or str(small_detector(folder / "small.safetensors"))
        out = folder / "parts"
        command = [
            sys.executable,
            str(ROOT / "detect.py"),
            str(folder / "tars" / "*.tar"),
            "--out",
            str(out),
            "--model",
            model,
        ]
        command += ["--face", "whole", "--offline"] + (["--workers", "1"] if asked.engine == "here" else [])
        killer, began, spent = Killer(asked.kills, asked.every), time.monotonic(), processor_seconds()
        (here if asked.engine == "here" else by_ray)(command, asked.parts, killer)
        took, spent = time.monotonic() - began, processor_seconds() - spent
        subprocess.run([sys.executable, str(ROOT / "detect.py"), "merge", str(out)], check=True, stdout=2)
        trouble = wrong(out, asked.files)
    told = {
        "engine": asked.engine, "files": asked.files, "parts": asked.parts, "kills": killer.killed,
        "seconds": round(took), "files_a_second": round(asked.files / took, 1), "processor_seconds": round(spent),
        "cores": len(os.sched_getaffinity(0)), "wrong": trouble,
    }  # fmt: skip
    print(json.dumps(told))
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
