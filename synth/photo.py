"""A photo's latents, from the photo's file to the files of what was found."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch

from common.words import counted
from faces.dataset import to_uint8
from faces.decode import load_image
from faces.preprocess import Preprocess
from stylegan2_ada.config import GeneratorConfig
from synth.behind import Behind
from synth.latents import check_class, device_of
from synth.network import SILENT, OpenedGenerator, Watch, open_generator
from synth.observer import choose_observer
from synth.options import FromNetwork, ProjectionSettings, ProjectOptions, Rendering
from synth.perceptual import Perceptual
from synth.projection import project
from synth.render import in_precision, render_ws, with_noise
from synth.saved import PROJECTION_FILES, save_projection
from synth.video import enlargement, open_video
from synth.writer import own_folder, refuse_existing

FILM = "projection.mp4"
FILM_FRAMES = 300  # at most so many steps are in it: ten seconds


def project_photo(
    source: FromNetwork,
    asked: ProjectOptions,
    settings: ProjectionSettings,
    how: Rendering,
    watch: Watch = SILENT,
) -> list[Path]:
    """Find a photo's latents and write `PROJECTION_FILES` and, if wished, the film of the search, into the folder that
    is returned.

    how: class and precision count, no truncation. UserError for what can't be, or where files would be replaced without
    leave.
    """
    pixels = load_image(asked.photo)
    net, how = open_generator(source, how, watch, outdir=asked.outdir)
    check_class(net.G, how.class_index)
    observer = choose_observer(asked.perceptual, net.G.cfg, net.path.parent)
    folder = net.place(asked.outdir, Path(asked.photo).stem)
    with own_folder(folder):
        _project_into(folder, net, observer, pixels, asked, settings, how, watch)
    return [folder]


def _project_into(
    folder: Path,
    net: OpenedGenerator,
    observer: Perceptual,
    pixels: np.ndarray,
    asked: ProjectOptions,
    settings: ProjectionSettings,
    how: Rendering,
    watch: Watch,
) -> None:
    G = net.G
    files = (*PROJECTION_FILES, FILM) if asked.save_video else PROJECTION_FILES
    refuse_existing([folder / name for name in files], asked.force)
    watch.tell(f"looking with {observer.name}")

    target = _target(pixels, asked.crop, G.cfg)
    goal = torch.tensor(target, device=device_of(G)).float() / 127.5 - 1
    every = max(1, settings.steps // FILM_FRAMES)
    with contextlib.ExitStack() as stack:
        later = None
        if asked.save_video:
            scale = enlargement(G.cfg.resolution)
            film = stack.enter_context(open_video(folder / FILM, scale=scale, force=asked.force))
            later = stack.enter_context(Behind(film.write))

        def on_step(step: int, image: torch.Tensor, distance: float) -> None:
            watch.progress(step + 1, settings.steps, f"distance {distance:.3f}")
            if later is not None and step % every == 0:
                seen = to_uint8(image).cpu().numpy()
                later(np.concatenate([target, seen], axis=2).transpose(1, 2, 0))

        result = project(G, goal, observer, settings, how, on_step=on_step)
    found = next(render_ws(with_noise(in_precision(G, "fp32"), result.noises), [result.ws]))[0]
    facts = {"photo": asked.photo, "crop": asked.crop, "network": str(net.path), "class": how.class_index}
    facts |= {"perceptual": observer.name, "precision": how.precision, "network_sha256": net.sha256}
    likeness = save_projection(folder, target, found, result, settings, facts)
    watch.tell(f"{counted(settings.steps, 'step')}, {result.speed:.1f} a second")
    first, last = result.history[0][1], result.history[-1][1]
    watch.tell(f"distance {first:.3f} -> {last:.3f}, PSNR {likeness:.1f} dB")


def _target(pixels: np.ndarray, crop: str, cfg: GeneratorConfig) -> np.ndarray:
    """A photo as an image of the generator: uint8 [C, R, R], opaque where it has an alpha channel."""
    target = Preprocess(cfg.resolution, crop, channels=min(cfg.img_channels, 3)).uint8(pixels).transpose(2, 0, 1)
    if cfg.img_channels == 4:
        target = np.concatenate([target, np.full_like(target[:1], 255)])
    return target
