"""Randomness, replay, statistics, checkpoints and the optimiser's corrections."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adversarial import verdict_phase
from adversarial.config import GameConfig
from adversarial.feed import Feed
from adversarial.optimiser import FusedAdam, PlainAdam, lazy_adam
from adversarial.replay import Replay
from common.errors import UserError
from common.files import save_atomically
from faces.dataset import DecodedFaces
from faces.degrade import preset
from faces.preprocess import Preprocess
from training.checkpoint import checkpoints, find_checkpoint, load, save
from training.randomness import PHASES, derive
from training.stats import Stats
from training.telemetry import read_jsonl, rewind_jsonl


def test_seeds_differ_between_steps_phases_and_parts():
    seeds = {derive(s, i, p, m) for s in (0, 1) for i in range(20) for p in PHASES for m in range(3)}
    assert len(seeds) == 2 * 20 * len(PHASES) * 3
    assert derive(5, 7, "Dreg", 1) == derive(5, 7, "Dreg", 1)


def test_replay_is_a_uniform_sample_of_everything_pushed():
    hits = np.zeros(40)
    for seed in range(400):
        replay = Replay(10, (1, 1, 1), seed)
        for start in range(0, 40, 4):
            replay.push(np.arange(start, start + 4, dtype=np.uint8).reshape(4, 1, 1, 1), kimg=start)
        assert len(set(replay.images.ravel().tolist())) == 10
        hits[replay.images.ravel()] += 1
    # every image is kept with probability 1/4: 100 +- 5 standard deviations of a binomial
    assert np.all(np.abs(hits - 100) < 5 * np.sqrt(400 * 0.25 * 0.75))


@pytest.mark.parametrize("count", [2, 4, 6, 8, 16])
def test_the_verdict_head_sees_every_kind_of_fake_however_small_its_batch(count):
    """Half labelled fakes, a quarter replayed, a quarter new: on average, where the numbers are odd."""
    labels = np.repeat([0, 1], 8)
    images = np.where(labels == 1, 80, 20).astype(np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    faces = DecodedFaces(images, labels.astype(np.int64), np.arange(16), Preprocess(8), mirror=False)
    feed, replay = Feed(faces, preset("none"), 0), Replay(4, (3, 8, 8), 0)
    replay.push(np.full((4, 3, 8, 8), 160, np.uint8), 1.0)
    steps, seen = 800, {20: 0, 80: 0, 160: 0, 240: 0}
    for step in range(steps):
        clean, _, label = feed.verdict(step, 0, count, np.full((2, 3, 8, 8), 240, np.uint8), replay)
        assert label.tolist() == [0.0] * (count // 2) + [1.0] * (count // 2)
        for value in clean[:, 0, 0, 0].tolist():
            seen[value] += 1
    assert seen[20] == steps * count // 2
    for value, share in ((80, 1 / 2), (160, 1 / 4), (240, 1 / 4)):
        assert abs(seen[value] / steps - share * count / 2) < 0.09, value  # 5 standard deviations of half an image


def test_replay_restores_exactly():
    a = Replay(7, (3, 4, 4), seed=3)
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 12, 3, 4, 4), dtype=np.uint8)
    a.push(first, 1.0)
    b = Replay(7, (3, 4, 4), seed=3)
    b.load_state_dict(a.state_dict())
    a.push(second, 2.0)
    b.push(second, 2.0)
    assert np.array_equal(a.images, b.images) and np.array_equal(a.kimg, b.kimg)


def test_stats_count_nonfinite_values_apart():
    stats = Stats(torch.device("cpu"))
    stats.report("x", torch.tensor([1.0, 3.0, float("nan"), float("inf")]))
    stats.report("x", 5.0)
    row = stats.collect()["x"]
    assert row["num"] == 3 and row["mean"] == pytest.approx(3.0) and row["nonfinite"] == 2
    assert row["std"] == pytest.approx(np.std([1, 3, 5]), rel=1e-9)
    assert stats.collect() == {}


def test_adam_is_corrected_for_lazy_regularisation():
    """StyleGAN2 appendix B: c = k/(k+1), learning rate times c, betas to the power c."""
    group = lazy_adam([torch.nn.Parameter(torch.zeros(1))], 0.0025, 16).param_groups[0]
    assert group["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert group["betas"][0] == 0 and group["betas"][1] == pytest.approx(0.99 ** (16 / 17))
    assert lazy_adam([torch.nn.Parameter(torch.zeros(1))], 0.0025, None).param_groups[0]["betas"] == (0.0, 0.99)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint-000001.pt"
    save_atomically(path, lambda tmp: tmp.write_bytes(b"old"))

    def dies(tmp):
        tmp.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_atomically(path, dies)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_is_told_in_one_line_and_keeps_earlier_checkpoints(tmp_path):
    full = "/dev/full"
    if not os.path.exists(full):
        pytest.skip("needs /dev/full")
    save(tmp_path, 1, {"game": {}}, "gan")
    (tmp_path / ".checkpoint-000002.pt.tmp").symlink_to(full)
    with pytest.raises(UserError, match="could not be written"):
        save(tmp_path, 2, {"game": {"x": torch.zeros(100000)}}, "gan")
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-000001.pt"]
    assert load(checkpoints(tmp_path)[0], "gan")["game"] == {}


def test_the_last_two_checkpoints_are_kept_and_found(tmp_path):
    run = tmp_path / "00000-x"
    run.mkdir()
    for step in (10, 20, 1000000):
        save(run, step, {"game": {"step": step}}, "gan")
    assert [p.name for p in checkpoints(run)] == ["checkpoint-000020.pt", "checkpoint-1000000.pt"]
    for name in ("latest", str(run), str(run / "checkpoint-1000000.pt")):
        assert load(find_checkpoint(name, tmp_path), "gan")["game"]["step"] == 1000000


def test_latest_is_no_run_of_a_detector(tmp_path):
    game, newer = tmp_path / "00000-faces-32-tiny", tmp_path / "00001-detector-faces-32-squeezenet1_1"
    for run, kind in ((game, "gan"), (newer, "detector")):
        run.mkdir()
        save(run, 10, {"game": {}}, kind)
    (newer / "config.json").write_text('{"detector": 1, "options": {"size": "tiny"}}')
    assert find_checkpoint("latest", tmp_path).parent == game
    with pytest.raises(UserError, match=f"{newer.name}: a run of train_detector.py; give one of train_gan.py"):
        GameConfig.load(newer / "config.json")


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_wrong_files_are_refused_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"other": 1}, tmp_path / "other.pt")
    for name in ("evil.pt", "text.pt", "other.pt", "absent.pt"):
        with pytest.raises(UserError, match=name):
            load(tmp_path / name, "gan")
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(UserError, match="no run with a checkpoint"):
        find_checkpoint("latest", tmp_path)


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_text("".join(json.dumps({"nimg": n}) + "\n" for n in (10, 20, 30)) + '{"nimg": 4')
    rewind_jsonl(path, 20)
    assert read_jsonl(path) == [{"nimg": 10}, {"nimg": 20}]


@pytest.mark.parametrize("betas", [(0.0, 0.98), (0.9, 0.99)])
def test_fused_adam_is_adam(betas):
    torch.manual_seed(0)
    start, runs = torch.randn(7, 5), []
    for kind in (FusedAdam, torch.optim.Adam):
        w, idle = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(3))
        optimiser = kind([w, idle], lr=0.01, betas=betas)
        for i in range(5):
            w.grad = torch.sin(w.detach() * (i + 1))
            optimiser.step()
            if i == 2:  # and it can be saved and restored
                again = kind([w, idle], lr=0.5, betas=betas)
                again.load_state_dict(optimiser.state_dict())
                optimiser = again
        runs.append(w.detach())
        assert idle.eq(1).all()
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-6, atol=1e-6)


def test_fused_adam_goes_on_from_the_state_of_adam_and_without_its_first_moment():
    w = torch.nn.Parameter(torch.randn(6))
    theirs = torch.optim.Adam([w], lr=0.01, betas=(0.0, 0.98))
    w.grad = torch.randn(6)
    theirs.step()
    ours = FusedAdam([w], lr=0.5, betas=(0.0, 0.98))
    assert sum(v.numel() for v in ours.state[w].values()) == 1 + w.numel()
    ours.load_state_dict(theirs.state_dict())
    before = w.detach().clone()
    w.grad = torch.randn(6)
    ours.step()
    after = w.detach().clone()
    w.data.copy_(before)
    theirs.step()
    torch.testing.assert_close(w.detach(), after, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="2 weights, not of 1"):
        ours.load_state_dict(torch.optim.Adam([w, torch.nn.Parameter(torch.ones(1))]).state_dict())


def test_fused_adam_changes_nothing_where_a_gradient_is_not_finite():
    w = torch.nn.Parameter(torch.ones(3))
    ours = FusedAdam([w], lr=0.5, betas=(0.0, 0.98))
    w.grad, ours.found_inf = torch.full((3,), torch.nan), torch.ones(())
    ours.step()
    assert w.eq(1).all() and all(v.eq(0).all() for v in ours.state[w].values())


@pytest.mark.parametrize("betas", [(0.0, 0.98), (0.9, 0.99)])
def test_pytorchs_own_adam_goes_on_from_the_state_of_the_fused_one(betas):
    """As `torch.optim.Adam` throughout: a checkpoint of a GPU may go on where there is no fused kernel."""
    grads = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weights = [torch.nn.Parameter(torch.ones(4)) for _ in range(3)]
    whole = torch.optim.Adam([weights[0]], lr=0.1, betas=betas)
    first = FusedAdam([weights[1]], 0.1, betas)
    second = PlainAdam([weights[2]], lr=9.0, betas=(0.5, 0.5))

    def step(w, optimiser, grad):
        w.grad = grad.clone()
        optimiser.step()

    for i, grad in enumerate(grads):
        step(weights[0], whole, grad)
        if i < 3:
            step(weights[1], first, grad)
            continue
        if i == 3:
            weights[2].data.copy_(weights[1].data)
            second.load_state_dict(first.state_dict())
        step(weights[2], second, grad)
    torch.testing.assert_close(weights[2].data, weights[0].data)
    with pytest.raises(ValueError, match="2 weights"):
        second.load_state_dict(FusedAdam([torch.nn.Parameter(torch.ones(1)) for _ in range(2)], 0.1).state_dict())


def test_a_game_does_not_load_the_compiler():
    code = "import sys; from adversarial.optimiser import FusedAdam; import adversarial.game, torch\n"
    code += "p = torch.nn.Parameter(torch.ones(3)); p.grad = p.detach(); FusedAdam([p], 0.1).step()\n"
    code += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_large_images_are_judged_few_at_a_time_with_the_same_logits():
    """At 256 pixels 64 at once would take 2 GB; how many go together changes nothing."""
    sizes = []

    class Net:
        def verdict(self, x):
            sizes.append(len(x))
            return SimpleNamespace(logit=x.mean((1, 2, 3)))

    game = SimpleNamespace(detector=Net(), world=SimpleNamespace(device=torch.device("cpu")))
    for side, at_once in ((64, [64, 6]), (128, [64, 6]), (256, [16, 16, 16, 16, 6])):
        images = np.random.default_rng(side).integers(0, 256, (70, 3, side, side), dtype=np.uint8)
        sizes.clear()
        found = verdict_phase.logits_of(game, images)
        assert sizes == at_once
        np.testing.assert_allclose(found, images.mean((1, 2, 3)) / 127.5 - 1, atol=1e-5)
