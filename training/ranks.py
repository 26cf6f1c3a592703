"""Sharing work among the processes of torchrun so that the result is that of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")
_PATIENCE = timedelta(hours=4)  # the others wait while rank 0 computes what can't be shared


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. `group` can send CPU objects; None alone."""

    rank: int = 0
    size: int = 1
    group: object = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def join(cls) -> Ranks:
        """The processes of the running process group; this process alone where there is none. All of them must call
        it."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_PATIENCE))

    def share(self, jobs: int, work: Callable[[int], T]) -> Iterator[T]:
        """work(0), work(1), … work(jobs - 1) in this order, on every rank; each is computed by one of them.

        `work` must return something that can be pickled, and must not raise on some ranks only: return what went wrong.
        """
        for first in range(0, jobs, self.size):
            job = first + self.rank
            done = work(job) if job < jobs else None
            if self.size == 1:
                yield done
                continue
            box: list = [None] * self.size
            dist.all_gather_object(box, done, group=self.group)
            yield from box[: min(self.size, jobs - first)]

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
        dist.broadcast_object_list(box, src=0, group=self.group)
        result, error = box[0]
        if error is not None:
            raise error
        return result
