"""What a run will do, settled before anything is written: options against data, or against the run being resumed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from adversarial.config import GameConfig, check_options, check_resolution, resolve
from adversarial.game import Game
from adversarial.growth import INHERITED, Seedling
from adversarial.memory import split_batch
from adversarial.options import Options
from adversarial.transfer import Start, check_start, is_start, open_smaller, open_start
from common.errors import UserError
from common.options import refuse
from faces.classes import ClassLabels
from faces.layout import Reading
from stylegan2_ada.download import is_remote
from training.checkpoint import checkpoint_path, find_checkpoint, load
from training.data import Splits, native_resolution, open_splits
from training.processes import Processes
from training.run_folder import CONFIG

# what a resumed run may change; everything else is part of its identity (`data` may move: its fingerprint is compared)
RESUMABLE = {
    "kimg", "snap", "image_snap", "keep", "metrics", "inception_weights", "fid_dims", "fid_features", "fid_weights",
    "workers", "threads", "device", "keep_every", "metric_data", "checkpoint_minutes", "data", "data_root", "outdir",
    "batch_gpu", "precision", "verdict_kimg", "tick",
}  # fmt: skip


# what a resumed run may be steered by: its course changes from there on, which is told in log.txt
STEERED = ("gamma", "lr", "target", "p_max")


@dataclass
class Resumed:
    """A run to go on with: checkpoint, its content, the run's configuration, and what changes from there, in words."""

    checkpoint: Path
    state: dict
    saved: GameConfig
    steered: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """A resolved run before it touches the disk; `start`: the networks it starts from in transfer learning."""

    cfg: GameConfig
    splits: Splits
    resumed: Resumed | None
    start: Start | None
    classes: ClassLabels | None


def plan(
    options: Options,
    given: Collection[str],
    resume: str | None,
    world: Processes,
    *,
    fetch: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Resolve the options against the data, or against the run being resumed.

    `given`: names of the options the caller set explicitly; on resume these must not contradict the run's own.
    `resume`: a run to go on with, or networks to start from (`transfer`). `fetch`: whether an absent named set or
    network may be downloaded, `progress`: called with (bytes so far, bytes in all) while a network is. Raises
    UserError, one line, for whatever cannot train.
    """
    options, start, resumed = _origin(options, given, resume, world, fetch, progress)
    check_options(options)
    if options.patches is not None:
        options = _on_patches(options, given)
    _check_idle(options, given, fresh=resumed is None)
    if options.resolution is not None:
        check_resolution(options.resolution)
    splits = _splits(options, fetch)
    classes = ClassLabels(splits.source) if options.cond else None
    facts: dict = {"name": splits.source.name, "fingerprint": splits.source.fingerprint()}
    if classes is not None:
        facts["classes"] = classes.names
    if resumed is not None and facts["fingerprint"] != resumed.saved.data_facts.get("fingerprint"):
        raise UserError(
            f"`data` {options.data}: not the images this run was trained on ({resumed.checkpoint.parent}); name their"
            " new place with `data`, restore them, or start a new run"
        )
    resolution = options.resolution or native_resolution(splits.train)
    cfg = resolve(options, resolution=resolution, world_size=world.size, device=world.device, facts=facts)
    if start is not None:
        if start.seedling is not None:
            cfg = _grown(cfg, start.seedling)
        check_start(cfg, start)
    if options.batch_gpu is None:
        # ranks may see different amounts of free memory, but must split alike
        size = world.smallest(split_batch(cfg, world).batch_gpu)
        cfg = dataclasses.replace(cfg, batch_gpu=size)
    if resumed is not None:
        cfg = _as_begun(cfg, resumed.saved, given)
        _find_where_to_go_on(cfg, given, resumed)
        resumed.steered = _steered(resumed.saved, cfg)
    return Plan(cfg, splits, resumed, start, classes)


def _splits(options: Options, fetch: bool) -> Splits:
    reading = Reading(options.labels, classes=options.cond)
    return open_splits(
        options.data, options.data_root, subset=options.subset, seed=options.seed, fetch=fetch, reading=reading
    )


def _origin(
    options: Options,
    given: Collection[str],
    resume: str | None,
    world: Processes,
    fetch: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[Options, Start | None, Resumed | None]:
    """The options with what the run takes from where it begins, and the networks or the run where it does."""
    start = resumed = None
    if options.grow_from is not None and resume is not None:
        raise UserError(
            f"`grow_from` {options.grow_from}: begins a new run and `resume` goes on with one; leave one of them out"
        )
    if resume is None and options.grow_from is not None:
        start = open_smaller(options.grow_from, Path(options.outdir))
        options = grown_options(options, given, start)
    elif resume is not None and is_start(resume):
        if not options.data:
            raise UserError(f"`resume` {resume}: a new run starts from these networks: give its images with `data`")
        if is_remote(resume) and fetch:  # what is wrong with the images is told before networks are fetched
            _splits(options, fetch)
        start = open_start(resume, world, allowed=fetch, progress=progress)
        options = dataclasses.replace(options, start=resume)
    elif resume is not None:
        checkpoint = find_checkpoint(resume, Path(options.outdir))
        saved = GameConfig.load(checkpoint.parent / CONFIG)
        options = _resumed_options(options, given, saved, checkpoint, world)
        resumed = Resumed(checkpoint, load(checkpoint, "gan"), saved)
    return options, start, resumed


def grown_options(o: Options, given: Collection[str], start: Start) -> Options:
    """The options of a run that grows: what was not given of `INHERITED` is the smaller run's."""
    assert start.seedling is not None
    old = start.seedling
    if o.resolution is None and o.patches is None:
        size = old.saved.resolution
        raise UserError(f"`grow_from` {o.grow_from}: its images are {size}x{size}; add `resolution` {2 * size}, say")
    theirs = old.saved.options
    taken = {name: getattr(theirs, name) for name in INHERITED if getattr(o, name) == getattr(Options, name)}
    taken = {name: value for name, value in taken.items() if name not in given}
    if theirs.patches is not None and o.patches is None:
        taken["patches"] = o.resolution
    return dataclasses.replace(o, grow_from=str(old.checkpoint), **taken)


def _grown(cfg: GameConfig, old: Seedling) -> GameConfig:
    """Blocks that stay need the channels they had, and of one preset the new ones follow on from them."""
    if cfg.options.cfg == old.saved.options.cfg:
        top, usual = cfg.resolution, cfg.generator.channels(cfg.resolution)
        cfg = cfg.with_widths_of(old.saved)
        if (kept := cfg.generator.channels(top)) != usual:
            name = cfg.options.cfg
            old.notes.append(
                f"the old run's widths go on: {kept} channels at {top}x{top}, a new `cfg` {name} has {usual}"
            )
    return dataclasses.replace(cfg, grown_from=old.origin)


def _on_patches(o: Options, given: Collection[str]) -> Options:
    """The options of a run on patches; UserError for those that would say nothing, or something else."""
    if o.resolution not in (None, o.patches):
        raise UserError(
            f"`resolution` {o.resolution}: patches of {o.patches} pixels are seen as they are; leave out `resolution`,"
            f" or give `patches` {o.resolution}"
        )
    refuse(o, ("crop", "resize_filter"), "with `patches` no photo is cropped or resized; leave it out", given)
    if o.metric_data:
        raise UserError(
            f"`metric_data` {o.metric_data}: photos made smaller are no measure for patches; leave it out, and FID"
            " compares with patches of the training photos"
        )
    return dataclasses.replace(o, resolution=o.patches)


def _check_idle(o: Options, given: Collection[str], *, fresh: bool) -> None:
    """UserError for an option that does nothing beside the others.

    fresh: a new run, in which what differs from its default was asked for; one that goes on has the old run's options,
    of which only the `given` count.
    """
    verdict = ("verdict_lr", "verdict_weight", "verdict_kimg", "trunk_grad_scale", "replay_capacity", "degradation",
               "consistency")  # fmt: skip
    fid = ("metric_data", "fid_dims", "fid_features", "fid_weights", "inception_weights")
    for names, idle, why in (
        (("target", "p_max"), o.aug != "ada", f"is of ADA, and `aug` is {o.aug}"),
        (("augpipe",), o.aug == "noaug", "chooses augmentations, and `aug` noaug has none"),
        (verdict, o.verdict_batch == 0, "is of the verdict head, which `verdict_batch` 0 does not let learn"),
        (fid, o.metrics == "none", "is of FID, which `metrics` none does not measure"),
        (("inception_weights",), o.fid_features != "inception", "is not what `fid_features` looks with"),
    ):
        if idle:
            refuse(o, [name for name in names if fresh or name in given], f"{why}; leave one of them out", given)


def _as_begun(cfg: GameConfig, saved: GameConfig, given: Collection[str]) -> GameConfig:
    """What a run keeps though a new one would have something else, with today's number of processes or version."""
    gamma = cfg.gamma if "gamma" in given else saved.gamma
    kept = dataclasses.replace(cfg, grown_from=saved.grown_from, odd_by_chance=saved.odd_by_chance)
    return dataclasses.replace(kept, gamma=gamma, ema_kimg=saved.ema_kimg).with_widths_of(saved)


def _steered(saved: GameConfig, cfg: GameConfig) -> list[str]:
    lines = []
    old, new = (c.hybrid.trunk.mbstd_group_size for c in (saved, cfg))
    if old != new:  # a preset's group is no larger than the share of a process
        lines.append(f"minibatch-std group {old} -> {new}")
    for name in STEERED:
        old, new = (getattr(c if hasattr(c, name) else c.options, name) for c in (saved, cfg))
        if old != new:
            lines.append(f"`{name}` {old:g} -> {new:g}")
    if bool(saved.gamma) != bool(cfg.gamma):
        raise UserError(
            f"`gamma` {cfg.gamma:g}: R1 was {'on' if saved.gamma else 'off'} from this run's beginning, and its"
            " optimiser is made for that; start a new run, or give a gamma"
            f" {'above 0' if saved.gamma else 'of 0'}"
        )
    return lines


def _resumed_options(
    o: Options, given: Collection[str], saved: GameConfig, checkpoint: Path, world: Processes
) -> Options:
    changes: dict = {}
    effective = {  # a value spelled out that is what the preset gave is no contradiction
        "resolution": saved.resolution,
        "batch": saved.batch,
        "verdict_batch": saved.verdict_batch,
        "mbstd_group": saved.hybrid.trunk.mbstd_group_size,
        "trunk_grad_scale": saved.hybrid.trunk_grad_scale,
    }
    for name in sorted(given):
        new, old = getattr(o, name), getattr(saved.options, name)
        if name in RESUMABLE or name in STEERED:
            changes[name] = new
        elif new not in (old, effective.get(name, old)):
            raise UserError(
                f"{checkpoint.parent}: this run was trained with `{name}` {effective.get(name, old)}, not {new};"
                f" leave `{name}` out or start a new run"
            )
    if saved.batch % world.size:
        whole = ", ".join(str(n) for n in range(1, saved.batch + 1) if saved.batch % n == 0)
        raise UserError(
            f"{checkpoint.parent}: this run's batch of {saved.batch} images cannot be shared by {world.size} processes;"
            f" go on with one of these numbers of them: {whole}"
        )
    changes["batch"] = saved.batch  # of some presets it grows with the processes, and all the run's counts rest on it
    if "batch_gpu" not in given and saved.batch // world.size % saved.batch_gpu == 0:
        changes["batch_gpu"] = saved.batch_gpu  # the same micro-batches, so the same draws
    changes.setdefault("data_root", o.data_root or saved.options.data_root)
    changes["outdir"] = str(checkpoint.parent.parent)
    changes["resolution"] = saved.resolution
    return dataclasses.replace(saved.options, **changes)


def _find_where_to_go_on(cfg: GameConfig, given: Collection[str], resumed: Resumed) -> None:
    """Another checkpoint in `resumed` where it must be: an ended game goes on from its own end, not from the frozen one
    after it."""
    run, step, phase = resumed.checkpoint.parent, int(resumed.state["game"]["step_index"]), resumed.state["phase"]
    kimg = step * cfg.batch / 1000
    longer = cfg.last_step > step
    if phase == "game" or not (
        longer or ("verdict_kimg" in given and cfg.verdict_steps != resumed.saved.verdict_steps)
    ):
        if phase == "done":
            raise UserError(
                f"{run}: this run is finished at {kimg:g} kimg; to train it longer, add `kimg` {2 * kimg:g}, say;"
                " to use it, give the folder to synth.py or detect.py"
            )
        return
    end_of_game = checkpoint_path(run, step)
    if not end_of_game.exists():
        raise UserError(
            f"{run}: the game of this run ended at {kimg:g} kimg and its checkpoint of that moment,"
            f" {end_of_game.name}, is gone; start a new run with `kimg` {cfg.kimg:g}"
        )
    resumed.checkpoint, resumed.state = end_of_game, load(end_of_game, "gan")
    if resumed.state["phase"] != "game":
        raise UserError(f"{end_of_game}: the game can't go on from here; start a new run with `kimg` {cfg.kimg:g}")


def describe(options: Options, *, given: Collection[str] = (), resume: str | None = None) -> dict:
    """The resolved configuration of what `train` would do, as plain JSON types; nothing is written or fetched."""
    with Processes.join(options.device) as world:
        p = plan(options, given, resume, world, fetch=False)
        splits = {name: getattr(p.splits, name) for name in ("train", "valid", "test")}
        counts = {name: len(s) for name, s in splits.items() if s is not None}
        resume = resume if p.resumed is None else str(p.resumed.checkpoint)
        return {**p.cfg.to_dict(), "images": counts, "resume": resume}


# ---- the folder ---------------------------------------------------------------------------------------------------


def check_space(outdir: Path, game: Game, keep: int, *, new: bool) -> None:
    """UserError if the disk has too little room for what a run keeps: better now than at its first checkpoint."""
    size = {n: sum(t.nbytes for t in getattr(game, n).state_dict().values()) for n in ("G", "D")}
    checkpoint = 4 * (size["G"] + size["D"]) + game.replay.images.nbytes  # networks, averages, two moments each
    needed = 4 * checkpoint + (keep + 2) * size["G"] + size["D"] if new else checkpoint
    there = outdir.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        typed, what = ("outdir", "for its checkpoints") if new else ("resume", "to save the next checkpoint")
        raise UserError(
            f"`{typed}` {outdir}: the disk has {free / 2**20:.0f} MB free and a run needs {needed / 2**20:.0f} MB"
            f" {what}; free some space or change the disk"
        )


def folder_name(cfg: GameConfig) -> str:
    """What stands behind the number of a run's folder."""
    size = f"patches{cfg.resolution}" if cfg.options.patches else str(cfg.resolution)
    return f"{Path(cfg.options.data).resolve().name or 'data'}-{size}-{cfg.options.cfg}"
