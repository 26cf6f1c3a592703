"""What memory a step of the game needs, and its batch split so that it fits."""

from __future__ import annotations

import dataclasses

from adversarial.config import GameConfig
from common.errors import UserError
from training.memory import own_share
from training.processes import Processes

SAFE_SHARE = 0.7  # of the free memory that a step may claim
# Feature maps of one resolution that a training step keeps alive per image, in units of channels x height x width
# elements, at its worst moment (path length: generator forward, backward and its graph); fitted to peak memory
# measured at 32 and 64 pixels in both precisions, and rounded up; so is what libraries allocate at the first step.
MAPS_ALIVE = 28
FIRST_STEP = 300 << 20


def step_bytes(cfg: GameConfig) -> int:
    """Estimated peak bytes of one training step beyond the interpreter: activations of a micro-batch plus the weights,
    gradients, moments and averages of both networks."""
    g, d = cfg.generator, cfg.hybrid.trunk
    width = 4 if cfg.precision == "fp32" else 3
    maps = weights = 0
    res = cfg.resolution
    while res >= 4:
        c = g.channels(res)
        maps += c * res * res
        weights += 2 * 2 * 9 * c * c
        res //= 2
    weights += g.mapping_layers * g.w_dim**2 + d.channels(4) ** 2 * 16
    return int(FIRST_STEP + maps * MAPS_ALIVE * width * cfg.batch_gpu + weights * 4 * 6)


def split_batch(cfg: GameConfig, processes: Processes) -> GameConfig:
    """`cfg` with the largest micro-batch that should fit (gradients are then accumulated over several).

    The minibatch-std group stays whole, so a split changes no statistics; with as little as one group nothing is left
    to split and the configuration is returned as it is.
    """
    free = own_share(processes)
    if free is None:
        return cfg
    group = cfg.hybrid.trunk.mbstd_group_size
    size = cfg.batch_gpu
    while step_bytes(dataclasses.replace(cfg, batch_gpu=size)) > SAFE_SHARE * free:
        smaller = [n for n in range(1, size) if size % n == 0 and n % max(group, 1) == 0]
        if not smaller:
            break
        size = smaller[-1]
    return dataclasses.replace(cfg, batch_gpu=size)


def memory_note(cfg: GameConfig, processes: Processes) -> str | None:
    """A line where a step is expected to need more memory than there is; the system would end the run without one."""
    free = own_share(processes)
    needed = step_bytes(dataclasses.replace(cfg, batch_gpu=max(cfg.batch_gpu, _verdict_weighs(cfg))))
    if free is None or needed <= free:
        return None
    advice = (
        "lower `verdict_batch`"
        if _verdict_weighs(cfg) > cfg.batch_gpu
        else "lower `resolution`, or `batch_gpu` together with `mbstd_group`, or choose a smaller `cfg`"
    )
    return (
        f"memory      a step needs about {needed / 2**30:.1f} GB and {free / 2**30:.1f} GB are free: if the run is"
        f" killed, {advice}"
    )


def _verdict_weighs(cfg: GameConfig) -> int:
    """As many of a micro-batch's images as the verdict head's part of one: these go through the discriminator only,
    each with its degraded copy, and not through a path length's double graph."""
    return cfg.verdict_part // 2


def too_small(cfg: GameConfig, device: str) -> UserError:
    """What is said where a step found no room in the memory of `device`."""
    if _verdict_weighs(cfg) > cfg.batch_gpu:
        return UserError(f"{device}'s memory is too small for {cfg.verdict_part} images of the verdict head; lower"
                         " `verdict_batch`")  # fmt: skip
    half = max(1, cfg.batch_gpu // 2)
    group = f" `mbstd_group` {half}" if half % max(1, cfg.hybrid.trunk.mbstd_group_size) else ""
    return UserError(
        f"{device}'s memory is too small for micro-batches of {cfg.batch_gpu}; add `batch_gpu` {half}{group} or lower"
        " `resolution`"
    )
