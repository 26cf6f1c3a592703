import numpy as np
import pytest
import torch

from common.errors import UserError
from metrics.inception import DIMS, InceptionFeatures

BLOCK = {64: 0, 192: 1, 768: 2, 2048: 3}


def images_of(size, n=2, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def reference(network, images):
    """pytorch-fid's features of uint8 images, all blocks: {dims: [N, dims]}."""
    with torch.no_grad():
        outputs = network(images.float() / 255)
    return {o.shape[1]: o.mean(dim=(2, 3)) for o in outputs}


@pytest.fixture(scope="module")
def expected(random_inception, pytorch_fid_network):
    network = pytorch_fid_network(random_inception.state)
    return {size: reference(network, images_of(size)) for size in (64, 299)}


@pytest.mark.parametrize("dims", DIMS)
def test_features_equal_pytorch_fid(dims, random_inception, expected):
    ours = InceptionFeatures(random_inception.path, dims)
    for size, wanted in expected.items():
        found = ours(images_of(size))
        assert found.dtype == torch.float32 and found.shape == (2, dims)
        error = (found - wanted[dims]).abs().max() / wanted[dims].abs().max()
        assert error < 1e-5, (size, float(error))
        np.testing.assert_allclose(found, wanted[dims], rtol=1e-4, atol=1e-4 * float(wanted[dims].abs().mean()))


def test_images_larger_than_the_network_are_resized_as_pytorch_fid_does(random_inception, pytorch_fid_network):
    images = torch.randint(0, 256, (1, 3, 320, 410), dtype=torch.uint8)
    wanted = reference(pytorch_fid_network(random_inception.state, [0]), images)[64]
    np.testing.assert_allclose(InceptionFeatures(random_inception.path, 64)(images), wanted, rtol=1e-4)


@pytest.fixture(scope="module")
def trunk(shared_dir):
    path = shared_dir / "weights" / "fid_inception_2015-12-05_trunk.pth"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the development data")
    return path


def test_folded_trunk_equals_pytorch_fid_with_neutral_batch_norm(trunk, random_inception, pytorch_fid_network):
    state = dict(random_inception.state)
    for name, tensor in torch.load(trunk, weights_only=True).items():
        layer, kind = name.rsplit(".conv.", 1)
        if kind == "weight":
            state[name] = tensor
        else:  # batch norm that adds the folded bias and does nothing else (its epsilon is 0.001)
            state[f"{layer}.bn.bias"], state[f"{layer}.bn.weight"] = tensor, torch.ones_like(tensor)
            state[f"{layer}.bn.running_mean"] = torch.zeros_like(tensor)
            state[f"{layer}.bn.running_var"] = torch.full_like(tensor, 1 - 1e-3)
    wanted = reference(pytorch_fid_network(state, [2]), images_of(64))[768]
    found = InceptionFeatures(trunk, 768)(images_of(64))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.mean()))


def test_trunk_cannot_give_2048(trunk):
    with pytest.raises(UserError, match=r"trunk\.pth.*cannot give 2048.*64, 192 or 768"):
        InceptionFeatures(trunk, 2048)


def test_chunks_and_grey_images_change_nothing(random_inception):
    images = images_of(64, 3)
    whole = InceptionFeatures(random_inception.path, 64)
    np.testing.assert_allclose(InceptionFeatures(random_inception.path, 64, chunk=2)(images), whole(images), rtol=1e-5)
    grey = images[:, :1]
    np.testing.assert_array_equal(whole(grey), whole(grey.expand(-1, 3, -1, -1)))
    assert whole(images[:0]).shape == (0, 64)


def test_resize_none_reads_images_as_they_are(random_inception):
    resized, direct = (InceptionFeatures(random_inception.path, 64, resize=r) for r in ("tf1", "none"))
    np.testing.assert_array_equal(direct(images_of(299)), resized(images_of(299)))
    assert not np.allclose(direct(images_of(96)), resized(images_of(96)), rtol=1e-2)
    assert direct.describe()["resize"] == "none"


def test_one_clear_line_for_what_cannot_be(random_inception):
    with pytest.raises(UserError, match="64, 192, 768, 2048 dimensions, not 512"):
        InceptionFeatures(random_inception.path, 512)
    with pytest.raises(UserError, match="resize 'nearest' is unknown"):
        InceptionFeatures(random_inception.path, 64, resize="nearest")
    features = InceptionFeatures(random_inception.path, 64, resize="none")
    with pytest.raises(UserError, match="too small"):
        features(images_of(64))
    with pytest.raises(UserError, match="uint8 images.*float32"):
        features(torch.zeros(1, 3, 99, 99))
