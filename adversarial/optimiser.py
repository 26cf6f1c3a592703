"""Adam as StyleGAN2 uses it: with beta1 = 0, and corrected for lazy regularisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from stylegan2_ada.ops import optimise
from stylegan2_ada.ops.native import path


class FusedAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) as one kernel of PyTorch's over all weights, with little memory.

    With beta1 = 0 the first moment is the gradient itself, and no memory is spent on it: the kernel is given the
    gradient in that place (element by element it reads both before it writes). `torch.optim.Adam` keeps it, a quarter
    of all that training a network needs to remember; and making any `torch.optim.Optimizer` loads PyTorch's compiler,
    0.15 GB and seconds, which nothing here asks for. The state dict is that of `torch.optim.Adam`, but for what is not
    there: `PlainAdam` reads it.

    found_inf: None, or a scalar tensor; where it is 1 on a GPU the step changes nothing, and the host needn't know.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.params = list(params)
        self.param_groups: list[dict[str, Any]] = [{"params": self.params, "lr": lr, "betas": betas, "eps": eps}]
        self.found_inf: Tensor | None = None
        # At once and not at the first step: what stays must not lie between activations that go, and keep their room.
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {
            p: {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p) if betas[0] else p.new_empty(0, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
            for p in self.params
        }

    @torch.no_grad()
    def step(self) -> None:
        """One update of the weights that have a gradient."""
        (group,) = self.param_groups
        beta1, beta2 = group["betas"]
        params = [p for p in self.params if p.grad is not None]
        if not params:
            return
        grads = [p.grad for p in params if p.grad is not None]
        state = [self.state[p] for p in params]
        steps = [s["step"] for s in state]
        squares = [s["exp_avg_sq"] for s in state]
        if not beta1 and self.found_inf is None and optimise.fits(params, grads, squares):
            optimise.adam_(params, grads, squares, steps, group["lr"], beta2, group["eps"])
            return
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            [*params],
            grads,
            [s["exp_avg"] for s in state] if beta1 else grads,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=self.found_inf,
        )
        if self.found_inf is not None:
            torch._foreach_sub_(steps, [self.found_inf] * len(steps))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict:
        """In the format of `torch.optim.Adam`, without the first moment where beta1 is 0 and without its switches."""
        (group,) = self.param_groups
        return {
            "state": {i: dict(self.state[p]) for i, p in enumerate(self.params)},
            "param_groups": [{**group, "params": list(range(len(self.params)))}],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave. Raises ValueError where it is of other weights."""
        (group,), (saved,) = self.param_groups, state["param_groups"]
        _check_count(saved, self.params)
        group.update({k: tuple(saved[k]) if k == "betas" else saved[k] for k in ("lr", "betas", "eps")})
        for i, p in enumerate(self.params):
            moments = state["state"].get(i)  # torch.optim.Adam has none before the first step
            for name, own in self.state[p].items():
                if moments is None:
                    own.zero_()
                elif name != "exp_avg" or own.numel():
                    if own.shape != moments[name].shape:
                        raise UserError(f"{name} of weight {i} has shape {list(moments[name].shape)}")
                    own.copy_(moments[name])


def _check_count(saved: dict, params: list[nn.Parameter]) -> None:
    if len(saved["params"]) != len(params):
        raise UserError(f"an optimiser of {len(saved['params'])} weights, not of {len(params)}")


class PlainAdam(torch.optim.Adam):
    """PyTorch's own, which also goes on from what `FusedAdam` saved: a run may move to where that kernel isn't."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of either. Raises ValueError where it is of other weights."""
        (group,), (saved,) = self.param_groups, state_dict["param_groups"]
        params = group["params"]
        _check_count(saved, params)
        state = {i: dict(moments) for i, moments in state_dict["state"].items()}
        for i, moments in state.items():
            if not moments["exp_avg"].numel():  # beta1 = 0: the first step puts the gradient there, whatever it was
                moments["exp_avg"] = torch.zeros_like(params[i])
        (own,) = self.state_dict()["param_groups"]
        super().load_state_dict({"state": state, "param_groups": [{**own, **saved}]})


def adam(params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]) -> FusedAdam | PlainAdam:
    """Adam with eps 1e-8: fused where PyTorch has the kernel; on the reference path as PyTorch chooses."""
    params = list(params)
    if path() == "reference" or not params or params[0].device.type not in ("cpu", "cuda"):
        return PlainAdam(params, lr=lr, betas=betas, eps=1e-8)
    return FusedAdam(params, lr, betas, eps=1e-8)


def lazy_adam(params: Iterable[nn.Parameter], lr: float, interval: int | None) -> FusedAdam | PlainAdam:
    """Adam(0, 0.99) for a network that is regularised every `interval` steps (None: in every step or never).

    One optimiser does the steps of the loss and those of the regulariser, which are `interval + 1` where there were
    `interval`; with c = interval / (interval + 1), lr * c and 0.99 ** c do the same per image (StyleGAN2, Karras et al.
    2020, appendix B).
    """
    ratio = interval / (interval + 1) if interval else 1.0
    return adam(params, lr * ratio, (0.0, 0.99**ratio))
