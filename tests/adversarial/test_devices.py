"""What machines without float64 (Apple's GPUs) and without POSIX modules (Windows) need, held to on any machine."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylegan2_ada.ada import AugmentPipe
from stylegan2_ada.ada_pipes import AUGPIPES
from synth.options import Rendering
from synth.sample import sample
from training.stats import Stats

ROOT = Path(__file__).resolve().parents[2]
POSIX_ONLY = {"fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty"}


class Float64(TorchDispatchMode):
    """Collects the operations whose result is float64; those would fail on Apple's GPUs.

    What comes from numpy may be float64 until it is cast on its way to the device, and the functions in ON_CPU work
    out constants there.
    """

    ON_CPU = {"_banded", "_separate"}

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if func != torch.ops.aten.lift_fresh.default and any(t.dtype == torch.float64 for t in tensors):
            frame, callers = sys._getframe(), set()
            while frame is not None:
                callers.add(frame.f_code.co_name)
                frame = frame.f_back
            if not callers & self.ON_CPU:
                self.found.add(str(func))
        return out


@pytest.mark.parametrize("augpipe", ["bgcfnc", "face"])
def test_no_step_of_training_computes_in_float64(make_game, augpipe):
    options = {"aug": "fixed", "p": 0.9, "augpipe": augpipe, "generator_verdict_weight": 0.1, "trunk_grad_scale": 0.1}
    game = make_game(**options)
    game.stats.dtype = torch.float32  # as on such a device
    for _ in range(2):
        game.step()
    with Float64() as seen:  # every turn is due in the third step
        game.step()
    assert not seen.found


def test_sums_of_a_tick_are_float32_on_devices_without_float64():
    stats = Stats(torch.device("mps"))
    assert stats.dtype == torch.float32 and Stats(torch.device("cpu")).dtype == torch.float64


@pytest.mark.parametrize("name", AUGPIPES)
def test_no_augmentation_computes_in_float64(name):
    pipe = AugmentPipe(AUGPIPES[name])
    pipe.p.fill_(1.0)
    images = torch.rand(4, 3, 16, 16, requires_grad=True)
    pipe(images)
    with Float64() as seen:
        pipe(images).sum().backward()
    assert not seen.found


def test_sampling_computes_in_float32(make_game):
    G = make_game().G_ema
    with Float64() as seen:
        assert sample(G, range(3), Rendering(psi=0.7)).dtype == np.uint8
    assert not seen.found


def test_the_hybrid_discriminator_computes_in_float32(make_game):
    net = make_game().D_ema
    with Float64() as seen:
        net(torch.rand(4, 3, 8, 8))
    assert not seen.found


def test_no_module_needs_what_windows_lacks():
    """Such modules are imported inside functions, where their absence is caught."""
    rooms = [d for d in ROOT.iterdir() if d.is_dir() and d.name != "tests" and not d.name.startswith((".", "_"))]
    files = [*ROOT.glob("*.py"), *(p for room in rooms for p in room.rglob("*.py"))]
    assert len(files) > 50
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not POSIX_ONLY & {name.split(".")[0] for name in names}, path
    assert sys.platform != "win32" or "fcntl" not in sys.modules
