"""A network between the weights its training began with and those it came to.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT, arXiv 2109.01903): along the straight line from
a pretrained network to the fine-tuned one, accuracy on other data than the training's often rises before accuracy on
the training's own falls. Batch norms' statistics belong to one point of the line and are found anew at another, as for
any mean of weights (Izmailov et al. 2018, arXiv 1803.05407, section 3.2). What came of it has to be measured, as
`evaluate.py ensemble --method wise-ft` does.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from common.errors import UserError
from discriminator.backbones import Borrowing, load_pretrained
from discriminator.detector import Detector, fits_half, merge_norms, round_to_half
from discriminator.levels import Levels
from discriminator.origins import without_origin
from discriminator.weights import bare_norms

BATCH = 32


def wise_ft(
    detector: Detector, name: str, backbone_weights: str, alpha: float, images: Iterable[np.ndarray]
) -> Detector:
    """The network whose body's numbers are alpha x the detector's + (1 - alpha) x the pretrained ones; the heads stay
    the detector's. Its calibration's log-odds are its logits, to be set anew. Rounded to float16 where the detector is.

    name: what the detector is called in errors. backbone_weights: a file or pip:PACKAGE (`discriminator.weights.read`).
    alpha: from 0 (pretrained) to 1 (the detector). images: as the detector prepares them, uint8 [R, R, 3], on
    which the statistics of batch norms are found. UserError where the network has no pretrained body, or other weights
    were given, or its norms' statistics are lost."""
    net = copy.deepcopy(detector.net)
    if not isinstance(net, Borrowing):
        raise UserError(f"{name}: a network that began with nobody's weights, so nothing lies between; give another")
    if isinstance(net, Levels):
        raise UserError(f"{name}: a probe, its body is as it began; nothing lies between. Give a network taught whole")
    if bare_norms(net.state_dict()):
        raise UserError(
            f"{name}: holds no statistics of its batch norms (an earlier --half left them out); give a run that still"
            " has its checkpoints"
        )
    begun = copy.deepcopy(net)
    assert isinstance(begun, Borrowing)
    origin = load_pretrained(begun, backbone_weights)
    if (begun.cfg.mean, begun.cfg.std) != (net.cfg.mean, net.cfg.std):
        raise UserError(
            f"`backbone_weights` {backbone_weights}: not what {name} began with (they expect other colours)"
        )
    rounded = any(fits_half(tensor) for tensor in net.state_dict().values())
    if rounded:  # the line is drawn where both have their norms' scales in the convolutions
        merge_norms(net)
        merge_norms(begun)
    old = begun.body.state_dict()
    if all(torch.equal(tensor, old[key]) for key, tensor in net.body.state_dict().items()):
        raise UserError(
            f"{name}: its body is as it began, so nothing lies between; give a network that was taught whole"
        )
    with torch.no_grad():
        for key, tensor in net.body.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(old[key], 1 - alpha)
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules()):
        device = next(net.parameters()).device
        update_bn((torch.from_numpy(x).to(device) for x in _batches(detector, images)), net)
    net.eval()
    if rounded:
        merge_norms(net)
        round_to_half(net)
    plain = replace(detector.calibration, temperature=1.0, bias=0.0)
    between = {"of": detector.sha256, "alpha": alpha, "pretrained": origin}
    made = Detector(net, detector.preprocess, plain, without_origin(detector.meta) | {"wise_ft": between})
    # scores are kept by it, and those of another place on the line are others
    made.sha256 = hashlib.sha256(f"{between}".encode()).hexdigest()
    return made


def _batches(detector: Detector, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    rest = iter(images)
    while len(some := list(islice(rest, BATCH))) > 1:  # one image has no deviation
        yield detector.preprocess.normalise(np.stack(some))
