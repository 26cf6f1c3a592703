"""The few collective operations the game needs; with one process all of them are free."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from common.errors import UserError

PATIENCE = timedelta(hours=4)  # the others wait while rank 0 reads the images, or measures FID at a snapshot


@dataclass(frozen=True)
class World:
    """This process among its peers: `rank` in [0, size), `device` its own device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def join_world(device: str) -> World:
    """Join the process group torchrun announced in the environment (NCCL on GPUs, gloo elsewhere), or stand alone.

    Raises UserError, on every rank, for more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    own = torch.device(device)
    if own.type == "cuda":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if here > torch.cuda.device_count():
            raise UserError(
                f"--nproc_per_node {here}: more processes than the {torch.cuda.device_count()} GPUs; start one for each"
                " GPU, or use --device cpu"
            )
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
    if size > 1 and not dist.is_initialized():
        backend = "nccl" if own.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
    return World(rank, size, own)


def leave_world() -> None:
    """Close the process group if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_gradients(params: Iterable[torch.nn.Parameter], world: World, extra: torch.Tensor | None = None) -> None:
    """Add the gradients of all ranks in one flat all-reduce; `extra` (any 1-D tensor) is summed along, in place.

    Parameters without a gradient on this rank contribute zeros, so that all ranks always exchange the same layout.
    """
    if world.size == 1:
        return
    params = [p for p in params if p.requires_grad]
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    parts = [p.grad.reshape(-1) for p in params]
    if extra is not None:
        parts.append(extra.to(parts[0].dtype).reshape(-1))
    flat = torch.cat(parts)
    dist.all_reduce(flat)
    pieces = flat.split([part.numel() for part in parts])
    for p, piece in zip(params, pieces, strict=False):
        p.grad.copy_(piece.view_as(p))
    if extra is not None:
        extra.copy_(pieces[-1].view_as(extra))


def sum_tensor(x: torch.Tensor, world: World) -> torch.Tensor:
    """`x` summed over all ranks (in place)."""
    if world.size > 1:
        dist.all_reduce(x)
    return x


def smallest(x: int, world: World) -> int:
    """The smallest `x` of all ranks."""
    if world.size == 1:
        return x
    value = torch.tensor([x], device=world.device)
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return int(value)


def broadcast_modules(modules: Iterable[torch.nn.Module], world: World) -> None:
    """Give every rank rank 0's parameters and buffers."""
    if world.size == 1:
        return
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, src=0)


def barrier(world: World) -> None:
    if world.size > 1:
        dist.barrier()


def parameters_agree(modules: Iterable[torch.nn.Module], world: World) -> bool:
    """Whether every rank holds bit-identical parameters and buffers (compared through a broadcast of rank 0's)."""
    if world.size == 1:
        return True
    equal = torch.ones(1, device=world.device)
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            other = tensor.detach().clone()
            dist.broadcast(other, src=0)
            if not torch.equal(other, tensor.detach()):
                equal.zero_()
    dist.all_reduce(equal, op=dist.ReduceOp.MIN)
    return bool(equal.item())
