"""One network for many askers: what waits for it is judged at once, by one thread."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

import numpy as np

from common.errors import UserError
from discriminator.detector_base import DetectorBase, Raw

MOST = 32  # crops at once


class BatchingQueue(DetectorBase):
    """A detector that any number of threads may ask, in front of an engine that gains from many images at once.

    Nobody waits for a batch to fill: whatever has come while the network was busy is its next batch. A verdict is the
    engine's own, whatever it is judged together with."""

    def __init__(self, inner: DetectorBase, most: int = MOST):
        self.inner, self.most = inner, most
        self.preprocess, self.calibration, self.meta = inner.preprocess, inner.calibration, inner.meta
        self.join = inner.join
        self.sha256, self.source_sha256 = inner.sha256, inner.source_sha256
        self._asked: queue.SimpleQueue[tuple[np.ndarray, Future] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def raw(self, pixels: np.ndarray) -> Raw:
        """See `DetectorBase.raw`."""
        answer: Future = Future()
        self._asked.put((pixels, answer))
        return answer.result()

    def close(self) -> None:
        """What was asked before is still answered."""
        self._asked.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            asked = self._asked.get()
            part = []
            while asked is not None:
                part.append(asked)
                if sum(len(pixels) for pixels, _ in part) >= self.most:
                    break
                try:
                    asked = self._asked.get_nowait()
                except queue.Empty:
                    break
            self._answer(part)
            if asked is None:
                return

    def _answer(self, part: list[tuple[np.ndarray, Future]]) -> None:
        if not part:
            return
        try:
            out = self.inner.raw(np.concatenate([pixels for pixels, _ in part]))
        except UserError as error:
            if len(part) == 1:
                part[0][1].set_exception(error)
            else:  # one image's trouble is not its neighbours'
                for one in part:
                    self._answer([one])
            return
        except BaseException as error:
            for _, answer in part:
                answer.set_exception(error)
            return
        start = 0
        for pixels, answer in part:
            own = slice(start, start + len(pixels))
            maps, views = (None if one is None else one[own] for one in (out.maps, out.views))
            answer.set_result(Raw(out.logits[own], maps, views))
            start += len(pixels)
