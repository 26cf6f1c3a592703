"""Features of any network, against the libraries' own ways and scipy's matrix root in float64."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from common.errors import UserError
from discriminator.network_features import NetworkFeatures
from metrics.collect import collect
from metrics.fid import compare
from metrics.images import ArrayImages

timm = pytest.importorskip("timm")
SHARED = os.environ.get("FACES_SHARED")


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    rng, found = np.random.default_rng(0), []
    for i in range(24):
        grid = Image.fromarray(rng.integers(0, 256, (4 + i % 3, 5, 3), dtype=np.uint8))
        found.append(np.asarray(grid.resize((48, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(found))


def save(net: torch.nn.Module, path: Path) -> Path:
    """Its weights, with statistics as if it had learnt."""
    g = torch.Generator().manual_seed(0)
    state = {k: v + 0.05 * torch.rand(v.shape, generator=g) for k, v in net.state_dict().items() if v.ndim == 1}
    torch.save(net.state_dict() | state, path)
    return path


CASES = ["timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224@64", "torchvision:resnet18"]


@pytest.mark.parametrize("name", [*CASES, "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small"])
def test_features_are_the_library_s(name, photos, tmp_path):
    library, model = name.split(":")
    model, _, side = model.partition("@")
    torch.manual_seed(0)
    if library == "timm":
        net = timm.create_model(model, **({"img_size": int(side)} if side else {}))
        told = timm.data.resolve_model_data_config(net)
        mean, std, kernel = told["mean"], told["std"], told["interpolation"]
        size = int(side or told["input_size"][1])
    else:
        net = torchvision.models.get_model(model, weights=None, **({"image_size": int(side)} if side else {}))
        told = torchvision.models.get_model_weights(model).DEFAULT.transforms()
        mean, std, kernel, size = told.mean, told.std, told.interpolation.value, int(side or told.crop_size[0])
    file = save(net, tmp_path / "weights.pth")
    net.load_state_dict(torch.load(file))
    net.eval()
    prepare = v2.Compose([
        v2.ToDtype(torch.float32, scale=True),
        v2.Resize((size, size), v2.InterpolationMode(kernel), antialias=True),
        v2.Lambda(lambda x: x.clamp(0, 1)),
        v2.Normalize(mean, std),
    ])  # fmt: skip
    seen = []  # what the layer of the classes is given, caught on its way
    if model == "squeezenet1_1":
        net.features.register_forward_hook(lambda layer, x, y: seen.append(y.mean((2, 3))))
    else:
        last = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)][-1]
        last.register_forward_hook(lambda layer, x, y: seen.append(x[0]))
    with torch.inference_mode():
        net(prepare(photos[:3]))
    features = NetworkFeatures(name, file)
    torch.testing.assert_close(features(photos[:3]), seen[0], rtol=2e-4, atol=2e-4)
    assert features.dims == seen[0].shape[1] and features.describe()["resize"] == f"{kernel} {size}"


def test_the_frechet_distance_equals_scipys_root(photos, tmp_path):
    torch.manual_seed(1)
    file = save(timm.create_model("mobilenetv3_small_050"), tmp_path / "weights.pth")
    features = NetworkFeatures("timm:mobilenetv3_small_050", file)
    a, b = (collect(ArrayImages(part.numpy()), features, keep=True) for part in (photos[:12], photos[12:]))
    x, y = (found.vectors.astype(np.float64)[:, :9] for found in (a, b))  # few: the whole covariances are singular
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    wanted = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    narrow = [type(a)(stats_of(part), part) for part in (x, y)]
    features.dims = 9
    assert compare(["fid"], *narrow, features)["fid"] == pytest.approx(wanted, rel=1e-6)


def stats_of(x):
    from tests.gaussian import stats_of as fitted

    return fitted(x)


def test_position_embeddings_are_resampled_and_grey_is_colour(photos, tmp_path):
    torch.manual_seed(2)
    file = save(timm.create_model("vit_tiny_patch16_224", img_size=96), tmp_path / "weights.pth")
    small = NetworkFeatures("timm:vit_tiny_patch16_224@64", file)
    grey = photos[:2, :1]
    assert torch.equal(small(grey), small(grey.expand(-1, 3, -1, -1)))
    assert not torch.equal(small(photos[:1]), NetworkFeatures("timm:vit_tiny_patch16_224@96", file)(photos[:1]))


@pytest.mark.skipif(not SHARED, reason="needs $FACES_SHARED")
def test_real_weights_tell_photos_from_fakes():
    from faces.source import open_source
    from metrics.images import SourceImages

    features = NetworkFeatures("torchvision:squeezenet1_1@128", f"{SHARED}/weights/squeezenet1_1_gluon_imagenet.pth")
    folder = f"{SHARED}/data/flickr140k/real_vs_fake/real-vs-fake/valid"
    found = {}
    for name, at in (("a", "real"), ("fake", "fake")):
        source = SourceImages(open_source(f"{folder}/{at}", max_items=160))
        found[name] = collect(source, features, keep=True)
        source.close()
    a, b = (type(found["a"])(stats_of(v), v) for v in (found["a"].vectors[::2], found["a"].vectors[1::2]))
    fakes = found["fake"].vectors[:80]
    same, other = (compare(["kid"], x, a, features)["kid"] for x in (b, type(a)(stats_of(fakes), fakes)))
    assert other > 3 * abs(same)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:no_such_network", "knows no such network"),
        ("torchvision:no_such", "see torchvision.models.list_models"),
        ("resnet18", "give inception, timm:NAME or torchvision:NAME"),
        ("timm:hf-hub:x/y", "give inception, timm:NAME"),
        ("timm:resnet18", "not weights of timm:resnet18"),
    ],
)
def test_what_cannot_be(name, words, tmp_path):
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=words):
        NetworkFeatures(name, tmp_path / "w.pth")
    with pytest.raises(UserError, match="`weights` .*no such file"):
        NetworkFeatures("timm:resnet18", tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no")
    with pytest.raises(UserError, match="`weights` .*can't be read as weights"):
        NetworkFeatures("timm:resnet18", tmp_path / "text.pth")
