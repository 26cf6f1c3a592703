"""One way into networks of every kind: this project's generator files, published snapshots, torch checkpoints.

What a file is follows from its first bytes, not from its name; nothing in it is executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common import reading
from common.errors import UserError

from .files import FORMAT as GENERATOR_FORMAT
from .files import load_generator
from .generator import Generator
from .networks import NETWORKS, Networks
from .official import read_snapshot
from .published import FORMAT as PUBLISHED_FORMAT
from .published import from_published, is_published
from .rosinality import from_rosinality, is_rosinality
from .torch_files import OLD, read_torch
from .unpickle import Refused

KINDS = (
    "a generator-*.safetensors of a run, a .pkl of stylegan2-ada-pytorch, a rosinality .pt or a state dict under"
    " published names"
)


def read_networks(path: str | os.PathLike, wanted: Iterable[str] = NETWORKS) -> Networks:
    """The networks of a file of any known kind, on the CPU, in evaluation mode and without gradients.

    wanted: which of G_ema, G and D to build where the file has them. A file with only G gives it as G_ema too, if that
    is wanted. UserError that names the file where it is absent, damaged or of another kind.
    """
    path, wanted = Path(path), tuple(wanted)
    try:
        networks = _read(path, wanted)
    except Refused as e:
        raise UserError(f"{path}: {e}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give {KINDS}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give {KINDS}") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e}); give {KINDS}") from None
    if networks.G_ema is None and "G_ema" in wanted:
        networks.G_ema = networks.G if networks.G is not None else _read(path, ("G",)).G
        if networks.G_ema is not None:
            networks.notes.append("the file has no averaged generator: the training's own is used")
    return networks


def load_any_generator(path: str | os.PathLike, device: str | torch.device = "cpu") -> tuple[Generator, dict]:
    """The averaged generator of a network file of any kind, in evaluation mode and without gradients, and what the
    file says about it (`notes`: lines for the user). ValueError as in `read_networks`, or where it has none."""
    networks = read_networks(path, ("G_ema",))
    if networks.G_ema is None:
        raise UserError(f"{path}: a {networks.kind} without a generator; give {KINDS}")
    return networks.G_ema.to(device), networks.meta | {"kind": networks.kind, "notes": networks.notes}


def _read(path: Path, wanted: tuple[str, ...]) -> Networks:
    with open(path, "rb") as file:
        head, size = file.read(64), os.fstat(file.fileno()).st_size
    if head.startswith(b"PK\x03\x04") or head.startswith(OLD):
        return _read_torch(path, wanted)
    # before pickles: the length of the header may begin as they do
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return _read_safetensors(path, wanted)
    if head[:1] == b"\x80":
        return read_snapshot(path, wanted)
    if head.lstrip()[:1] == b"<":
        raise Refused("a web page, not a network: the download gave a page instead of the file; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise Refused("a pointer of git-lfs, not the network itself; run `git lfs pull` where it came from")
    raise Refused(f"not a network file; give {KINDS}")


def _read_safetensors(path: Path, wanted: tuple[str, ...]) -> Networks:
    try:
        with safe_open(path, framework="pt") as f:
            header = f.metadata() or {}
            if header.get("format") != GENERATOR_FORMAT:
                state = {name: f.get_tensor(name) for name in f.keys()}
    except SafetensorError as e:
        raise Refused(f"damaged, or not a .safetensors file ({' '.join(str(e).split())[:200]})") from None
    if header.get("format") == GENERATOR_FORMAT:
        G, meta = load_generator(path)
        return Networks(G_ema=G if "G_ema" in wanted else None, meta=meta, kind="generator")
    if not is_published(state):
        kind = f"a {header['format']} file" if "format" in header else "a safetensors file of another program"
        raise Refused(f"{kind}, not a network of StyleGAN2; give {KINDS}")
    configs, meta = None, {}
    if header.get("format") == PUBLISHED_FORMAT:
        try:
            configs, meta = reading.json_of(header["config"]), reading.json_of(header["meta"])
        except (KeyError, ValueError):
            raise Refused("its header is damaged") from None
        if not isinstance(configs, dict) or not isinstance(meta, dict):
            raise Refused("its header is damaged")
    networks = from_published(state, wanted, configs)
    networks.meta = meta
    return networks


def _read_torch(path: Path, wanted: tuple[str, ...]) -> Networks:
    try:
        content = read_torch(path, mapped=True)
    except Refused as e:
        raise Refused(f"{e}; give {KINDS}") from None
    if not isinstance(content, dict):
        raise Refused(f"a torch file without a state dict; give {KINDS}")
    if "format" in content and "game" in content:
        raise Refused("a training checkpoint; give the generator-*.safetensors of its run folder")
    if is_rosinality(content):
        return from_rosinality(content, wanted)
    if is_published(content):
        return from_published(content, wanted)
    raise Refused(f"a torch file, but no StyleGAN2 network in it; give {KINDS}")
