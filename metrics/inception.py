"""Image features for FID-like metrics: pixels in, vectors of the 2015-12-05 InceptionV3 out.

What makes it fast and leaves the function as it was, up to float32 rounding, besides the network's own form
(`metrics.network`): tensors are channels-last and go through in chunks of 8 images, which keeps the working set in
cache; on a CPU, convolutions of our own with fewer multiplications (`metrics.native_network`), or ONNX Runtime.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from common.errors import UserError
from metrics.network import build, taker
from metrics.resize import RESIZES, network_input
from metrics.weights import load_folded

if TYPE_CHECKING:
    from metrics.native_network import NativeNetwork

DIMS = (64, 192, 768, 2048)
"""Feature widths: after the first max pool, the second, the last 17x17 block, and the final pool."""

RUNTIMES = ("auto", "native", "onnx", "torch")
"""What computes on a CPU; on a GPU PyTorch does. 'auto': 'native', compiled code, where it can be had, else 'onnx'."""

_CHUNK = {"native": 8, "onnx": 16, "torch": 8}
_SMALLEST_INPUT = 75  # below this a valid (unpadded) 3x3 step has nothing left to read


class InceptionFeatures(nn.Module):
    """Image features for FID-like metrics: uint8 [N, 3, H, W] -> float32 [N, dims], spatially averaged.

    weights: a file of pytorch-fid's own (see ``metrics.weights.find_weights``) or a trunk with batch norm folded. dims:
    64, 192, 768 or 2048; distances of different ``dims`` are different quantities; None: 2048, or 768 where the file is
    a trunk. resize: one of ``metrics.resize.RESIZES``. chunk: images per pass through the network; changes speed and
    memory, not results; None: what suits the runtime. runtime: one of ``RUNTIMES``; all give the same features to about
    1e-6 of their size.

    Attributes ``dims``, ``resize``, ``weights_sha256`` say which features these are; keep them with every number.
    ``used`` is the runtime of the last images, None before the first. ``classifier`` is float32 [1008, 2048], the
    weights of the class scores without their bias (what the Inception Score needs), or None where the file or the width
    has none.

    UserError for a file that is not these weights, that lacks the layers ``dims`` needs, or an unknown option.
    """

    name = "inception"

    def __init__(
        self,
        weights: str | Path,
        dims: int | None = 2048,
        *,
        resize: str = "tf1",
        chunk: int | None = None,
        runtime: str = "auto",
    ):
        super().__init__()
        if dims is not None and dims not in DIMS:
            raise UserError(f"Inception features have {', '.join(map(str, DIMS))} dimensions, not {dims}; choose one")
        if resize not in RESIZES:
            raise UserError(f"resize '{resize}' is unknown; choose one of {', '.join(RESIZES)}")
        if chunk is not None and chunk < 1:
            raise UserError(f"chunk is {chunk}; give 1 image or more per pass")
        if runtime not in RUNTIMES:
            raise UserError(f"runtime '{runtime}' is unknown; choose one of {', '.join(RUNTIMES)}")
        folded, self.weights_sha256 = load_folded(weights)
        trunk = "Mixed_7a.branch3x3_1" in folded and "Mixed_7c.branch1x1" not in folded
        if dims == 2048 and trunk:
            raise UserError(
                f"{weights}: this file is a trunk without Mixed_7b and Mixed_7c and cannot give 2048 dimensions; "
                "ask for 64, 192 or 768, or give pytorch-fid's full weights"
            )
        self.dims = dims or (768 if trunk else 2048)
        self.resize, self._chunk, self._wish = resize, chunk, runtime
        self.net = build(taker(folded, str(weights)), self.dims).to(memory_format=torch.channels_last).eval()
        self.classifier = folded["fc"][0] if self.dims == 2048 and "fc" in folded else None
        self.used: str | None = None
        self._session: tuple[int, Any] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def runtime(self) -> str:
        """'native', 'onnx' or 'torch': what computes the features where this module is now. UserError where 'native'
        was asked for and this machine has no such code."""
        if self.device.type != "cpu":
            return "torch"
        if self._wish in ("onnx", "torch"):
            return self._wish
        from metrics.native_network import usable  # compiles the code where that was not yet done

        if usable(self.net):
            return "native"
        if self._wish == "native":
            raise UserError(
                "runtime 'native': there is no compiled code for this machine (python -m stylegan2_ada.ops tells why); "
                "use 'auto', 'onnx' or 'torch'"
            )
        return "onnx"

    @property
    def chunk(self) -> int:
        """Images per pass."""
        return self._chunk or (_CHUNK[self.runtime] if self.device.type == "cpu" else 64)

    def describe(self) -> dict:
        """What identifies these features, ready for a result or a cache key."""
        return {"dims": self.dims, "resize": self.resize, "weights_sha256": self.weights_sha256}

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of uint8 images [N, 3, H, W] (one grey channel is repeated), on the device of this module."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"Inception features need uint8 images [N, 3, H, W], got {str(images.dtype).removeprefix('torch.')} "
                f"{list(images.shape)}; convert them first"
            )
        if self.resize == "none" and min(images.shape[2:]) < _SMALLEST_INPUT:
            raise UserError(
                f"images of {images.shape[2]}x{images.shape[3]} are too small for resize 'none' "
                f"(at least {_SMALLEST_INPUT}x{_SMALLEST_INPUT}); use resize 'tf1' or 'clean'"
            )
        device, chunk = self.device, self.chunk
        out = torch.empty(len(images), self.dims, device=device)
        self.used = self.runtime
        # TF32 would cost three digits of the features; a caller's autocast would cost more.
        with (
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            torch.autocast(device.type, enabled=False),
        ):
            for start in range(0, len(images), chunk):
                x = network_input(images[start : start + chunk].to(device), self.resize)
                out[start : start + chunk] = self._by_onnx(x) if self.used == "onnx" else self._by_torch(x)
        return out

    def _by_torch(self, x: torch.Tensor) -> torch.Tensor:
        return (self._native if self.used == "native" else self.net)(x).mean(dim=(2, 3))

    @functools.cached_property
    def _native(self) -> NativeNetwork:
        from metrics.native_network import NativeNetwork

        return NativeNetwork(self.net)

    def _by_onnx(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._onnx().run(None, {"x": x.contiguous().numpy()})[0])

    def _onnx(self):
        """ONNX Runtime's session, with as many threads as PyTorch has; made at the first use."""
        threads = torch.get_num_threads()
        if self._session is None or self._session[0] != threads:
            import onnxruntime

            from metrics.onnx_graph import onnx_model

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            # Its threads would spin while they wait, and take the cores from the threads that decode the next images.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(onnx_model(self.net), options, providers=["CPUExecutionProvider"])
            self._session = (threads, session)
        return self._session[1]
