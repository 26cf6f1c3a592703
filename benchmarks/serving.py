"""What a running server gives: requests per second, and how long one waits, with 1, 8 and 32 clients; its memory.

    python serve.py --port 8765 &
    python benchmarks/serving.py --url http://127.0.0.1:8765/ --pid $! --seconds 20
    python benchmarks/serving.py --url http://127.0.0.1:8765/ --pid $! --requests 10000

Only addresses of this machine are asked. The photos are drawn faces of 256x256 pixels, each another one.
"""

from __future__ import annotations

import argparse
import http.client
import io
import ipaddress
import os
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faces.procedural.portrait import render_face  # noqa: E402

PHOTOS = 32


def photos() -> list[bytes]:
    """Encoded photos, JPEGs."""
    made = []
    for seed in range(PHOTOS):
        out = io.BytesIO()
        Image.fromarray(render_face(seed, 256)).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


class Load:
    """Clients that ask one after the other, each over a connection of its own."""

    def __init__(self, host: str, port: int, path: str, bodies: list[bytes]):
        self.host, self.port, self.path, self.bodies = host, port, path, bodies
        self.seconds: list[float] = []
        self.bad = 0
        self._lock = threading.Lock()

    def _client(self, number: int, until: float, most: int) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        for i in range(most):
            if time.monotonic() >= until:
                break
            begin = time.perf_counter()
            body = self.bodies[(number + 7 * i) % len(self.bodies)]
            try:
                connection.request("POST", self.path, body, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                answer.read()
                good = answer.status == 200
            except (OSError, http.client.HTTPException):  # no answer at all; the next one over a new connection
                connection.close()
                good = False
            with self._lock:
                self.seconds.append(time.perf_counter() - begin)
                self.bad += not good
        connection.close()

    def run(self, clients: int, seconds: float, most: int) -> str:
        """A line of figures of `clients` at once, for `seconds` or `most` requests each."""
        self.seconds, self.bad = [], 0
        begin = time.monotonic()
        threads = [
            threading.Thread(target=self._client, args=(i, begin + seconds, most), daemon=True) for i in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - begin
        p50, p95, p99 = (1000 * x for x in np.percentile(self.seconds, (50, 95, 99)))
        return (
            f"{clients:3} clients: {len(self.seconds)} requests, {len(self.seconds) / took:.1f}/s,"
            f" p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms, {self.bad} not answered with 200"
        )


def memory(pid: int | None) -> str:
    """What the server holds, on Linux."""
    status = Path(f"/proc/{pid}/status")
    if pid is None or not status.is_file():
        return "memory: not known"
    kib = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return f"memory: {kib / 1024:.0f} MiB"


def processor(pid: int | None) -> float:
    """Seconds of processor time that the server has taken, on Linux; what other programs do changes it little."""
    stat = Path(f"/proc/{pid}/stat")
    if pid is None or not stat.is_file():
        return float("nan")
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--pid", type=int, help="of the server, for its memory")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, help="instead: so many by 8 clients, with the memory on the way")
    parser.add_argument("--query", default="face=whole")
    asked = parser.parse_args()
    there = urlsplit(asked.url)
    host = there.hostname or ""
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        parser.error("--url: only this machine's own server is loaded")
    load = Load(host, there.port or 80, f"/v1/detect?{asked.query}", photos())
    load.run(1, 3.0, 10)  # warm
    if asked.requests:
        parts = 10
        for part in range(parts):
            line = load.run(8, 3600.0, asked.requests // parts // 8)
            print(f"{part + 1}/{parts}: {line}; {memory(asked.pid)}", flush=True)
        return
    for clients in asked.clients:
        before = processor(asked.pid)
        line = load.run(clients, asked.seconds, 1 << 30)
        each = 1000 * (processor(asked.pid) - before) / len(load.seconds)
        print(f"{line}; {each:.1f} ms of processor time each; {memory(asked.pid)}", flush=True)


if __name__ == "__main__":
    main()
