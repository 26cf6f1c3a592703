import numpy as np
import pytest
import torch

from common.errors import UserError
from metrics.path_length import path_lengths, summary


def squared(a, b):
    return (a - b).square().sum(dim=1)


def test_a_linear_world_has_a_closed_form():
    torch.manual_seed(0)
    mapping, synthesis = torch.randn(4, 6, dtype=torch.double), torch.randn(6, 10, dtype=torch.double)
    z = torch.randn(14, 4, dtype=torch.double)
    w = z @ mapping
    wanted = ((w[1::2] - w[0::2]) @ synthesis).square().sum(dim=1)
    for options in ({}, {"t": torch.rand(7, dtype=torch.double)}, {"epsilon": 0.1}):
        found = path_lengths(lambda z: z @ mapping, lambda ws: ws @ synthesis, squared, z, **options)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_a_bent_world_depends_on_the_place():
    z = torch.tensor([[0.0], [2.0]], dtype=torch.double)  # image = w^2, path w = 2 t, so the speed is 8 t
    for t, speed in ((0.0, 0.0), (0.5, 4.0)):
        t = torch.tensor([t], dtype=torch.double)
        found = path_lengths(lambda z: z, lambda w: w**2, squared, z, t=t)
        assert float(found) == pytest.approx(speed**2, abs=0.01)


def test_the_outermost_hundredths_do_not_count():
    lengths = np.arange(1.0, 301.0)  # places 2.99 and 296.01 of 0 … 299, rounded outwards: 3 … 298
    assert summary(np.random.default_rng(0).permutation(lengths)) == np.arange(3.0, 299.0).mean()
    assert summary(np.array([5.0])) == 5
    with pytest.raises(UserError, match="NaN"):
        summary(np.array([1.0, np.nan]))
    with pytest.raises(UserError, match="one pair"):
        summary(np.array([]))
