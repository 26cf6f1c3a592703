"""An iteration of another checkout's StyleGAN2-ADA, measured as `training.py` measures this one.

    python benchmarks/training.py compare --peer FOLDER

The checkout must have the published interface: `training.networks.Generator` and `Discriminator`, `training.augment`'s
`AugmentPipe`, `training.loss.StyleGAN2Loss` with `accumulate_gradients`. It is imported in this process alone, from
where it lies; nothing of it is read into the project. Float32, the same sizes, schedule, augmentations, random images.
"""

from __future__ import annotations

import copy
import importlib
import json
import statistics
import sys
import time

import torch

BGC = "xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation".split()
SHARE = {"Gmain": 1, "Greg": 1 / 4, "Dmain": 1, "Dreg": 1 / 16, "averages": 1}  # of an iteration, as in training.py
SIZE = {"channel_base": 16384, "channel_max": 512, "num_fp16_res": 0, "conv_clamp": None}


class Peer:
    """Networks, optimisers and loss of the checkout on the path, as it would train."""

    def __init__(self, s: dict, device) -> None:
        networks, augment, loss = (
            importlib.import_module(f"training.{name}") for name in ("networks", "augment", "loss")
        )
        self.batch, self.device = s["batch"], device
        shape = {"c_dim": 0, "img_resolution": s["resolution"], "img_channels": 3}
        self.z_dim = 512
        self.G = networks.Generator(
            z_dim=self.z_dim, w_dim=512, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=dict(SIZE), **shape
        )
        groups = {"mbstd_group_size": min(4, self.batch)}
        self.D = networks.Discriminator(block_kwargs={}, mapping_kwargs={}, epilogue_kwargs=groups, **SIZE, **shape)
        self.G, self.D = (net.train().requires_grad_(False).to(device) for net in (self.G, self.D))
        self.ema = copy.deepcopy(self.G).eval()
        pipe = augment.AugmentPipe(**dict.fromkeys(BGC, 1)).train().requires_grad_(False).to(device)
        pipe.p.copy_(torch.as_tensor(0.2))
        self.loss = loss.StyleGAN2Loss(
            device=device, G_mapping=self.G.mapping, G_synthesis=self.G.synthesis, D=self.D, augment_pipe=pipe,
            style_mixing_prob=0.9, r1_gamma=0.0002 * s["resolution"] ** 2 / self.batch,
            pl_batch_shrink=2, pl_decay=0.01, pl_weight=2,
        )  # fmt: skip
        self.adam = {
            name: torch.optim.Adam(net.parameters(), lr=0.0025, betas=(0.0, 0.99), eps=1e-8)
            for name, net in (("G", self.G), ("D", self.D))
        }
        self.images = torch.rand(self.batch, 3, s["resolution"], s["resolution"], device=device) * 2 - 1

    def codes(self):
        return torch.randn(self.batch, self.z_dim, device=self.device)

    def turn(self, phase: str) -> None:
        """One phase with its step of Adam, or the averages of the weights."""
        no_class = torch.zeros(self.batch, 0, device=self.device)
        if phase == "averages":
            with torch.no_grad():
                for mean, now in zip(self.ema.parameters(), self.G.parameters()):
                    mean.copy_(now.lerp(mean, 0.999))
            return
        net, adam = (self.G, self.adam["G"]) if phase[0] == "G" else (self.D, self.adam["D"])
        adam.zero_grad(set_to_none=True)
        net.requires_grad_(True)
        self.loss.accumulate_gradients(
            phase=phase, real_img=self.images, real_c=no_class, gen_z=self.codes(), gen_c=no_class, sync=True,
            gain=round(1 / SHARE[phase]),
        )  # fmt: skip
        net.requires_grad_(False)
        for parameter in net.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        adam.step()

    def sample(self) -> None:
        with torch.no_grad():
            self.ema(self.codes(), torch.zeros(self.batch, 0, device=self.device), noise_mode="const")


def cost(s: dict) -> dict:
    """Seconds and processor seconds of an amortised iteration, of sampling a batch, and the peak of memory."""
    torch.set_num_threads(s["threads"])
    device = torch.device(s["device"])
    imports, peer = peak_gb(device), Peer(s, device)

    def seconds(turn, *given) -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        turn(*given)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - wall, time.process_time() - processor

    rounds = [{phase: seconds(peer.turn, phase) for phase in SHARE} for _ in range(1 + s["rounds"])][1:]
    phases = {phase: [statistics.median(one[phase][k] for one in rounds) for k in (0, 1)] for phase in SHARE}
    wall, processor = (sum(SHARE[phase] * both[k] for phase, both in phases.items()) for k in (0, 1))
    sampled = statistics.median([seconds(peer.sample)[0] for _ in range(3 + 3 * s["rounds"])][3:])
    return {
        "seconds": wall, "cpu_seconds": processor, "phases": {phase: both[0] for phase, both in phases.items()},
        "sampling_seconds": sampled, "peak_gb": peak_gb(device), "imports_gb": imports if device.type == "cpu" else 0.0,
        "gflop": None, "precision": "fp32",
    }  # fmt: skip


def peak_gb(device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    folder, settings = sys.argv[1:]
    sys.path[0] = folder  # in place of this folder, whose `training` is another
    sys.dont_write_bytecode = True
    try:
        print(json.dumps(cost(json.loads(settings))))
    except (ImportError, AttributeError, TypeError) as error:
        sys.exit(f"{type(error).__name__}: {error}; it lacks the published interface that benchmarks/peer.py names")
