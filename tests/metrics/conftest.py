"""One random but well-behaved InceptionV3 state, as a file for us and as pytorch-fid's network."""

from types import SimpleNamespace

import pytest
import torch


def _random_state(network) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(20151205)
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = tensor.clone()
        elif name.endswith((".conv.weight", "fc.weight")):
            fan_in = tensor[0].numel()
            state[name] = torch.randn(tensor.shape, generator=g) * (2 / fan_in) ** 0.5
        elif name.endswith((".running_var", ".bn.weight")):
            state[name] = torch.rand(tensor.shape, generator=g) + 0.5
        else:
            state[name] = torch.randn(tensor.shape, generator=g) * 0.1
    return state


@pytest.fixture(scope="session")
def pytorch_fid_network():
    """Builds pytorch-fid's InceptionV3 that returns every block, holding a given state dict (no download)."""
    inception = pytest.importorskip("pytorch_fid.inception")

    def build(state, blocks=(0, 1, 2, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
            return inception.InceptionV3(blocks).eval()

    return build


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory):
    """A random state dict in pytorch-fid's layout (``state``) and its file (``path``)."""
    inception = pytest.importorskip("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        network = inception.fid_inception_v3()
    state = _random_state(network)
    path = tmp_path_factory.mktemp("weights") / "random_inception.pth"
    torch.save(state, path)
    return SimpleNamespace(state=state, path=path)
