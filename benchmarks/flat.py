"""Does anything grow? A training of the demo's kind and a server under requests, watched for hours.

    python benchmarks/flat.py --minutes 120 --out benchmarks/flat

Sampled from /proc (Linux): resident memory and open files of both programs and their children, the training's seconds
for a thousand images, the server's requests a second and its slowest one. Writes OUT.csv and OUT.png, and prints a line
with the slopes of the second half: what an hour adds. Exit code 1 where memory grows by more than 5 % an hour.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
COLUMNS = ("seconds", "server_mb", "server_files", "requests", "slowest_ms", "training_mb", "training_files", "kimg")


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def size_of(pid: int) -> tuple[float, int]:
    """(MB in memory that are no other process's, open files) of a process and its children."""
    memory, files = 0, 0
    for one in family(pid):
        try:
            status = Path(f"/proc/{one}/smaps_rollup").read_text()
            memory += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("Private_"))
            files += len(os.listdir(f"/proc/{one}/fd"))
        except OSError:
            continue
    return memory / 1000, files


class Asker(threading.Thread):
    """Sends photos to the server, one after the other, `pause` seconds between them."""

    def __init__(self, url: str, photos: list[bytes], pause: float) -> None:
        super().__init__(daemon=True)
        self.url, self.photos, self.pause, self.count, self.slowest, self.bad = url, photos, pause, 0, 0.0, 0

    def run(self) -> None:
        while True:
            began = time.monotonic()
            body = self.photos[self.count % len(self.photos)]
            request = urllib.request.Request(self.url, body, {"Content-Type": "application/octet-stream"})
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    answer.read()
            except OSError:
                self.bad += 1
            self.count += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(self.pause)


def begun(folder: Path) -> tuple[subprocess.Popen, subprocess.Popen, str]:
    """The training, the server and the address of its verdicts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": open(folder / "log.txt", "w"), "stderr": subprocess.STDOUT, "cwd": ROOT}
    words = ["train_gan.py", "--data", "demo", "--cfg", "tiny", "--resolution", "32", "--kimg", "100000"]
    words += ["--tick", "0.2", "--outdir", str(folder / "runs"), "--metrics", "none", "--snap", "10"]
    training = subprocess.Popen([sys.executable, *words], **quiet)
    server = subprocess.Popen([sys.executable, "serve.py", "--port", str(port)], **quiet)
    for _ in range(3600):
        time.sleep(1)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
            if not kimg_of(folder / "runs"):  # what grows before the first tick is the start
                continue
            return training, server, f"http://127.0.0.1:{port}/v1/detect?face=whole"
        except OSError:
            if server.poll() is not None or training.poll() is not None:
                break
    sys.exit("error: the programs did not start: " + (folder / "log.txt").read_text()[-500:])


def kimg_of(runs: Path) -> float:
    """Thousand images that the training has seen; 0 before its first tick."""
    for path in runs.glob("*/stats.jsonl"):
        lines = path.read_text().splitlines()
        if lines:
            return float(json.loads(lines[-1]).get("kimg", 0))
    return 0.0


def slopes(rows: list[dict]) -> dict[str, float]:
    """What an hour adds to each column, by least squares over the second half."""
    late = rows[len(rows) // 2 :]
    hours = np.array([row["seconds"] for row in late]) / 3600
    return {name: round(float(np.polyfit(hours, [row[name] for row in late], 1)[0]), 2) for name in COLUMNS[1:]}


def draw(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    minutes = [row["seconds"] / 60 for row in rows]
    for who in ("server", "training"):
        axes[0].plot(minutes, [row[f"{who}_mb"] for row in rows], label=who)
        axes[1].plot(minutes, [row[f"{who}_files"] for row in rows], label=who)
    for name, label in (("requests", "requests a second"), ("kimg", "images a second (training), tens")):
        rate = np.gradient([row[name] for row in rows], [row["seconds"] for row in rows])
        smooth = np.convolve(rate, np.ones(9) / 9, "valid") * (100 if name == "kimg" else 1)
        axes[2].plot(minutes[4 : len(smooth) + 4], smooth, label=label)
    for axis, label in zip(axes, ("private memory, MB", "open files", "speed")):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
    axes[2].set_xlabel("minutes")
    figure.savefig(path, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between requests")
    parser.add_argument("--out", type=Path, default=Path("flat"))
    asked = parser.parse_args()
    from PIL import Image

    from faces.procedural.portrait import render_face
    from tests.bad_files import encoded

    photos = [encoded(Image.fromarray(render_face(seed, 160)), "JPEG") for seed in range(40)] + [b"not an image"]
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        training, server, url = begun(Path(name))
        try:
            asker = Asker(url, photos, asked.pause)
            asker.start()
            began = time.monotonic()
            while (now := time.monotonic() - began) < 60 * asked.minutes:
                here = (now, *size_of(server.pid), asker.count, 1000 * asker.slowest, *size_of(training.pid))
                asker.slowest = 0.0
                rows.append(dict(zip(COLUMNS, (*here, kimg_of(Path(name) / "runs")), strict=True)))
                if training.poll() is not None or server.poll() is not None:
                    sys.exit("error: a program ended: " + (Path(name) / "log.txt").read_text()[-500:])
                time.sleep(asked.every)
        finally:
            for program in (training, server):
                program.send_signal(signal.SIGTERM)
                program.wait(120)
    with open(asked.out.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([round(row[name], 3) for name in COLUMNS] for row in rows)
    draw(rows, asked.out.with_suffix(".png"))
    told = slopes(rows)
    last = rows[-1]
    print(json.dumps({"minutes": round(last["seconds"] / 60, 1), "last": last, "an_hour_adds": told}))
    grown = any(told[f"{who}_mb"] > 0.05 * last[f"{who}_mb"] for who in ("server", "training"))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
