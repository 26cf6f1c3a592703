"""The processes of torchrun, and the few things they do together; with one process all of it is free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import UserError

T = TypeVar("T")
LOST_PROCESS = (
    "another process of this training has gone; torchrun --max-restarts N goes on by itself, without it give `resume`"
)
PATIENCE = timedelta(hours=4)  # the others wait while rank 0 reads the images, or computes what can't be shared


@dataclass(frozen=True)
class Processes:
    """This process among its peers: `rank` in [0, size), `device` its own. The default is a process on its own.

    Every method with a result is called by all of them, in the same order. `objects`: the group that sends Python
    objects (None: the one that sends tensors does).
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    objects: Any = None  # torch says that a new group may be a number

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    # ---- joining and leaving -----------------------------------------------------------------------------------

    @classmethod
    def join(cls, device: str | torch.device = "cpu") -> Processes:
        """Join the group that torchrun announced in the environment (NCCL on GPUs, gloo elsewhere), or stand alone.

        Of several processes each takes its own GPU; one on its own takes that which is named, as cuda:1, or the first.
        Raises UserError, on every rank, for more processes than GPUs, and for several on a GPU that is named.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        own = torch.device(device)
        if own.type == "cuda":
            here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            if here > torch.cuda.device_count():
                raise UserError(
                    f"torchrun's nproc_per_node {here}: more processes than the {torch.cuda.device_count()} GPUs; start"
                    " one for each GPU, or use `device` cpu"
                )
            if size > 1 and own.index is not None:
                raise UserError(
                    f"`device` {own}: each of torchrun's {size} processes takes a GPU of its own; give `device` cuda,"
                    " and choose among the GPUs with CUDA_VISIBLE_DEVICES"
                )
            if own.index is None:
                own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(own)
        objects = None
        if size > 1:
            if not dist.is_initialized():
                _meet("nccl" if own.type == "cuda" else "gloo", rank, size)
            if dist.get_backend() != "gloo":
                objects = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(rank, size, own, objects)

    def leave(self) -> None:
        """Close the process group if there is one."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exc) -> None:
        self.leave()

    def lost(self, error: BaseException) -> bool:
        """Whether `error` is that of a process that waited for another one which has gone."""
        words = ("Connection closed by peer", "Connection reset", "Broken pipe", "gloo", "NCCL", "recvValue failed")
        return self.size > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)

    # ---- tensors -----------------------------------------------------------------------------------------------

    def sum(self, x: Tensor) -> Tensor:
        """`x` summed over all ranks (in place)."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def sum_gradients(self, params: Iterable[nn.Parameter], extra: Tensor | None = None) -> None:
        """Add the gradients of all ranks in one flat all-reduce; `extra` (any 1-D tensor) is summed along, in place.

        Parameters without a gradient on this rank contribute zeros, so that all ranks always exchange the same layout.
        """
        if self.size == 1:
            return
        summed = [_gradient(p) for p in params if p.requires_grad] + ([] if extra is None else [extra])
        flat = torch.cat([x.to(summed[0].dtype).reshape(-1) for x in summed])
        dist.all_reduce(flat)
        for x, piece in zip(summed, flat.split([x.numel() for x in summed]), strict=True):
            x.copy_(piece.view_as(x))

    def average_gradients(self, params: Iterable[nn.Parameter]) -> None:
        """Make every rank's gradients the mean of all."""
        if self.size > 1:
            params = list(params)
            self.sum_gradients(params)
            for p in params:
                _gradient(p).div_(self.size)

    def broadcast(self, modules: Iterable[nn.Module]) -> None:
        """Give every rank rank 0's parameters and buffers."""
        if self.size > 1:
            for module in modules:
                for tensor in [*module.parameters(), *module.buffers()]:
                    dist.broadcast(tensor.data, src=0)

    # ---- decisions ---------------------------------------------------------------------------------------------

    def smallest(self, x: int) -> int:
        """The smallest `x` of all ranks."""
        if self.size == 1:
            return x
        value = torch.tensor([x], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value)

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def told(self, value: T) -> T:
        """Rank 0's value (anything that can be pickled), on all."""
        return self.main_does(lambda: value)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    # ---- work --------------------------------------------------------------------------------------------------

    def main_does(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on every rank. An exception there is raised on all."""
        if self.size == 1:
            return work()
        box: list = [None]
        if self.is_main:
            try:
                box = [(work(), None)]
            except Exception as error:
                box = [(None, error)]
        dist.broadcast_object_list(box, src=0, group=self.objects)
        result, trouble = box[0]
        if trouble is not None:
            raise trouble
        return result

    def share(self, jobs: int, work: Callable[[int], T]) -> Iterator[T]:
        """work(0), work(1), … work(jobs - 1) in this order, on every rank; each is computed by one of them.

        `work` must return something that can be pickled, and must not raise on some ranks only: return what went wrong.
        """
        if self.size == 1:
            yield from map(work, range(jobs))
            return
        for first in range(0, jobs, self.size):
            job = first + self.rank
            done = work(job) if job < jobs else None
            box: list = [None] * self.size
            dist.all_gather_object(box, done, group=self.objects)
            yield from box[: min(self.size, jobs - first)]


def _meet(backend: str, rank: int, size: int) -> None:
    """Make the group of processes that torchrun announced.

    torchrun keeps one store of addresses through all its restarts, in which those of dead processes remain: each
    attempt writes its own into a part of it. (With several machines their counts of attempts may differ.)
    """
    store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=PATIENCE))
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1:
        store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"the {size} processes of this training can't reach each other ({reason})") from None


def _gradient(p: nn.Parameter) -> Tensor:
    """The gradient of a parameter; zeros in its place where there is none yet."""
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    return p.grad
