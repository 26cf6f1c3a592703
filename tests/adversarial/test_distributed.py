"""Two and four gloo processes: the same parameters on all, the same update as one process with the joined batch."""

import copy
import os
import runpy
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training.processes import Processes

ROOT = Path(__file__).resolve().parents[2]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def alike(net: torch.nn.Module) -> bool:
    """Whether rank 0 has bit for bit the parameters and buffers of this process."""
    same = True
    for tensor in [*net.parameters(), *net.buffers()]:
        other = tensor.detach().clone()
        dist.broadcast(other, src=0)
        same &= torch.equal(other, tensor.detach())
    return same


def _worker(rank: int, port: int, folder: str, size: int) -> None:
    from conftest import small_config, small_game

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    with Processes.join("cpu") as world:
        cfg = small_config(size, **_share(size))
        game, reduce, exchanged = small_game(cfg, world), dist.all_reduce, []

        def counted(x, *args, **kwargs):
            exchanged.append(x.numel() * x.element_size())
            return reduce(x, *args, **kwargs)

        dist.all_reduce = counted
        game.step()  # the first step has every phase: main, path length, R1, verdict
        dist.all_reduce = reduce
        nets = {n: copy.deepcopy(getattr(game, n).state_dict()) for n in ("G", "D", "G_ema", "D_ema")}
        for _ in range(3):
            game.step()
        agree = all(alike(net) for net in [game.G, game.D, game.G_ema, game.D_ema])
        stats = game.stats.collect(world.sum)
        out = {"skipped": [_skipped(game, later) for later in (False, True)]}
        out |= {"agree": agree, "p": float(game.augment.p), "pl_mean": float(game.pl_mean), "stats": stats}
        turns = runpy.run_path(str(ROOT / "benchmarks" / "exchange.py"))["turns"](cfg, game.G, game.D)
        out |= {"nets": nets, "exchanged": exchanged, "counted": [size for size, _ in turns.values()]}
        torch.save(out, os.path.join(folder, f"{rank}.pt"))


def _skipped(game, asynchronous: bool) -> dict:
    """What is counted of a good step and two in which one number of the first process's gradient is none."""
    game.asynchronous = asynchronous
    for i in range(3):
        game._learn(game.G)
        for p in game.G.parameters():
            p.grad = torch.zeros_like(p)
        if i and game.world.is_main:
            p.grad.view(-1)[0] = float("inf")
        game.update("G", game.opt_G, game.G.parameters())
    game.settle()
    rows = game.stats.collect(game.world.sum)
    return {name: [row["num"], row["mean"] * row["num"]] for name, row in rows.items() if row["num"]}


def _share(size: int) -> dict:
    """Options by which `size` processes share a batch of 8, and one process alone takes the same micro-batches."""
    return {"batch_gpu": 8 // size, "mbstd_group": 8 // size, "aug": "ada", "target": 0.0}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_equal_one_with_the_joined_batch(tmp_path, monkeypatch, size):
    here = os.path.dirname(__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.path.dirname(os.path.dirname(here))]))
    monkeypatch.syspath_prepend(here)
    mp.spawn(_worker, (_free_port(), str(tmp_path), size), nprocs=size, join=True)
    first, *others = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(size))
    assert first["agree"] and len(others) == size - 1
    for other in others:
        assert other["agree"]
        assert all(first[name] == other[name] for name in ("p", "pl_mean", "stats", "exchanged"))
    waiting, later = first["skipped"]
    assert waiting == {"Gradients/G": [1, 0.0], "Gradients/nonfinite_G": [2, 2.0], "Gradients/skipped_G": [2, 2.0]}
    assert later == {"Gradients/G": [1, 0.0], "Gradients/nonfinite_G": [1, 2.0], "Gradients/skipped_G": [1, 2.0]}
    assert first["stats"]["Gradients/D"]["num"] == 4
    assert sorted(first["exchanged"]) == sorted(first["counted"]), "docs/training.md's bytes a step are counted so"

    from conftest import small_config, small_game

    alone = small_game(small_config(1, **_share(size)), Processes())
    alone.step()
    for net, state in first["nets"].items():
        for name, value in getattr(alone, net).state_dict().items():
            assert torch.allclose(value, state[name], rtol=1e-4, atol=1e-6), (net, name)
    for _ in range(3):
        alone.step()
    # Later steps agree in what they do, not in the last bit: sums over processes round in another order, a fake's pixel
    # may round to the next grey level, and Adam's early steps have one size whatever the gradient.
    assert float(alone.augment.p) == first["p"]
    assert abs(float(alone.pl_mean) - first["pl_mean"]) < 0.05 * first["pl_mean"]
    rows = alone.stats.collect()
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/verdict"):
        assert abs(rows[name]["mean"] - first["stats"][name]["mean"]) < 0.02, name


def _resuming_worker(rank: int, port: int, folder: str) -> None:
    from conftest import small_config, small_game

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    with Processes.join("cpu") as world:
        cfg = small_config(2, batch_gpu=4, mbstd_group=4, aug="ada", target=0.1)
        straight, resumed = small_game(cfg, world), small_game(cfg, world)
        for _ in range(3):  # ADA sums up every second step: here each process has counts of its own
            straight.step()
        counts = list(world.share(2, lambda _: straight.own_counts()))
        state = world.told(straight.state_dict(counts))  # rank 0's is what a checkpoint holds
        resumed.load_state_dict(copy.deepcopy(state))
        out = {"counts": [one["signs"].tolist() for one in counts]}
        for game in (straight, resumed):
            for _ in range(2):
                game.step()
        same = [torch.equal(a, b) for a, b in zip(straight.G.parameters(), resumed.G.parameters(), strict=True)]
        out |= {"same": all(same), "p": [float(game.augment.p) for game in (straight, resumed)]}
        out["stats"] = [game.stats.collect(world.sum) for game in (straight, resumed)]
        torch.save(out, os.path.join(folder, f"{rank}.pt"))


def test_each_process_resumes_with_its_own_counts(tmp_path, monkeypatch):
    here = os.path.dirname(__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.path.dirname(os.path.dirname(here))]))
    monkeypatch.syspath_prepend(here)
    mp.spawn(_resuming_worker, (_free_port(), str(tmp_path)), nprocs=2, join=True)
    for rank in (0, 1):
        out = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert out["counts"][0] != out["counts"][1], "otherwise this test shows nothing"
        assert out["same"] and out["p"][0] == out["p"][1] and out["stats"][0] == out["stats"][1]


def test_counts_of_two_processes_go_to_one(make_game):
    game, other = make_game(), make_game()
    for one in (game, other):
        one.step()
    both = make_game()
    both.load_state_dict(game.state_dict([game.own_counts(), other.own_counts()]))
    assert torch.equal(both.signs, 2 * game.signs)
    once, twice = game.stats.collect(), both.stats.collect()
    assert all(twice[name]["num"] == 2 * once[name]["num"] for name in once)
