"""Latents in files: what a projection found, ready to be rendered again."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from common import reading
from common.errors import UserError
from common.files import write_bytes, write_text
from stylegan2_ada.generator import Generator
from synth.latents import device_of
from synth.network import SILENT, Watch, open_generator
from synth.options import FromNetwork, ImageFile, ProjectionSettings, Rendering
from synth.projection import Projection, noise_maps
from synth.render import in_precision, render_ws, with_noise
from synth.writer import own_folder, refuse_existing, save_image

_NOISE = "noise."  # in front of a noise map's name
_MAX_BYTES = 1 << 30  # unpacked; a thousand W+ latents are 37 MB, the noise maps of a 1024-pixel network 11 MB


PROJECTION_FILES = ("target.png", "projection.png", "side-by-side.png", "projected_w.npz", "projection.json")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; infinite where they are equal."""
    error = np.square(a.astype(np.float64) - b).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def save_projection(
    folder: Path, target: np.ndarray, found: np.ndarray, result: Projection, settings: ProjectionSettings, facts: dict
) -> float:
    """Write `PROJECTION_FILES` into `folder`; returns the PSNR of the two images in dB.

    target, found: uint8 [C, R, R]; facts: what else the JSON file should say, plain values.
    """
    likeness = psnr(target, found)
    for name, image in zip(PROJECTION_FILES, (target, found, np.concatenate([target, found], axis=2))):
        save_image(folder / name, image)
    save_latents(folder / "projected_w.npz", result.ws[None], result.noises)
    steps = [
        {"step": step, "distance": round(distance, 6), "noise_penalty": float(f"{penalty:.4g}")}
        for step, distance, penalty in result.history
        if step % 10 == 0 or step == len(result.history) - 1
    ]
    report = facts | {
        "settings": asdict(settings),
        "psnr": None if math.isinf(likeness) else round(likeness, 3),
        "steps_per_second": round(result.speed, 3),
        "history": steps,
    }
    write_text(folder / "projection.json", json.dumps(report, indent=1))
    return likeness


def save_latents(path: str | Path, ws: torch.Tensor, noises: dict[str, torch.Tensor] | None = None) -> None:
    """Write ws [N, num_ws, w_dim] as the array `w` of an .npz (the published form), and noise maps beside it."""
    arrays = {"w": ws.float().cpu().numpy()}
    arrays |= {_NOISE + name: t.float().cpu().numpy() for name, t in (noises or {}).items()}
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]  # the stubs take a name for `allow_pickle`
    write_bytes(Path(path), data.getvalue())


def load_latents(path: str | Path, G: Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """ws [N, num_ws, w_dim] and noise maps (none in files of other programs) of an .npz, for the generator `G`.

    The array `w` may also be [num_ws, w_dim], or have a single layer, which is then used for all. UserError for a file
    that isn't such a one, or is of a generator of other shapes. No code in it is run."""
    path = Path(path)
    wanted = "give the projected_w.npz of a projection"
    try:
        takes = lambda name: name == "w" or name.startswith(_NOISE)  # noqa: E731
        arrays = dict(reading.npz_file(path, takes, most=_MAX_BYTES))
    except FileNotFoundError:
        raise UserError(f"`projected_w` {path}: no such file: check the path") from None
    except IsADirectoryError:
        raise UserError(f"`projected_w` {path}: is a folder: {wanted}") from None
    except (reading.Unreadable, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"`projected_w` {path}: can't be read ({reason}): {wanted}") from None
    if "w" not in arrays:
        raise UserError(f"`projected_w` {path}: has no array w: {wanted}")
    w, layers, width = arrays["w"], G.num_ws, G.cfg.w_dim
    if w.ndim == 2:
        w = w[None]
    if w.dtype.kind != "f" or w.ndim != 3 or w.shape[1] not in (1, layers) or w.shape[2] != width or not len(w):
        raise UserError(
            f"`projected_w` {path}: its latents are {w.dtype} {list(arrays['w'].shape)}, this generator's are"
            f" [N, {layers}, {width}]: give the `network` they were made with"
        )
    maps = noise_maps(G)
    noises = {name.removeprefix(_NOISE): a for name, a in arrays.items() if name != "w"}
    if noises and {k: a.shape for k, a in noises.items()} != {k: tuple(t.shape) for k, t in maps.items()}:
        raise UserError(
            f"`projected_w` {path}: its noise maps are another generator's: give the `network` it was made with"
        )
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in (w, *noises.values())):
        raise UserError(f"`projected_w` {path}: holds values that are not numbers: project the photo again")
    device = device_of(G)
    ws = torch.from_numpy(w.astype(np.float32)).to(device).expand(-1, layers, -1)
    return ws, {name: torch.from_numpy(a.astype(np.float32)).to(device) for name, a in noises.items()}


def render_projected(
    source: FromNetwork, path: Path, outdir: str | None, file: ImageFile, how: Rendering, watch: Watch = SILENT
) -> list[Path]:
    """Images of the latents saved in `path`, beside it or in `outdir`; returns their paths."""
    net, how = open_generator(source, how, watch, outdir=outdir)
    ws, noises = load_latents(path, net.G)
    folder = Path(outdir) if outdir else path.parent
    paths = [folder / f"proj{i:02d}.{file.format}" for i in range(len(ws))]
    with own_folder(folder):
        refuse_existing(paths, None)
        G = with_noise(in_precision(net.G, how.precision), noises)
        images = (image for block in render_ws(G, ws, noise_mode=how.noise_mode) for image in block)
        for to, image in zip(paths, images, strict=True):
            save_image(to, image, file)
    return paths
