"""`train_gan.py` as a user runs it, on folders of a few small photos."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

SERVER = Path(__file__).with_name("training_server.py")
SMALL = {
    "--cfg": "tiny", "--resolution": 8, "--batch": 4, "--verdict-batch": 4, "--metrics": "none", "--threads": 1,
    "--precision": "fp32", "--device": "cpu", "--kimg": 0.024, "--tick": 0.008, "--snap": 2, "--verdict-kimg": 0.024,
}  # fmt: skip


class Job:
    """One run of the command: its process, and when it is over its exit code and what it printed."""

    def __init__(self, server: subprocess.Popen, out: Path) -> None:
        self.server, self.out, self.code = server, out, None
        for stream in (out, Path(f"{out}.err")):
            stream.touch()
        self.pid = int(server.stdout.readline())

    def kill(self) -> bool:
        """`kill -9`; False where the process had ended by itself."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> SimpleNamespace:
        if self.code is None:
            self.code = int(self.server.stdout.readline())
        err = Path(f"{self.out}.err").read_text(encoding="utf-8")
        return SimpleNamespace(code=self.code, out=self.out.read_text(encoding="utf-8"), err=err)


@pytest.fixture(scope="session")
def training_server():
    """A process that has imported everything; it ends with the tests."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("FACES_DATA_ROOT", "FACES_DEBUG", "FACES_INCEPTION_WEIGHTS", "WORLD_SIZE", "RANK"):
        env.pop(name, None)
    server = subprocess.Popen([sys.executable, str(SERVER)], stdin=-1, stdout=-1, text=True, env=env)
    yield server
    server.stdin.close()
    server.wait(timeout=60)


@pytest.fixture
def start(training_server, tmp_path):
    """`start(*arguments, cwd=..., small=True, **env)`: the command with the options of a tiny run, under way."""
    jobs: list[Job] = []

    def call(*arguments, cwd=tmp_path, small=True, **env) -> Job:
        argv = [str(a) for a in arguments]
        if small:
            alone = "--verdict-batch 0" not in " ".join(argv)
            for name, value in SMALL.items():
                if name not in argv and (alone or name != "--verdict-kimg"):
                    argv += [name, str(value)]
        if "--report" not in argv:  # matplotlib takes longer than such a training
            argv.append("--no-report")
        out = tmp_path / f"output-{len(jobs)}"
        job = {"argv": argv, "out": str(out), "cwd": str(cwd), "env": env}
        training_server.stdin.write(json.dumps(job) + "\n")
        training_server.stdin.flush()
        jobs.append(Job(training_server, out))
        return jobs[-1]

    yield call
    for job in jobs:
        if job.code is None:  # the test failed in between
            job.kill()
            job.wait()


@pytest.fixture
def train(start):
    """`train(*arguments)`: the same, waited for."""
    return lambda *arguments, **options: start(*arguments, **options).wait()


def photo(path: Path, seed: int, size: int = 24) -> None:
    """A smooth picture of its own in every seed, as JPEG or PNG by its name."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((size, size), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 24 good photos."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for i in range(24):
        photo(folder / f"{i:03d}.png", i)
    return folder
