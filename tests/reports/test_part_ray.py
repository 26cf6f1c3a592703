"""What stands around Ray, tried with one that only listens; nothing here needs the package."""

from __future__ import annotations

import os
import signal
import sys
import types

import pytest

from common.errors import Ended
from discriminator.options import DetectOptions
from reports import part_ray
from reports.parts import Source


class Begun(Exception):
    """Ray would be asked to start."""


def ray(init=None):
    context = types.SimpleNamespace(get_current=lambda: types.SimpleNamespace())
    return types.SimpleNamespace(data=types.SimpleNamespace(DataContext=context), init=init)


def test_a_signal_means_after_ray_has_started_what_it_meant_before():
    """Ray's own is sys.exit(15): no 143, and no word of it."""
    before = signal.getsignal(signal.SIGTERM)

    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    try:
        part_ray._begin(ray(init))
        assert signal.getsignal(signal.SIGTERM) == before
        with pytest.raises(Ended) as ended:  # while it starts
            part_ray._begin(ray(lambda **_: (init(), os.kill(os.getpid(), signal.SIGTERM))))
        assert ended.value.number == signal.SIGTERM
        with pytest.raises(SystemExit):
            part_ray._begin(ray(lambda **_: sys.exit(3)))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("address", "flag"), [("", "0"), ("10.0.0.1:6379", None)])
def test_a_node_on_this_machine_listens_to_nobody_else(tmp_path, monkeypatch, address, flag):
    """Ray takes 127.0.0.1 for the machine's own address unless this is set before it is imported."""
    pytest.importorskip("pyarrow")
    flagged = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_ADDRESS": address})
    os.environ.pop(flagged, None)

    def is_initialized():
        raise Begun(os.environ.get(flagged))

    fake = types.ModuleType("ray")
    fake.data, fake.is_initialized = types.ModuleType("ray.data"), is_initialized
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", fake.data)
    with pytest.raises(Begun) as begun:
        part_ray.judge_by_ray(
            DetectOptions(inputs=("x",)), Source(["a.jpg"], {}), 1, tmp_path, tell=print, progress=lambda *_: None
        )
    assert begun.value.args == (flag,)
