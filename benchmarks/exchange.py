"""What the processes of a training exchange in a step: bytes of gradients by preset, and the bandwidth that they need.

    python benchmarks/exchange.py                       # the published presets, from the networks' shapes
    python benchmarks/exchange.py --step-seconds 0.5    # with a measured step: gigabits a second for 8 to 64 GPUs

Every turn of the game ends in one all-reduce of float32 gradients (training/processes.py: `sum_gradients`), of which
tests/adversarial/test_distributed.py counts the bytes. Networks are made without memory (the meta device).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adversarial.config import GameConfig, resolve  # noqa: E402
from adversarial.options import Options  # noqa: E402
from discriminator.hybrid import HybridDiscriminator  # noqa: E402
from stylegan2_ada.generator import Generator  # noqa: E402

CASES = [("paper256", 256), ("stylegan2", 256), ("auto", 256), ("paper512", 512), ("paper1024", 1024), ("auto", 1024)]
SHARE = 0.1  # of a step that may go into the exchange, none of it hidden behind computing
GPUS = (8, 16, 32, 64)


def turns(cfg: GameConfig, G: Generator, D: HybridDiscriminator) -> dict[str, tuple[int, float]]:
    """name: (bytes of its all-reduce, times a step) of every turn of a game without frozen layers."""

    def size(params) -> int:
        return 4 * sum(p.numel() for p in params)

    w = 4 * cfg.generator.w_dim  # the mean of w goes along
    found = {"generator": (size(G.parameters()) + w, 1.0), "discriminator": (size(D.adversarial_parameters()) + w, 1.0)}
    if cfg.verdict_batch:
        found["verdict"] = size(D.verdict_parameters()), 1.0
    if cfg.pl_weight:
        found["path length"] = size(G.parameters()) + 4, 1 / cfg.pl_interval
    if cfg.gamma:
        found["R1"] = size(D.adversarial_parameters()), 1 / cfg.r1_interval
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step-seconds", type=float, help="of one step on these GPUs, without the exchange")
    asked = parser.parse_args()
    for name, resolution in CASES:
        cfg = resolve(
            Options(data="x", cfg=name), resolution=resolution, world_size=8, device=torch.device("cpu"), facts={}
        )
        with torch.device("meta"):
            G, D = Generator(cfg.generator), HybridDiscriminator(cfg.hybrid)
        each = turns(cfg, G, D)
        mean = sum(size * times for size, times in each.values())
        words = ", ".join(f"{turn} {size / 1e6:.1f}" for turn, (size, _) in each.items())
        print(f"{name} {resolution}: batch {cfg.batch}; MB: {words}; {mean / 1e6:.0f} a step on average")
        for gpus in GPUS:
            through = 2 * (gpus - 1) / gpus * mean  # that a ring sends and receives through each GPU
            line = f"    {gpus:2d} GPUs: {through / 1e6:.0f} MB through each a step"
            if asked.step_seconds:
                line += f", {8 * through / asked.step_seconds / SHARE / 1e9:.1f} Gbit/s for {SHARE:.0%} of the time"
            print(line)


if __name__ == "__main__":
    main()
