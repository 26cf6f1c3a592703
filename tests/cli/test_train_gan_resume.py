"""`python train_gan.py --resume`: killed, stopped, contradicted, finished and prolonged runs."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.checkpoint import checkpoints, load

ROOT = Path(__file__).resolve().parents[2]
RUN = "00000-photos-8-tiny"
LENGTH = ("--kimg", 0.04, "--verdict-kimg", 0.024)  # ten steps of the game, then six of the verdict head alone
EVERY_STEP = ("--checkpoint-minutes", 1e-6)
OF_THE_CLOCK = ("timestamp", "Timing/sec_per_kimg", "Timing/total_sec", "Timing/seconds_left",
                "Resources/peak_memory_gb", "seconds")  # fmt: skip


def rows(path: Path) -> list[dict]:
    """The rows of a file less what depends on the clock."""
    every = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in every]


def assert_equal(a, b, where="state"):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_end(one: Path, other: Path) -> None:
    """Parameters, optimisers, averages, replay and every reported number, bit for bit."""
    first, second = (load(checkpoints(run)[-1], "gan") for run in (one, other))
    assert first["phase"] == second["phase"] == "done"
    assert_equal(first["game"], second["game"])
    for name in ("stats.jsonl", "metrics.jsonl"):
        assert_equal(rows(one / name), rows(other / name), name)
    assert (one / "detector.safetensors").read_bytes() == (other / "detector.safetensors").read_bytes()
    assert (one / "verdict.json").read_bytes() == (other / "verdict.json").read_bytes()


@pytest.fixture(scope="module")
def whole():
    """Where the uninterrupted run of this module lies; made by the first test that needs it."""
    return {}


@pytest.fixture
def straight(whole, train, photos, tmp_path_factory) -> Path:
    if "run" not in whole:
        folder = tmp_path_factory.mktemp("straight")
        done = train("--data", photos, *LENGTH, cwd=folder)
        assert done.code == 0, done.err
        whole["run"] = folder / "runs" / RUN
    return whole["run"]


@pytest.fixture
def copy(straight, tmp_path) -> Path:
    """A finished run to do as one likes with."""
    (tmp_path / "runs").mkdir()
    return Path(shutil.copytree(straight, tmp_path / "runs" / RUN))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(result, *words: str) -> None:
    lines = result.err.splitlines()
    assert result.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.err
    for word in words:
        assert word in lines[0], lines[0]


def ended(job) -> bool:
    try:
        os.kill(job.pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.timeout(600)  # six processes, one after the other, on a machine that may be busy
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(start, straight, photos, tmp_path):
    """`kill -9` at random moments, most of them while a checkpoint is being written (every step writes one)."""
    rng = random.Random(1)
    run = tmp_path / "runs" / RUN
    job, kills = start("--data", photos, *LENGTH, *EVERY_STEP), 0
    while True:
        before = {p.name for p in checkpoints(run)}
        while kills < 4 and not ended(job):  # until a checkpoint has come and the next may be on its way
            if {p.name for p in checkpoints(run)} - before:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        if kills < 4:
            job.kill()
        result = job.wait()
        if result.code == 0:
            break
        assert result.code == -signal.SIGKILL, result.err
        kills += 1
        for path in checkpoints(run):
            load(path, "gan")  # whole, every one of them
        job = start("--resume", "latest", small=False)
    assert kills >= 2
    assert_same_end(straight, run)
    assert not list(run.glob(".*.tmp"))
    log = (run / "log.txt").read_text()
    assert log.count("resuming") == kills


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        pytest.param("tick 1", signal.SIGINT, 130, id="game"),
        pytest.param("verdict 2/6", signal.SIGTERM, 143, id="verdict", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(start, train, straight, photos, tmp_path, moment, number, code):
    for _ in range(5):
        job = start("--data", photos, *LENGTH)
        while moment not in job.out.read_text() and not ended(job):
            time.sleep(0.005)
        os.kill(job.pid, number)
        result = job.wait()
        if result.code != 0:
            break
        shutil.rmtree(tmp_path / "runs")  # on a busy machine it may have ended before the signal came
    assert result.code == code, result.err
    assert ("stopping after this step" in result.err) == (number == signal.SIGINT) and "Traceback" not in result.err
    assert f"go on with --resume runs/{RUN}" in result.out.splitlines()[-1]
    done = train("--resume", "latest", small=False)
    assert done.code == 0, done.err
    assert done.out.startswith(f"resuming runs/{RUN}/checkpoint-")
    assert_same_end(straight, tmp_path / "runs" / RUN)


def test_contradicting_options_are_refused_by_name(train, copy, photos, tmp_path):
    before = contents(copy)
    other = tmp_path / "others"
    shutil.copytree(photos, other)
    (other / "000.png").unlink()
    for option, value in (
        ("--augpipe", "bg"),
        ("--cfg", "paper256"),
        ("--resolution", 16),
        ("--data", other),
        ("--seed", 3),
        ("--batch", 8),
        ("--aug", "noaug"),
        ("--degradation", "web"),
    ):
        refused(train("--resume", copy, option, value, small=False), option)
    assert contents(copy) == before


def test_data_may_have_moved(train, copy, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    args = ["--data", "photos", "--kimg", 0.044, "--resolution", 8, "--batch", 4, "--dry-run"]
    done = train("--resume", copy, *args, small=False)
    assert done.code == 0, done.err
    assert json.loads(done.out)["options"]["data"] == "photos"


def test_a_finished_run_says_so(train, copy):
    before = contents(copy)
    refused(train("--resume", "latest", small=False), "finished at 0.04 kimg", "--kimg")
    refused(train("--resume", copy, "--kimg", 0.03, small=False), "finished at 0.04 kimg")
    assert contents(copy) == before


def test_a_finished_run_with_a_larger_kimg_goes_on_as_if_it_had_been_asked_at_first(train, copy, photos, tmp_path):
    longer = ("--kimg", 0.056, "--verdict-kimg", 0.024)
    done = train("--resume", copy, *longer, small=False)
    assert done.code == 0, done.err
    (tmp_path / "at-once").mkdir()
    done = train("--data", photos, *longer, cwd=tmp_path / "at-once")
    assert done.code == 0, done.err
    one, other = (load(checkpoints(run)[-1], "gan") for run in (copy, tmp_path / "at-once" / "runs" / RUN))
    assert_equal(one["game"], other["game"])
    stats = rows(copy / "stats.jsonl")
    keys = [(r["nimg"], r.get("verdict_step")) for r in stats]
    assert len(set(keys)) == len(keys) and keys == sorted(keys, key=lambda k: (k[0], k[1] or 0))
    assert [r["final"] for r in rows(copy / "metrics.jsonl") if "final" in r] == [True]


def test_an_earlier_checkpoint_replaces_what_came_after_it(train, copy):
    """Its own later checkpoints don't survive beside the new ones, and the new ones are not taken for old."""
    first = checkpoints(copy)[0]
    done = train("--resume", first, "--kimg", 0.048, small=False)
    assert done.code == 0, done.err
    assert load(checkpoints(copy)[-1], "gan")["game"]["step_index"] == 12


def test_a_resumed_run_can_be_steered_and_says_so(train, copy):
    """gamma and learning rate change from the checkpoint on; the log and config.json tell."""
    first = checkpoints(copy)[0]
    refused(train("--resume", first, "--kimg", 0.048, "--gamma", 0, small=False), "--gamma 0", "R1 was on")
    done = train("--resume", first, "--kimg", 0.048, "--gamma", 3, "--lr", 0.001, "--p-max", 0.5, small=False)
    assert done.code == 0, done.err
    told = "changed     --gamma 1 -> 3, --lr 0.0025 -> 0.001, --p-max 0.85 -> 0.5"
    assert told in done.out and told in (copy / "log.txt").read_text()
    config = json.loads((copy / "config.json").read_text())
    assert (config["gamma"], config["lr"], config["options"]["p_max"]) == (3, 0.001, 0.5)
    state = load(checkpoints(copy)[-1], "gan")["game"]
    assert state["opt_G"]["param_groups"][0]["lr"] == pytest.approx(0.001 * 4 / 5)
    assert state["opt_D"]["param_groups"][0]["lr"] == pytest.approx(0.001 * 16 / 17)
    again = train("--resume", copy, "--kimg", 0.052, small=False)
    assert again.code == 0 and "changed" not in again.out


def test_wrong_things_to_resume(train, copy, tmp_path):
    before = contents(copy)
    refused(train("--resume", "nowhere", small=False), "nowhere")
    refused(train("--resume", "latest", "--outdir", "empty", small=False), "empty", "no run")
    (tmp_path / "folder").mkdir()
    refused(train("--resume", "folder", small=False), "folder holds no checkpoint")
    assert contents(copy) == before
    last = checkpoints(copy)[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    refused(train("--resume", copy, small=False), last.name, "not a readable checkpoint")


def test_a_checkpoint_of_another_architecture(train, copy, tmp_path):
    state = torch.load(checkpoints(copy)[0], weights_only=True)
    state["game"]["G"] = {name: t[:1] if t.ndim else t for name, t in state["game"]["G"].items()}
    for path in checkpoints(copy):
        path.unlink()
    torch.save(state, copy / "checkpoint-000004.pt")
    before = contents(copy)
    refused(train("--resume", copy, small=False), "checkpoint-000004.pt", "another architecture")
    assert contents(copy) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB; its path."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only the administrator may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.timeout(600)
def test_a_disk_that_fills_while_it_trains_leaves_the_last_checkpoint_whole(start, straight, photos, small_disk):
    job = start("--data", photos, *LENGTH, *EVERY_STEP, "--outdir", small_disk / "runs")
    run, filler = small_disk / "runs" / RUN, small_disk / "filler"
    while len(checkpoints(run)) < 2 and not ended(job):
        time.sleep(0.002)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    result = job.wait()
    (line,) = result.err.splitlines()
    assert result.code == 2 and line.startswith("error: ") and "No space left" in line, result.err
    assert f"--resume {run}" in line and "earlier" in line or "then go on" in line, line
    for path in checkpoints(run):
        load(path, "gan")
    assert not list(run.glob(".*.tmp"))
    again = start("--resume", run, small=False).wait()
    (line,) = again.err.splitlines()
    assert again.code == 2 and "MB" in line and "free some space" in line, "no room for the next checkpoint either"
    filler.unlink()
    done = start("--resume", run, "--no-report", small=False).wait()
    assert done.code == 0, done.err
    assert_same_end(straight, run)


def launched(restart: int) -> dict:
    """What torchrun tells its processes; the parent of the tests' processes plays its part."""
    return {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": str(restart)}


def test_a_launch_that_torchrun_starts_anew_goes_on_with_its_own_run(start, straight, photos, tmp_path):
    """The same command again, as torchrun --max-restarts gives it after a lost process."""
    command = ("--data", photos, *LENGTH, *EVERY_STEP)
    run, other = tmp_path / "runs" / RUN, tmp_path / "runs" / "00001-other"
    job = start(*command, **launched(0))
    while not any(path.name > "checkpoint-000002.pt" for path in checkpoints(run)) and not ended(job):
        time.sleep(0.002)
    job.kill()
    assert job.wait().code in (0, -signal.SIGKILL)
    shutil.copytree(run, other)  # a newer run, of another launch
    told = json.loads((run / ".launch.json").read_text())
    (other / ".launch.json").write_text(json.dumps({**told, "process": "1 1"}))
    before = contents(other)
    result = start(*command, **launched(1)).wait()
    assert result.code == 0, result.err
    assert_same_end(straight, run)
    assert contents(other) == before and len(list((tmp_path / "runs").glob("0*"))) == 2
    log = (run / "log.txt").read_text()
    assert log.count("resuming") == 1 and log.count("run  ") == 1
    before = contents(run)
    assert start(*command, **launched(2)).wait().code == 0, "nothing is left to do"
    assert contents(run) == before


def test_of_a_launch_that_saved_nothing_a_new_run_begins(train, photos, tmp_path):
    result = train("--data", photos, *LENGTH, **launched(1))
    assert result.code == 0 and "resuming" not in result.out and (tmp_path / "runs" / RUN / ".launch.json").is_file()


SHRUNK = """
import sys; sys.path[:0] = {paths!r}
import adversarial.config, training_server; training_server.shrink(adversarial.config)
import train_gan; train_gan.run(train_gan.main)
"""


def worker(launcher: subprocess.Popen, rank: int) -> int | None:
    """The process of a rank below torchrun."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and f"RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue
    return None


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
def test_torchrun_restarts_a_launch_whose_processes_are_killed_in_turn(photos, tmp_path):
    """kill -9 of rank 0 and rank 1 in turn, two gloo processes: the end is that of an unbroken launch, bit for bit."""
    script = tmp_path / "shrunk.py"
    script.write_text(SHRUNK.format(paths=[str(ROOT), str(ROOT / "tests" / "cli")]))
    words = [script, "--data", photos, "--cfg", "tiny", "--resolution", 8, "--batch", 8, "--verdict-batch", 4]
    words += ["--kimg", 0.32, "--verdict-kimg", 0.016, "--tick", 0.08, "--snap", 2, "--metrics", "none", "--no-report"]
    words += ["--device", "cpu", "--precision", "fp32", *EVERY_STEP]

    def launch(outdir: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command += ["--max-restarts=4", *map(str, words), "--outdir", outdir]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True, env=env)

    whole = launch("whole")
    assert whole.wait(timeout=1500) == 0, whole.stderr.read()
    broken, kills = launch("broken"), 0
    run = tmp_path / "broken" / RUN
    while broken.poll() is None:
        last = checkpoints(run)[-1].name if checkpoints(run) else ""
        if kills < 4 and last > f"checkpoint-{8 * (kills + 1):06d}.pt" and (pid := worker(broken, kills % 2)):
            os.kill(pid, signal.SIGKILL)
            kills += 1
            while checkpoints(run)[-1].name == last and broken.poll() is None:
                time.sleep(0.01)
        time.sleep(0.002)
    assert broken.returncode == 0, broken.stderr.read()
    assert kills == 4 and [p.name for p in (tmp_path / "broken").glob("0*")] == [RUN]
    assert_same_end(tmp_path / "whole" / RUN, run)


@pytest.mark.slow
def test_two_processes_from_the_command_line(photos, tmp_path):
    """torchrun with gloo: one run folder, one set of rows, images decoded once into a cache both map."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = [
        "--data",
        photos,
        "--cfg",
        "tiny",
        "--resolution",
        8,
        "--batch",
        8,
        "--verdict-batch",
        4,
        "--kimg",
        0.032,
    ]
    options += ["--tick", 0.016, "--snap", 1, "--verdict-kimg", 0.008, "--metrics", "none", "--device", "cpu"]
    options += ["--precision", "fp32"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]

    def call(*arguments):
        return subprocess.run(
            [*command, ROOT / "train_gan.py", *map(str, arguments)],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=220,
        )  # fmt: skip

    done = call(*options)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs").glob("0*")] == [RUN]
    stats = rows(tmp_path / "runs" / RUN / "stats.jsonl")
    assert [r["nimg"] for r in stats] == [16, 32, 32, 32]
    assert len(list((tmp_path / "runs" / ".cache").iterdir())) > 0
    assert (tmp_path / "runs" / RUN / "log.txt").read_text() == done.stdout
    longer = call("--resume", "latest", "--kimg", 0.04, "--device", "cpu")
    assert longer.returncode == 0, longer.stderr
    assert load(checkpoints(tmp_path / "runs" / RUN)[-1], "gan")["game"]["step_index"] == 5
