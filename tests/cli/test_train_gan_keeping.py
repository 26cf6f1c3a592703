"""What a run keeps on the disk, and that one run folder belongs to one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from adversarial.snapshots import Snapshots, kimg_of
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import save_generator
from stylegan2_ada.generator import Generator
from synth.network import generator_in
from training.checkpoint import checkpoint_path, checkpoints, load, save
from training.run_folder import newest_run, snapshots

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "keep, every, kimg, stay",
    [
        (2, None, 40, [36, 40]),
        (2, 10, 40, [0, 12, 20, 32, 36, 40]),
        (1, 100, 40, [0, 40]),
        (2, 10, 20, [0, 12, 16, 20]),  # resumed from 20 kimg: what came after belongs to a course that was left
    ],
)
def test_the_last_the_best_and_one_of_every_so_many_kimg_are_kept(tmp_path, keep, every, kimg, stay):
    options = SimpleNamespace(keep=keep, keep_every=every)
    snapshots = Snapshots(tmp_path, SimpleNamespace(options=options), None, None, None, None)
    (tmp_path / "generator-best.safetensors").touch()
    for at in (k for k in range(0, 44, 4) if k != 8 or kimg == 40):  # the first five as once written
        name = f"generator-{at:06d}.000.safetensors" if at > 16 else f"generator-{at:06d}.safetensors"
        (tmp_path / name).touch()
        if at <= kimg:
            snapshots._prune(1000 * at)
    snapshots._prune(1000 * kimg)
    names = sorted(p.name for p in tmp_path.glob("generator-*"))
    assert [int(name[10:16]) for name in names[:-1]] == stay and names[-1] == "generator-best.safetensors"


def test_snapshots_closer_than_a_kimg_have_names_of_their_own(train, tmp_path, photos):
    """Ten steps of four images, each with a snapshot and a sheet."""
    dense = ("--data", photos, "--snap", 1, "--tick", 0.004, "--keep", 3, "--verdict-batch", 0)
    done = train(*dense, "--kimg", 0.024, "--keep-every", 0.012)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    earlier = checkpoint_path(run, 6)
    state = earlier.read_bytes()
    done = train("--resume", run, "--kimg", 0.04, small=False)
    assert done.code == 0, done.err
    kept = sorted(p.name for p in run.glob("generator-*"))
    assert kept == [f"generator-000000.{at:03d}.safetensors" for at in (4, 12, 24, 32, 36, 40)]
    assert {round(kimg_of(run / name) * 1000) for name in kept} == {4, 12, 24, 32, 36, 40}
    assert len(list(run.glob("fakes-*.png"))) == 11  # of the beginning, too
    assert generator_in(run) == run / kept[-1]
    # back to an earlier moment, and a step further: what is of later is of a course that was left
    earlier.write_bytes(state)
    back = train("--resume", earlier, "--kimg", 0.028, small=False)
    assert back.code == 0, back.err
    assert [snapshots(run, kind)[-1][0] for kind in ("generator", "fakes")] == [28, 28]


@pytest.mark.parametrize(
    "best, kept, left",
    [
        (8.0, [], 8.0),  # of before
        (16.004, [], 16.004),  # of now
        (40.0, [8.0], 8.0),  # of a course that was left: in its place this one's best
        (40.0, [8.5], None),  # … of which the file is another snapshot's
        (40.0, [], None),
        (None, [], None),
    ],
)
def test_the_best_generator_is_of_the_course_that_the_run_is_on(tmp_path, best, kept, left):
    G = Generator(GeneratorConfig(8, z_dim=4, w_dim=4, mapping_layers=1, channel_base=16))
    for kimg in kept:
        save_generator(tmp_path / f"generator-{int(kimg):06d}.safetensors", G, {"kimg": kimg})  # as once written
    path = tmp_path / "generator-best.safetensors"
    if best is not None:
        save_generator(path, G, {"kimg": best})
    fid = SimpleNamespace(best={"nimg": 8000})
    Snapshots(tmp_path, None, None, None, fid, None)._leave_other_best(16.004)
    assert kimg_of(path) == (-1 if left is None else left)


def test_checkpoints_in_use_are_spared(tmp_path):
    spared = {checkpoint_path(tmp_path, 1), None}
    for step in range(6):
        save(tmp_path, step, {"step": step}, "gan", spare=spared)
    assert [p.name for p in checkpoints(tmp_path)] == [f"checkpoint-{i:06d}.pt" for i in (1, 4, 5)]


def test_the_checkpoint_of_the_best_fid_stays(train, tmp_path, photos, shared_dir):
    weights = shared_dir / "weights" / "fid_inception_2015-12-05_trunk.pth"
    done = train("--data", photos, "--metrics", "fid4", "--fid-dims", 64, "--inception-weights", weights,
                 "--kimg", 0.04, "--snap", 1, "--verdict-batch", 0)  # fmt: skip
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    fids = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min(fids, key=lambda row: row["fid"])
    assert len(fids) == 5
    names = {p.name for p in checkpoints(run)}
    assert names == {f"checkpoint-{step:06d}.pt" for step in (best["nimg"] // 4, 10, 11)}
    assert all((row["n_real"], row["kernel"]) == (22, "center lanczos 8") for row in fids)
    # back to the best one; FID against other reals is no rival of the earlier one
    back = train("--resume", checkpoint_path(run, best["nimg"] // 4), "--kimg", 0.044, "--metric-data", photos,
                 "--tick", 0.044, small=False)  # fmt: skip
    assert back.code == 0, back.err
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert (last["n_real"], last["reals"], last["best"]) == (24, "photos", True)


def test_the_newest_run_is_found_in_a_group_only_where_there_is_no_other(tmp_path):
    for i, name in enumerate(("demo/00000-a", "demo/00001-b", "00000-c")):
        (tmp_path / name).mkdir(parents=True)
        path = save(tmp_path / name, 1, {}, "gan")
        if name != "00000-c":
            assert newest_run(tmp_path, checkpoints) == tmp_path / name
        os.utime(path, ns=(i, i))
    assert newest_run(tmp_path, checkpoints) == tmp_path / "00000-c"


def test_a_run_that_is_being_trained_is_left_alone(start, train, tmp_path, photos):
    job = start("--data", photos, "--kimg", 400, "--checkpoint-minutes", 1e-6)
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    end = time.monotonic() + 60
    while not checkpoints(run) and time.monotonic() < end:
        time.sleep(0.01)
    try:
        second = subprocess.run(
            [sys.executable, ROOT / "train_gan.py", "--resume", "latest"], cwd=tmp_path, capture_output=True, text=True
        )
    finally:
        os.kill(job.pid, signal.SIGINT)
    assert second.returncode == 2 and len(second.stderr.splitlines()) == 1, second.stderr
    assert f"process {job.pid} is training this run" in second.stderr
    first = job.wait()
    assert first.code == 130 and "go on with --resume" in first.out
    assert not (run / ".lock").exists()


def scalars(run: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {name: [event.value for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def test_a_run_that_diverges_goes_back_learns_more_slowly_and_ends_well_or_in_a_line(train, tmp_path, photos):
    course = ("--kimg", 0.08, "--tick", 0.016, "--snap", 1)
    lost = train("--data", photos, *course, "--lr", 10)
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    (line,) = lost.err.splitlines()
    assert lost.code == 2 and line.startswith(f"error: runs/{run.name}: the training has diverged: "), lost.err
    assert "at 5, 2.5 and 1.25 (--lr 10)" in line and "lower --lr (the preset's is 0.0025)" in line
    log = (run / "log.txt").read_text()
    assert log.count("back to checkpoint-000000.pt at 0.00 kimg") == 3 and line.removeprefix("error: ") in log
    assert [p.name for p in checkpoints(run)] == ["checkpoint-000000.pt"]
    assert not list(run.glob("detector*")) and not list(run.glob("generator*"))
    again = train("--resume", run, small=False)  # its attempts are spent
    assert again.code == 2 and "has diverged" in again.err and "back to checkpoint" not in again.out
    assert not list(run.glob("detector*"))
    steered = train("--resume", run, "--lr", 0.0025, "--no-report", small=False)
    assert steered.code == 0, steered.err
    assert (run / "detector.safetensors").is_file() and "--lr 10 -> 0.0025" in steered.out
    drawn = scalars(run)
    assert drawn["Health/rollbacks"][-1] == 0 and drawn["Health/ada_pinned"][-1] == 0
    assert all(value > 0 for value in drawn["Health/feature_diversity"]) and "Gradients/G" in drawn


def test_the_rate_of_a_run_that_went_back_is_part_of_its_state(train, tmp_path, photos):
    """A rate that is too high by little: one return, and a run that is killed after it goes on at the lower rate."""
    done = train("--data", photos, "--kimg", 0.08, "--tick", 0.016, "--snap", 1, "--lr", 0.6)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    course = load(checkpoints(run)[-1], "gan")
    assert 1 <= len(course["course"]["signs"]) <= 3, "choose another rate for this test"
    factor = 0.5 ** len(course["course"]["signs"])
    assert course["course"]["factor"] == factor
    assert course["game"]["opt_G"]["param_groups"][0]["lr"] == pytest.approx(0.6 * factor * 4 / 5)
    stats = [json.loads(row) for row in (run / "stats.jsonl").read_text().splitlines()]
    assert len({(row["nimg"], row.get("verdict_step")) for row in stats}) == len(stats)
