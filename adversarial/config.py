"""A run resolved once: what was asked for (`adversarial.options`), the preset's values, and what follows from both."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adversarial.options import Options
from common import reading
from common.errors import UserError
from common.options import check
from common.words import counted
from discriminator.hybrid import HybridConfig
from faces.degrade import PRESETS as DEGRADATIONS
from metrics.fid import parse_metric
from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig, Preset, preset
from training.precision import resolve_precision
from training.run_folder import config_in, is_detectors

RESUMED_ADA_KIMG = 100.0  # transfer learning: ADA's speed, as published (else 500)
LOWP_RES = 4  # the four highest resolutions run in reduced precision, as published
CONV_CLAMP = 256.0


@dataclass(frozen=True)
class GameConfig:
    """The resolved run. `batch` is per step over all processes, `batch_gpu` per micro-batch; rates are for Adam."""

    options: Options
    resolution: int
    world_size: int
    kimg: float
    batch: int
    batch_gpu: int
    gamma: float
    lr: float
    ema_kimg: float
    ema_rampup: float | None
    pl_weight: float
    style_mixing_prob: float
    precision: str
    tick_kimg: float
    image_snap: int
    verdict_batch: int
    verdict_kimg: float
    generator: GeneratorConfig
    hybrid: HybridConfig
    metrics: str
    data_facts: dict = field(default_factory=dict)
    pl_interval: int = 4
    r1_interval: int = 16
    ada_interval: int = 4
    ada_kimg: float = 500.0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    w_avg_beta: float = 0.995
    grown_from: dict = field(default_factory=dict)  # checkpoint, resolution and kimg of the run it grew from
    odd_by_chance: bool = False  # see `Feed`; what an older version began goes on as it began

    @property
    def micro_batches(self) -> int:
        """Micro-batches per step over all processes."""
        return self.batch // self.batch_gpu

    @property
    def last_step(self) -> int:
        """Steps of the game: as many as show `kimg` thousand real images."""
        return -(-int(self.kimg * 1000) // self.batch)

    @property
    def verdict_part(self) -> int:
        """The verdict head's images of one micro-batch: alike in all, and two at least, a real and a fake one; or 0."""
        return max(2, self.verdict_batch // self.micro_batches) if self.verdict_batch else 0

    @property
    def verdict_images(self) -> int:
        """Its images of a step: `verdict_batch`, as far as micro-batches can share it."""
        return self.verdict_part * self.micro_batches

    @property
    def verdict_steps(self) -> int:
        """Steps of the verdict-only phase: verdict_kimg thousand images of verdict_images each."""
        return math.ceil(self.verdict_kimg * 1000 / self.verdict_images) if self.verdict_images else 0

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> GameConfig:
        d = dict(d)
        d["options"] = Options(**d["options"])
        d["generator"] = GeneratorConfig.from_dict(d["generator"])
        d["hybrid"] = HybridConfig.from_dict(d["hybrid"])
        return cls(**d)

    @classmethod
    def load(cls, path: Path) -> GameConfig:
        if not path.exists():
            raise UserError(f"{path.parent}: no config.json beside the checkpoint; give the run folder it was made in")
        if is_detectors(config_in(path.parent)):
            raise UserError(f"{path.parent}: a run of train_detector.py; give one of train_gan.py")
        try:
            return cls.from_dict(reading.json_file(path))
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise UserError(f"{path}: cannot be read as a run's config.json ({e}); give another run folder") from None

    def with_widths_of(self, other: GameConfig) -> GameConfig:
        """This run with the layers' widths of another one: of some presets they change with the resolution."""
        widths = {name: getattr(other.generator, name) for name in ("channel_base", "channel_max")}
        trunk = dataclasses.replace(self.hybrid.trunk, **widths)
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(self.generator, **widths),
            hybrid=dataclasses.replace(self.hybrid, trunk=trunk),
        )

    def schedule_lines(self) -> list[str]:
        """The configuration in a few lines for people."""
        o = self.options
        aug = {"ada": f"ADA {o.augpipe}, target {o.target}, p <= {o.p_max}", "fixed": f"{o.augpipe} at p = {o.p}"}
        return [
            f"data        {o.data}: {self.data_facts.get('summary', '')}",
            f"resolution  {self.resolution} x {self.resolution}{', grey' if o.channels == 1 else ''}, cfg {o.cfg},"
            f" channels {self.generator.channel_base} (at most {self.generator.channel_max}), {self.precision}",
            f"batch       {self.batch} ({self.micro_batches} x {self.batch_gpu} on"
            f" {counted(self.world_size, 'process', 'processes')}),"
            f" minibatch-std group {self.hybrid.trunk.mbstd_group_size}",
            f"optimiser   Adam lr {self.lr:g}, R1 gamma {self.gamma:g}, path length {self.pl_weight:g},"
            f" EMA {self.ema_kimg:g} kimg",
            f"augment     {aug.get(o.aug, 'none')}",
            f"verdict     {self._verdict_line()}",
            f"length      {self.kimg:g} kimg, a tick every {self.tick_kimg:g}, snapshots every"
            f" {counted(o.snap, 'tick')}",
        ]

    def _verdict_line(self) -> str:
        o = self.options
        if not self.verdict_batch:
            return "the head does not learn (`verdict_batch` 0): this run makes no detector"
        asked = o.verdict_batch not in (None, self.verdict_images)
        other = f" ({o.verdict_batch} asked for; as many in every micro-batch, two at least)" if asked else ""
        return (
            f"batch {self.verdict_images}{other}, degradation"
            f" {o.degradation}, consistency {o.consistency:g}, trunk gradient x {self.hybrid.trunk_grad_scale:g}, then"
            f" {self.verdict_kimg:g} kimg alone"
        )


def check_resolution(resolution: int) -> int:
    """`resolution` if it is a power of two between 8 and 2048."""
    if resolution < 8 or resolution > 2048 or resolution & (resolution - 1):
        lower = 2 ** max(3, min(11, int(math.log2(max(resolution, 8)))))
        raise UserError(f"`resolution` {resolution} is not a power of two between 8 and 2048; try `resolution` {lower}")
    return resolution


def check_options(o: Options) -> None:
    """UserError, one line, for values no run can have and for options that contradict each other."""

    check(o)
    if o.degradation not in DEGRADATIONS:
        raise UserError(f"`degradation` {o.degradation} is unknown; choose one of {', '.join(DEGRADATIONS)}")
    if o.channels not in (1, 3):
        raise UserError(
            f"`channels` {o.channels}: images are trained in 3 channels (colour) or 1 (grey); the transparency of RGBA"
            " files is laid on mid-grey"
        )
    if o.aug == "fixed" and o.p is None:
        raise UserError("`aug` fixed needs a probability: add `p` 0.2, say, or use `aug` ada")
    if o.aug != "fixed" and o.p is not None:
        raise UserError(f"`p` goes with `aug` fixed only; with `aug` {o.aug} leave it out")
    if o.generator_verdict_weight and o.verdict_batch == 0:
        raise UserError("`generator_verdict_weight` needs a verdict head that learns; leave out `verdict_batch` 0")
    cores = os.cpu_count() or 1
    if o.threads is not None and o.threads > 4 * cores:
        raise UserError(f"`threads` {o.threads}: this machine has {cores} cores; give at most that, or leave it out")
    if (o.fid_features == "inception") != (o.fid_weights is None):
        raise UserError("`fid_features` NETWORK and `fid_weights` FILE go together: give both, or neither")
    if o.fid_features != "inception" and o.fid_dims is not None:
        raise UserError("`fid_dims` are Inception's: leave it out with `fid_features`")
    if o.metrics not in ("auto", "none"):
        for name in o.metrics.split(","):
            parse_metric(name.strip())


def resolve(options: Options, *, resolution: int, world_size: int, device: torch.device, facts: dict) -> GameConfig:
    """All values of a run from the options, the preset and the data (`resolution`: what the data or the user says).

    Raises UserError, one line, for every combination that cannot train.
    """
    o = options
    resolution = check_resolution(resolution)
    try:
        base = preset(o.cfg, resolution, world_size)
    except ValueError as e:
        raise UserError(str(e)) from None
    check_options(o)

    batch = base.batch if o.batch is None else o.batch
    batch_gpu, group = _split_batch(o, batch, base.mbstd, world_size)
    scale = batch / base.batch
    precision = resolve_precision(o.precision, device)
    generator, trunk = _networks(o, base, resolution, group, precision, classes=len(facts.get("classes") or ()))
    on_cpu = device.type == "cpu"
    trunk_scale = o.trunk_grad_scale if o.trunk_grad_scale is not None else (0.0 if o.cfg == "tiny" else 0.1)
    kimg = float(base.kimg if o.kimg is None else o.kimg)
    tick = o.tick if o.tick is not None else (min(4.0, max(kimg / 50, 0.2)) if on_cpu else 4.0)
    return GameConfig(
        options=o,
        resolution=resolution,
        world_size=world_size,
        kimg=kimg,
        batch=batch,
        batch_gpu=batch_gpu,
        # auto's gamma depends on the batch (0.0002 res^2 / batch) and so does its EMA length (batch * 10 / 32)
        gamma=o.gamma if o.gamma is not None else base.gamma / (scale if o.cfg == "auto" else 1.0),
        lr=base.lr if o.lr is None else o.lr,
        ema_kimg=base.ema_kimg * (scale if o.cfg in ("auto", "tiny") else 1.0),
        ema_rampup=base.ema_rampup if o.start is None and o.grow_from is None else None,
        ada_kimg=500.0 if o.start is None else RESUMED_ADA_KIMG,
        pl_weight=base.pl_weight,
        style_mixing_prob=base.style_mixing_prob,
        precision=precision,
        tick_kimg=tick,
        image_snap=o.image_snap if o.image_snap is not None else max(1, o.snap // 5),
        verdict_batch=o.verdict_batch
        if o.verdict_batch is not None
        else (max(batch // 2, 2) if o.cfg == "tiny" else batch),
        verdict_kimg=o.verdict_kimg if o.verdict_kimg is not None else min(100.0, 0.25 * kimg),
        generator=generator,
        hybrid=HybridConfig(trunk=trunk, artefact_blocks=min(2, resolution // 8), trunk_grad_scale=trunk_scale),
        metrics=o.metrics,
        data_facts=facts,
        odd_by_chance=True,
    )


def _networks(
    o: Options, base: Preset, resolution: int, group: int, precision: str, *, classes: int
) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """The two networks of a preset. group: of the minibatch standard deviation."""
    both: dict[str, Any] = {
        "resolution": resolution,
        "c_dim": classes,
        "img_channels": o.channels,
        "channel_base": base.channel_base,
        "channel_max": base.channel_max,
        "num_lowp_res": 0 if precision == "fp32" else LOWP_RES,
        "conv_clamp": CONV_CLAMP if precision == "fp16" else None,  # bf16 has the range of fp32: nothing to clamp
    }
    layers = 1 + (3 if base.d_architecture == "resnet" else 2) * (resolution.bit_length() - 3)
    if o.freezed > layers:
        raise UserError(
            f"`freezed` {o.freezed}: the discriminator has {layers} layers to freeze; give at most {layers}"
        )
    return (
        GeneratorConfig(z_dim=base.z_dim, w_dim=base.w_dim, mapping_layers=base.mapping_layers, **both),
        DiscriminatorConfig(architecture=base.d_architecture, mbstd_group_size=group, **both),
    )


def _split_batch(o: Options, batch: int, preset_group: int, world_size: int) -> tuple[int, int]:
    """(batch per micro-batch, minibatch-std group), checked against each other and the number of processes."""
    if batch % world_size:
        whole = world_size * min(o.mbstd_group or preset_group, max(1, batch // world_size))
        near = max(whole, batch // whole * whole)
        raise UserError(
            f"`batch` {batch} cannot be shared by {counted(world_size, 'process', 'processes')}; give `batch` {near},"
            " say"
        )
    share = batch // world_size
    batch_gpu = o.batch_gpu if o.batch_gpu is not None else share
    if share % batch_gpu:
        raise UserError(
            f"`batch_gpu` {batch_gpu} does not divide the {counted(share, 'image')} a step of each process; give a"
            " divisor"
        )
    if o.mbstd_group is not None:
        group = o.mbstd_group
    else:
        # a preset's group shrinks with the share of a process, as published (auto: min(batch per GPU, 4))
        group = min(preset_group, batch_gpu) if (world_size > 1 or o.batch_gpu is not None) else preset_group
    if batch_gpu % group:
        whole = max(group, batch_gpu // group * group) * world_size
        other = f"`batch` {whole} or " if o.batch_gpu is None else ""
        raise UserError(
            f"`batch` {batch} gives micro-batches of {batch_gpu}, no multiple of the minibatch-std group {group};"
            f" use {other}`mbstd_group` {math.gcd(batch_gpu, group)}"
        )
    return batch_gpu, group
