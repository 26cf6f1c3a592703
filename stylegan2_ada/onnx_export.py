"""Export of a generator to ONNX: z and psi in, images out, for any ONNX runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.extras import lacking
from common.files import save_atomically

from .generator import Generator

NEEDED = ("onnx", "onnxscript")
OPSET = 18


class _Sampler(nn.Module):
    """z [N, z_dim], psi [1] (and labels c [N, c_dim]) -> images [N, C, R, R], everything in float32.

    Truncation is written out, because `Mapping` takes psi as a Python number.
    """

    def __init__(self, G: Generator, noise_mode: str):
        super().__init__()
        self.G, self.noise_mode = G, noise_mode

    def forward(self, z, psi, c=None):
        average = self.G.mapping.w_avg
        ws = average + psi.reshape(-1, 1, 1) * (self.G.mapping(z, c) - average)
        return self.G.synthesis(ws, noise_mode=self.noise_mode, force_fp32=True)


def export_onnx(path: str | os.PathLike, G: Generator, *, noise_mode: str = "const", batch: int | None = None) -> None:
    """Write a generator as an ONNX file with inputs `z` [N, z_dim] and `psi` [1] (and `c` [N, c_dim] where it is
    conditional), and the output `image` [N, C, R, R], nominally in [-1, 1] and not clipped.

    Weights above 2 GB don't occur, so it is one file. G: on the CPU. noise_mode: 'const' or 'none'; random noise has no
    place in a graph that gives the same image for a z. batch: N where it is fixed. UserError without the packages that
    torch's exporter needs.
    """
    if noise_mode not in ("const", "none"):
        raise UserError(f"noise_mode must be const or none in an ONNX file, got {noise_mode!r}")
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        needs = f"{path}: exporting to ONNX needs {' and '.join(absent)}"
        raise UserError(lacking(needs, "onnx"))
    path, cfg, n = Path(path), G.cfg, batch or 2
    inputs: dict[str, torch.Tensor] = {"z": torch.ones(n, cfg.z_dim), "psi": torch.ones(1)}
    shapes: dict[str, dict | None] = {"z": {0: "N"}, "psi": None}
    if cfg.c_dim:
        inputs["c"], shapes["c"] = torch.eye(cfg.c_dim)[[0] * n], {0: "N"}
    with quiet_exporter():
        program = torch.onnx.export(
            _Sampler(G, noise_mode).eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["image"],
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=None if batch else shapes,
            external_data=False,
            verbose=False,
        )
    # with dynamo=True there is always a program
    save_atomically(path, lambda tmp: program.save(str(tmp), external_data=False))  # type: ignore[union-attr]


@contextlib.contextmanager
def quiet_exporter():
    """The exporter's progress and hints are for its developers."""
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
