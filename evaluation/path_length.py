"""Perceptual path length of a network, with a distance that is at hand, named in the result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.clock import clock
from common.errors import UserError
from common.words import counted
from evaluation.listener import Listener
from evaluation.options import GeneratorOptions
from metrics.inception import InceptionFeatures
from metrics.path_length import path_lengths, summary
from metrics.sampling import Sampling, draw_latents
from stylegan2_ada.generator import Generator
from synth.perceptual import Perceptual, find_backbone, load_backbone, of_layers
from training.processes import Processes

DISTANCES = ("auto", "vgg16", "squeezenet", "inception")
PAIRS = 4  # of one network call, so that no length depends on how many were asked for


def path_distance(wish: str, inception: Callable[[], InceptionFeatures]) -> Perceptual:
    """The distance for `ppl_distance`: 'vgg16' or 'squeezenet' (torchvision's ImageNet weights), 'inception' (the
    network of the other metrics, asked for only then), a weight file, or 'auto': VGG16 where its weights are here, else
    Inception.

    All of them are squared distances of unit-length features (Zhang et al. 2018), without LPIPS' learned weights.
    """
    if wish == "auto":
        try:
            return load_backbone(find_backbone("vgg16"))
        except UserError:
            wish = "inception"
    if wish == "inception":
        features = inception()
        layers = list(features.net)
        return of_layers(f"FID InceptionV3 features up to {features.dims}", layers, range(len(layers)), imagenet=False)
    if wish in ("vgg16", "squeezenet"):
        wish = str(find_backbone("squeezenet1_1" if wish == "squeezenet" else wish))
    elif not Path(wish).is_file():
        raise UserError(f"`ppl_distance` {wish}: neither one of {', '.join(DISTANCES)} nor a file: check the spelling")
    return load_backbone(wish)


def mean_path_length(
    G: Generator,
    distance: Perceptual,
    options: GeneratorOptions,
    sampling: Sampling,
    ranks: Processes,
    listener: Listener,
) -> float:
    """PPL of `options.num` pairs of latents in W at the end of paths, epsilon 1e-4, stored noise maps; the same on all
    ranks."""
    if options.class_index is not None:
        sampling = dataclasses.replace(sampling, labels=np.eye(G.cfg.c_dim, dtype=np.float32)[[options.class_index]])
    device = next(G.parameters()).device

    def work(job: int) -> np.ndarray:
        first = job * PAIRS
        z, c = draw_latents(G.cfg, sampling, 2 * first, 2 * (first + PAIRS))
        if c is not None:
            c = c[0::2].repeat_interleave(2, dim=0).to(device)  # a path stays within one class
        lengths = path_lengths(
            lambda z: G.mapping(z, c, psi=sampling.psi),
            lambda ws: G.synthesis(ws, noise_mode="const"),
            lambda a, b: distance.distance(distance.features(a), distance.features(b)),
            z.to(device),
        )
        return lengths.cpu().numpy()[: options.num - first]

    jobs = -(-options.num // PAIRS)
    work(0)
    began = time.perf_counter()
    work(0)
    listener.tell(
        f"path length: {counted(options.num, 'pair')}, about {clock((time.perf_counter() - began) * jobs / ranks.size)}"
    )
    found = []
    with listener.bar(total=options.num, title="path length", unit="pair") as bar:
        for part in ranks.share(jobs, work):
            found.append(part)
            bar.update(len(part))
    return summary(np.concatenate(found))
