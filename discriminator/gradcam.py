"""Grad-CAM: which places of the last spatial feature map moved a network's answer, for any network.

R. R. Selvaraju et al., "Grad-CAM: Visual explanations from deep networks via gradient-based localization" (ICCV 2017),
equations 1 and 2: with feature maps A^k and the score y, alpha_k is the mean over places of dy / dA^k, and the map is
ReLU(sum_k alpha_k A^k). The patch map of an artefact branch needs none of this: there, every place has its own logit.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from discriminator.ensemble import Ensemble, mean_map
from discriminator.hybrid import HybridDiscriminator
from discriminator.network import Network
from discriminator.two_views import TwoViews

SMALLEST = 7  # places a side: a smaller map is taken only where no larger one is


def gradcam(net: Network, pixels: torch.Tensor, *, towards_fake: bool = True) -> np.ndarray | None:
    """What in the image spoke for FAKE (or for REAL): float32 [h, w] in [0, 1], its largest value 1 (or all 0).

    pixels: float [1, C, R, R] (or rows [1, L]) in [-1, 1]. Of two views the face's speaks. The map taken is the
    coarsest of at least SMALLEST places a side on the way to the logit, and of those the last. None where the network
    has no such map."""
    if isinstance(net, Ensemble):
        return _of_members(net, pixels, towards_fake)
    if isinstance(net, TwoViews):  # the crops lie elsewhere
        return gradcam(net.face, net.preprocess.split(pixels)[0], towards_fake=towards_fake)
    maps: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.requires_grad and min(output.shape[2:]) > 1:
            maps.append(output)

    net = with_gradients(net)
    hooks = [module.register_forward_hook(keep) for module in net.modules()]
    try:
        with torch.enable_grad():
            image = pixels.detach().clone().requires_grad_()
            logit = net.verdict(image).logit.sum()
            gradients = torch.autograd.grad(logit if towards_fake else -logit, maps, allow_unused=True) if maps else ()
    finally:
        for hook in hooks:
            hook.remove()
    used = [(a, g) for a, g in zip(maps, gradients) if g is not None]
    if not used:
        return None
    large = [pair for pair in used if min(pair[0].shape[2:]) >= SMALLEST]
    if large:
        side = min(min(a.shape[2:]) for a, _ in large)
    else:
        large, side = used, max(min(a.shape[2:]) for a, _ in used)
    activations, gradient = [pair for pair in large if min(pair[0].shape[2:]) == side][-1]
    weights = gradient.float().mean((2, 3), keepdim=True)
    return _to_one((weights * activations.detach().float()).sum(1)[0].relu())


def _of_members(net: Ensemble, pixels: torch.Tensor, towards_fake: bool) -> np.ndarray | None:
    """The mean of the members' maps, at the size of the largest, its own largest value 1; of those members whose view
    of a photo lies where the ensemble's does."""
    found = [
        gradcam(member, x, towards_fake=towards_fake)
        for member, x, place in zip(net.networks, net.inputs(pixels), net.cfg.members, strict=True)
        if place.preprocess.crop == net.preprocess.crop
    ]
    maps = [torch.from_numpy(cam)[None] for cam in found if cam is not None]
    return _to_one(mean_map(maps)[0]) if maps else None


def _to_one(cam: torch.Tensor) -> np.ndarray:
    """Scaled so that its largest value is 1, where it has any."""
    largest = float(cam.max())
    return (cam / largest if largest > 0 else cam).cpu().numpy()


def with_gradients(net: Network) -> Network:
    """The network itself, but for hybrids in it that keep the verdict's gradient out of their trunk: there the gradient
    is what is looked for. The weights are shared."""
    if isinstance(net, HybridDiscriminator):
        net = copy.copy(net)
        net.cfg = replace(net.cfg, trunk_grad_scale=1.0)
    elif isinstance(net, Ensemble):
        net = copy.copy(net)
        net.networks = tuple(map(with_gradients, net.networks))
    elif isinstance(net, TwoViews):
        net = copy.copy(net)
        net._modules = {**net._modules, "face": with_gradients(net.face)}
    return net
