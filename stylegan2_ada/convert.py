"""Convert network files: published snapshots, rosinality checkpoints and this project's generators, nothing executed.

    python -m stylegan2_ada.convert network-snapshot-025000.pkl faces.safetensors
    python -m stylegan2_ada.convert faces.safetensors faces-published.pt
    python -m stylegan2_ada.convert faces.safetensors faces.onnx
    python -m stylegan2_ada.convert faces.safetensors faces.pkl

SRC is a .pkl of stylegan2-ada-pytorch, a .pt in rosinality's layout, a generator-*.safetensors of a run, a state dict
under published names, or a URL (#sha256=<hash> at its end pins the content). What DEST becomes follows from its ending
or from --to:

  generator   .safetensors: the averaged generator, for synth.py --network and train_gan.py --resume
  published   .pt or .safetensors: every network of SRC under the parameter names of stylegan2-ada-pytorch, prefixed
              G_ema., G. and D.; the .pt loads with torch.load(weights_only=True)
  snapshot    .pkl: a training snapshot of stylegan2-ada-pytorch, to be read from that program's folder. Reading such a
              file runs what is in it: give it only to those who trust you
  onnx        .onnx: inputs z [N, z_dim] and psi [1] (and c [N, c_dim]), output image [N, C, R, R] in [-1, 1]
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from common import base  # noqa: F401  # isort: skip
from common.cli import EXIT_PIPE, ended_by_signals, explain, open_streams, to_nowhere
from common.errors import UserError, interrupted_code, one_line

ENDINGS = {".safetensors": "generator", ".pt": "published", ".pth": "published", ".onnx": "onnx", ".pkl": "snapshot"}
ALLOWED = {
    "generator": (".safetensors",),
    "published": (".pt", ".pth", ".safetensors"),
    "onnx": (".onnx",),
    "snapshot": (".pkl",),
}
FLAGS = {"half": "--half"}  # parameters that errors of the library name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m stylegan2_ada.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="network file or URL")
    parser.add_argument("target", metavar="DEST", type=Path, help="file to write")
    parser.add_argument("--to", choices=list(ALLOWED), help="what to write  [default: by the ending of DEST]")
    parser.add_argument("--onnx", dest="to", action="store_const", const="onnx", help="the same as --to onnx")
    parser.add_argument("--half", action="store_true", help="weights as float16: half the size, errors of about 0.1 %%")
    parser.add_argument("--noise", choices=["const", "none"], help="--to onnx: noise inputs  [const]")
    parser.add_argument("--batch", type=int, metavar="N", help="--to onnx: fixed batch size  [default: any]")
    parser.add_argument("--overwrite", action="store_true", help="replace DEST where it exists")
    return parser


def _kind(args: argparse.Namespace) -> str:
    """What to write, after checks that need no network."""
    ending = args.target.suffix.lower()
    kind = args.to or ENDINGS.get(ending)
    if kind is None:
        raise UserError(f"{args.target}: the ending says nothing; name it .safetensors, .pt, .pkl or .onnx")
    if ending not in ALLOWED[kind]:
        raise UserError(f"{args.target}: --to {kind} writes a {' or '.join(ALLOWED[kind])} file; change the ending")
    if args.batch is not None and (args.batch < 1 or kind != "onnx"):
        raise UserError(f"--batch {args.batch}: a number from 1 on, and only with --to onnx")
    if args.noise is not None and kind != "onnx":
        raise UserError(f"--noise {args.noise}: only with --to onnx; leave it out")
    if args.half and kind == "snapshot":
        raise UserError("--half: a snapshot is read as float32 by the published program; leave it out")
    if args.half and kind == "onnx":
        raise UserError("--half: an ONNX file is written in float32; convert it with your runtime's own tools")
    if not args.target.parent.is_dir():
        raise UserError(f"{args.target.parent}: no such folder; make it first")
    if args.target.is_dir():
        raise UserError(f"{args.target}: a folder; name a file in it")
    if args.target.exists():
        if Path(args.source).exists() and args.target.samefile(args.source):
            raise UserError(f"{args.target}: SRC and DEST are one file; choose another name")
        if not args.overwrite:
            raise UserError(f"{args.target}: exists already; choose another name or add --overwrite")
    return kind


def convert(args: argparse.Namespace) -> None:
    """Read, convert, write, and say what was done. UserError or ValueError, one line, where it cannot be."""
    kind = _kind(args)
    from .download import fetch, is_remote
    from .files import save_generator
    from .interop import read_networks
    from .networks import NETWORKS
    from .onnx_export import export_onnx
    from .published import save_published
    from .snapshot import save_snapshot

    path = fetch(args.source, _progress) if is_remote(args.source) else Path(args.source)
    networks = read_networks(path, NETWORKS if kind in ("published", "snapshot") else ("G_ema",))
    networks.meta |= {"source": path.name, "source_kind": networks.kind}
    if kind == "published":
        save_published(args.target, networks, half=args.half)
    elif kind == "snapshot" and networks.G_ema is not None:
        networks.notes += save_snapshot(args.target, networks)
    elif networks.G_ema is None:
        raise UserError(f"{path}: a {networks.kind} without a generator; use --to published")
    elif kind == "generator":
        save_generator(args.target, networks.G_ema, networks.meta, half=args.half)
    else:
        export_onnx(args.target, networks.G_ema, noise_mode=args.noise or "const", batch=args.batch)
    for note in networks.notes:
        print(f"note: {note}")
    found = {name: net.cfg.resolution for name in NETWORKS if (net := getattr(networks, name)) is not None}
    print(f"{path} ({networks.kind}: {', '.join(f'{name} {res}x{res}' for name, res in found.items())})")
    print(f"{args.target} ({kind}, {args.target.stat().st_size / 2**20:.1f} MB)")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        of = f"/{total / 2**20:.0f}" if total else ""
        print(
            f"\rdownloading {done / 2**20:.0f}{of} MB", end="\n" if done == total else "", file=sys.stderr, flush=True
        )


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 for what a user can mend, 130 after Ctrl-C, 143 after SIGTERM, 141 where
    the reader of its words has gone."""
    open_streams()
    try:
        with ended_by_signals():
            convert(_parser().parse_args(argv))
            sys.stdout.flush()
            return 0
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return interrupted_code(error)
    except BrokenPipeError:
        to_nowhere()
        return EXIT_PIPE
    except (ValueError, OSError) as e:
        if os.environ.get("FACES_DEBUG", "") not in ("", "0"):
            traceback.print_exception(e)
        text = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.strerror else explain(e, FLAGS) or str(e)
        print(f"error: {one_line(' '.join(text.split()))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
