"""Networks of one kind and one beginning as one network: the mean of their weights.

Wortsman et al. 2022, "Model soups" (arXiv 2203.05482): networks that were taught from the same weights, with other
seeds or settings, often lie in one valley, and their mean judges about as well as the mean of their answers, in the
time and space of one. Networks with different beginnings don't. What came of it has to be measured, as `evaluate.py
ensemble` does.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from common.errors import UserError
from discriminator.detector import Detector, fits_half, merge_norms, no_scale, round_to_half
from discriminator.origins import said_by_all


def soup(members: Sequence[Detector], names: Sequence[str]) -> Detector:
    """The network whose numbers are the means of the members', with the first one's preprocessing, and a calibration
    whose log-odds are its logits, to be set anew; its header has what all of theirs say. Rounded to float16 where all
    members are. UserError where the members are not of one architecture or look at photos in different ways."""
    first = members[0]
    for member, name in zip(members[1:], names[1:], strict=True):
        if member.net.cfg != first.net.cfg:
            raise UserError(f"{name}: is another network than {names[0]}; weights are averaged of one kind only")
        if member.preprocess != first.preprocess:
            raise UserError(f"{name}: looks at photos in another way than {names[0]}; their weights don't go together")
    nets = [copy.deepcopy(member.net) for member in members]
    rounded = all(any(fits_half(tensor) for tensor in net.state_dict().values()) for net in nets)
    merged = [merge_norms(net) for net in nets] if rounded else []  # as they are by then: nothing changes
    states = [net.state_dict() for net in nets]
    net = copy.deepcopy(nets[0])
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([state[key].double() for state in states]).mean(0))
    if rounded:
        for name in merged[0]:  # else the mean of two norms that only add would scale a little
            no_scale(net.get_submodule(name))
        round_to_half(net)
    plain = replace(first.calibration, temperature=1.0, bias=0.0)
    meta = said_by_all([member.meta for member in members]) | {"soup": {"of": [member.sha256 for member in members]}}
    mixed = Detector(net, first.preprocess, plain, meta)
    # scores are kept by it, and those of another soup are others
    mixed.sha256 = hashlib.sha256(f"the mean of {[m.sha256 for m in members]}".encode()).hexdigest()
    return mixed
