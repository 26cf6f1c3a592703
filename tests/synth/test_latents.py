"""Seeds, classes and truncation become latents."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from synth.latents import one_hot, ws_from_seeds, z_from_seed
from synth.options import Rendering, parse_seeds


def test_ws_are_the_mapping_of_the_seeds_latents(G):
    seeds = [3, 200, 4]
    z = torch.tensor(np.stack([z_from_seed(s, 32) for s in seeds]), dtype=torch.float32)
    torch.testing.assert_close(ws_from_seeds(G, seeds), G.mapping(z), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ws_from_seeds(G, seeds, Rendering(psi=0.5, cutoff=2)), G.mapping(z, psi=0.5, cutoff=2))
    assert torch.equal(ws_from_seeds(G, [4]), ws_from_seeds(G, seeds)[2:])  # bit for bit in any company
    assert ws_from_seeds(G, []).shape == (0, G.num_ws, 32)


def test_cutoff_truncates_the_first_layers_only(G):
    plain, cut = ws_from_seeds(G, [5]), ws_from_seeds(G, [5], Rendering(psi=0.0, cutoff=3))
    torch.testing.assert_close(cut[0, :3], G.mapping.w_avg.expand(3, -1))
    assert torch.equal(cut[0, 3:], plain[0, 3:])
    assert torch.equal(ws_from_seeds(G, [5], Rendering(psi=0.0, cutoff=0)), plain)


@pytest.mark.parametrize("cutoff", [-1, 7])
def test_cutoff_beyond_the_layers(G, cutoff):
    with pytest.raises(UserError, match="`cutoff`.*(6 style layers|at least 0)"):
        ws_from_seeds(G, [0], Rendering(cutoff=cutoff))


def test_classes(make_generator, G):
    conditional = make_generator(c_dim=3)
    assert one_hot(conditional, 1, 2).tolist() == [[0, 1, 0]] * 2
    assert one_hot(G, None, 2) is None
    a, b = (ws_from_seeds(conditional, [7], Rendering(class_index=k)) for k in (0, 2))
    assert not torch.equal(a, b)
    for index, said in ((None, "none was given"), (3, "classes 0 to 2"), (-1, "at least 0")):
        with pytest.raises(UserError, match=said):
            ws_from_seeds(conditional, [7], Rendering(class_index=index))
    with pytest.raises(UserError, match="no classes"):
        ws_from_seeds(G, [7], Rendering(class_index=0))


def test_errors_name_the_parameter():
    assert parse_seeds("1-3", "rows") == [1, 2, 3]
    with pytest.raises(UserError, match="`rows` 3-1"):
        parse_seeds("3-1", "rows")
