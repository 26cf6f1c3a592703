"""Generator files: safetensors weights with a JSON header, written atomically; reading one runs no code from it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from common import seal
from common.errors import UserError
from common.files import write_bytes
from common.reading import json_of

from .config import GeneratorConfig
from .generator import Generator
from .names import published_shapes, to_ours

FORMAT = "stylegan2-ada-generator"


def save_generator(path: str | os.PathLike, G: Generator, meta: dict | None = None, *, half: bool = False) -> None:
    """Write a generator to `path`: all of it or nothing, also when the process dies half-way.

    meta: anything JSON can hold, for example kimg, FID, training data. half: weights as float16, half the size; they
    are float32 again when loaded. UserError for weights that float16 cannot hold.
    """
    header = {"format": FORMAT, "version": "1", "config": json.dumps(G.cfg.to_dict()), "meta": json.dumps(meta or {})}
    state = halved({name: t.detach().cpu().contiguous() for name, t in G.state_dict().items()}, half)
    header[seal.KEY] = seal.seal_of(header, _content(state))
    data = safetensors.torch.save(state, metadata=header)
    write_bytes(Path(path), data)


def halved(state: dict[str, torch.Tensor], half: bool = True) -> dict[str, torch.Tensor]:
    """The tensors in float16, or as they are. ValueError where one has a value that float16 cannot hold."""
    if not half:
        return state
    small = {name: t.half() for name, t in state.items()}
    for name, t in small.items():
        if not torch.isfinite(t).all():
            raise UserError(f"{name} has values beyond float16 (65504), or none at all; write it without `half`")
    return small


def load_generator(path: str | os.PathLike, device: str | torch.device = "cpu") -> tuple[Generator, dict]:
    """Read a generator written by `save_generator`, in evaluation mode and without gradients, and its `meta`; PyTorch's
    random state is left alone. FileNotFoundError, or UserError where the file is damaged or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such generator file")
    try:
        with safe_open(path, framework="pt") as f:
            header = f.metadata() or {}
            if header.get("format") == FORMAT:
                cfg, meta = _header(header)
                _check_shapes(cfg, {name: tuple(f.get_slice(name).get_shape()) for name in f.keys()})
                state = {name: f.get_tensor(name) for name in f.keys()}
    except SafetensorError as e:
        raise UserError(f"{path}: damaged, or not a .safetensors file ({_line(e)})") from e
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise UserError(
            f"{path}: the weights and the configuration in this generator file disagree ({_line(e)})"
        ) from None
    if header.get("format") != FORMAT:
        kind = f"a {header['format']} file" if "format" in header else "a safetensors file of another program"
        raise UserError(f"{path}: {kind}, not a generator; pass a generator-*.safetensors of a run folder")
    seal.check_seal(path, header, _content(state))
    if broken := next((name for name, t in state.items() if not torch.isfinite(t).all()), None):
        raise UserError(f"{path}: its {broken} holds values that are not numbers, so it draws nothing; give another")
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten at once
            G = Generator(cfg)
        G.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise UserError(
            f"{path}: the weights and the configuration in this generator file disagree ({_line(e)})"
        ) from None
    return G.eval().requires_grad_(False).to(device), meta


def _content(state: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    """The tensors' names, kinds, shapes and numbers, for a digest."""
    for name, tensor in sorted(state.items()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        yield tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes()


def _header(header: dict[str, str]) -> tuple[GeneratorConfig, dict]:
    config, meta = json_of(header["config"]), json_of(header["meta"])
    if not isinstance(config, dict) or not isinstance(meta, dict):
        raise UserError("its header is damaged")
    return GeneratorConfig.from_dict(config), meta


def _check_shapes(cfg: GeneratorConfig, found: dict[str, tuple[int, ...]]) -> None:
    """Before anything is made: a configuration may claim a terabyte. UserError where a file's tensors are others."""
    needed = to_ours(cfg, published_shapes(cfg))
    if other := sorted(set(needed) ^ set(found)):
        raise UserError(f"{other[0]} is {'missing' if other[0] in needed else 'unknown'}")
    for name, shape in needed.items():
        if found[name] != shape:
            raise UserError(f"{name} has shape {list(found[name])}, not {list(shape)}")


def _line(e: Exception) -> str:
    return " ".join(str(e).split())[:200]
