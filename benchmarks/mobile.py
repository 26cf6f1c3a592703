#!/usr/bin/env python3
"""A training step of a mobile network on a CPU: the detector's native layers beside the library's own.

Two copies of one network take turns, step by step, in one process, so that what else the machine does hits both alike;
the best of all turns counts, in seconds of processor time. Then every depthwise layer of the network by itself:
forward, gradient of its input, gradient of its weights.

    python benchmarks/mobile.py                           # EfficientNet-Lite0, 192 px, batch 8, bfloat16, one thread
    python benchmarks/mobile.py --precision fp32 --model timm:mobilenetv2_100 --json mobile.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ops import forced  # noqa: E402
from benchmarks.training import facts  # noqa: E402
from discriminator.backbones import Backbone, BackboneConfig  # noqa: E402
from stylegan2_ada.ops import depthwise, native  # noqa: E402
from training.memory import keep_freed_memory  # noqa: E402

WAYS = {"native": "native", "PyTorch": "torch"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Layer:
    """A depthwise convolution: milliseconds of its three directions, by way."""

    channels: int
    size: int
    window: int
    stride: int
    ms: dict[str, list[float]]


def best(turns: int, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least processor time of each way, in ms; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns + 1):
        for name, call in ways.items():
            began = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - began))
    return {name: min(all_[1:]) for name, all_ in times.items()}


class Learner:
    """A network and its optimiser; `step()` is one step of learning on the same images."""

    def __init__(self, way: str, config: BackboneConfig, precision: str, batch: int, frozen: bool) -> None:
        torch.manual_seed(0)
        self.way, self.net = way, Backbone(config).to(memory_format=torch.channels_last).train()
        self.net.lowp_dtype = DTYPES[precision]
        if frozen:
            self.net.body.requires_grad_(False).eval()
        learning = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, lr=1e-4, fused=True)
        self.images = torch.rand(batch, 3, config.resolution, config.resolution) * 2 - 1
        self.targets = torch.arange(batch).remainder(2).float()

    def step(self) -> None:
        with forced(self.way, "cpu"):
            logit = self.net.verdict(self.images).logit
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, self.targets)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()


def layers(net: Backbone, images: Tensor) -> list[tuple[torch.nn.Conv2d, tuple[int, ...]]]:
    """The depthwise layers, each kind once, with the shape of their input."""
    found: dict[tuple, tuple[torch.nn.Conv2d, tuple[int, ...]]] = {}

    def seen(layer, inputs):
        key = (*inputs[0].shape, layer.kernel_size, layer.stride)
        found[key] = (layer, tuple(inputs[0].shape))

    convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(seen) for layer in convolutions if layer.groups == layer.in_channels > 1]
    with torch.inference_mode():
        net.features(images)
    for handle in handles:
        handle.remove()
    return list(found.values())


def time_layer(layer: torch.nn.Conv2d, shape: tuple[int, ...], dtype: torch.dtype, turns: int) -> Layer:
    images = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    weights, k, stride = layer.weight.detach(), layer.kernel_size[0], layer.stride[0]

    def convolve(way: str, x: Tensor, w: Tensor) -> Tensor:
        with forced(way, "cpu"):
            return depthwise.depthwise(x, w, stride=stride, padding=(k // 2,) * 4)

    def gradient(way: str, *leaves: Tensor) -> Callable[[], object]:
        of = next(leaf for leaf in leaves if leaf.requires_grad)
        y = convolve(way, *leaves)
        return partial(torch.autograd.grad, y, of, torch.ones_like(y), retain_graph=True)

    x, w = images.clone().requires_grad_(), weights.clone().requires_grad_()
    directions = [
        best(turns, {name: partial(convolve, way, images, weights) for name, way in WAYS.items()}),
        best(turns, {name: gradient(way, x, weights) for name, way in WAYS.items()}),
        best(turns, {name: gradient(way, images, w) for name, way in WAYS.items()}),
    ]
    ms = {name: [round(direction[name], 3) for direction in directions] for name in WAYS}
    return Layer(shape[1], shape[2], k, stride, ms)


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--model", default="timm:tf_efficientnet_lite0", show_default=True)
@click.option("--resolution", default=192, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--precision", type=click.Choice(sorted(DTYPES)), default="bf16", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--turns", default=8, show_default=True, help="Steps of each.")
@click.option("--frozen", is_flag=True, help="Only the head learns.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the numbers there, too.")
def main(model, resolution, batch, precision, threads, turns, frozen, json_path) -> None:
    torch.set_num_threads(threads)
    if not (found := native.status("cpu")).native:
        raise SystemExit(f"error: there is no native code to measure: {found.why}")
    keep_freed_memory()
    config = BackboneConfig(model=model, resolution=resolution)
    learners = {name: Learner(way, config, precision, batch, frozen) for name, way in WAYS.items()}
    steps = best(turns, {name: learner.step for name, learner in learners.items()})
    print(f"{model} at {resolution} px, batch {batch}, {precision}{', frozen' if frozen else ''}, {threads} thread(s)")
    for name, ms in steps.items():
        print(f"{name:8s} {ms:8.1f} ms of processor time a step, {1000 * batch / ms:6.1f} images a second of it")
    print(f"{steps['PyTorch'] / steps['native']:.2f} times as quick\n")
    print("depthwise layers, ms: forward, input's gradient, weights' gradient")
    of = learners["native"]
    rows = [time_layer(layer, shape, DTYPES[precision], turns) for layer, shape in layers(of.net, of.images)]
    for row in rows:
        shown = "   ".join(name + "".join(f"{v:8.2f}" for v in ms) for name, ms in row.ms.items())
        print(f"{row.channels:5d} channels {row.size:3d} px {row.window}x{row.window} stride {row.stride}   {shown}")
    if json_path:
        told = {
            "facts": facts("cpu"), "model": model, "resolution": resolution, "batch": batch, "precision": precision,
            "frozen": frozen, "threads": threads, "step_ms": steps, "layers": [asdict(row) for row in rows],
        }  # fmt: skip
        json_path.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
