#!/usr/bin/env python3
"""FID side by side with pytorch-fid and torch-fidelity: speed of the features and what each step bought, the Frechet
distance, memory, and what fewer bits would cost.

\b
  python benchmarks/fid.py --json benchmarks/fid-cpu.json
  python benchmarks/fid.py --only frechet
  python benchmarks/fid.py --only bits --weights pt_inception-2015-12-05-6726825d.pth --photos faces/fake faces/real

Same weights (random ones unless --weights names a file), same images, alternately in one process, the minimum of the
repetitions counts.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import platform
import sys
import tempfile
import time
import timeit
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

PARTS = ("features", "frechet", "distances", "memory", "bits")


def random_state() -> dict[str, torch.Tensor]:
    """Well-behaved random weights in pytorch-fid's layout."""
    from pytorch_fid import inception

    with (
        mock.patch.object(inception, "load_state_dict_from_url"),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        network = inception.fid_inception_v3()
    g, state = torch.Generator().manual_seed(0), {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = tensor.clone()
        elif name.endswith((".conv.weight", "fc.weight")):
            state[name] = torch.randn(tensor.shape, generator=g) * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith((".running_var", ".bn.weight")):
            state[name] = torch.rand(tensor.shape, generator=g) + 0.5
        else:
            state[name] = torch.randn(tensor.shape, generator=g) * 0.1
    return state


def pytorch_fid_network(state: dict):
    from pytorch_fid import inception

    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        return inception.InceptionV3([3]).eval()


def sets(n: int, size: int = 64) -> list[torch.Tensor]:
    """Two sets of n smooth random images, uint8 [n, 3, size, size]."""
    g = torch.Generator().manual_seed(1)
    found = []
    for grain in (8, 10):
        x = torch.rand(n, 3, grain, grain, generator=g)
        found.append((torch.nn.functional.interpolate(x, size, mode="bicubic") * 255).clamp(0, 255).to(torch.uint8))
    return found


def features(weights: Path, state: dict, n: int, repeats: int) -> list[dict]:
    """Images a second of every step, and how far its FID is from pytorch-fid's."""
    from metrics.frechet import frechet_from_features
    from metrics.inception import InceptionFeatures

    plain, nhwc = pytorch_fid_network(state), pytorch_fid_network(state).to(memory_format=torch.channels_last)

    def reference(network, batch: int, layout=torch.contiguous_format, guard=torch.no_grad):
        def run(images: torch.Tensor) -> torch.Tensor:
            with guard():
                parts = [network((b.float() / 255).to(memory_format=layout))[0].flatten(1) for b in images.split(batch)]
            return torch.cat(parts)

        return run

    ours, onnx, native = (InceptionFeatures(weights, 2048, runtime=r) for r in ("torch", "onnx", "native"))
    large = InceptionFeatures(weights, 2048, runtime="torch", chunk=50)
    last = torch.channels_last
    variants = {
        "pytorch-fid, batches of 50": reference(plain, 50),
        "batches of 8, inference mode": reference(plain, 8, guard=torch.inference_mode),
        "channels-last": reference(nhwc, 8, last, torch.inference_mode),
        "folded batch norm, merged branches (batches of 50)": large,
        "the same in batches of 8: ours, PyTorch": ours,
        "ours, ONNX Runtime": onnx,
        "ours, minimal filtering": native,
    }
    theirs = torch_fidelity_extractor(weights)
    if theirs is not None:
        variants["torch-fidelity (its own resize), batches of 50"] = theirs
    images = sets(n)
    both = torch.cat(images)
    found, best = {}, dict.fromkeys(variants, float("inf"))
    for run in variants.values():
        run(both[:8])
    for _ in range(repeats):
        for name, run in variants.items():
            began = time.perf_counter()
            found[name] = run(both)
            best[name] = min(best[name], time.perf_counter() - began)
    found = {name: vectors.double().numpy() for name, vectors in found.items()}
    fids = {name: frechet_from_features(f[:n], f[n:]) for name, f in found.items()}
    first = "pytorch-fid, batches of 50"
    return [
        {
            "step": name,
            "images_per_second": 2 * n / seconds,
            "times_pytorch_fid": best[first] / seconds,
            "fid": fids[name],
            "fid_off": None if name.startswith("torch-fidelity") else abs(fids[name] / fids[first] - 1),
        }
        for name, seconds in best.items()
    ]


def torch_fidelity_extractor(weights: Path):
    try:
        from torch_fidelity.utils import create_feature_extractor
    except ImportError:
        return None
    extractor = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(weights)
    )

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([extractor(b)[0] for b in images.split(50)])

    return run


def frechet(dims: int, repeats: int) -> list[dict]:
    """Seconds of scipy's square root and of ours, covariances of full rank and singular."""
    import warnings

    from scipy.linalg import sqrtm

    from metrics.frechet import frechet_distance, frechet_from_features

    rng, rows = np.random.default_rng(0), []
    mix = rng.standard_normal((dims, dims)) / dims**0.5
    for n in (2 * dims + 904, dims // 2 - 24):
        x, y = rng.standard_normal((n, dims)) @ mix, rng.standard_normal((n, dims)) @ mix + 0.05
        stats = [(a.mean(axis=0), np.cov(a, rowvar=False)) for a in (x, y)]
        (m1, s1), (m2, s2) = stats

        def scipys(m1=m1, s1=s1, m2=m2, s2=s2) -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                root = sqrtm(s1 @ s2)
            return float((m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root.real))

        ways = {"ours, from the statistics": lambda s=stats: frechet_distance(*s[0], *s[1])}
        if n < dims:
            ways["ours, from the vectors"] = lambda x=x, y=y: frechet_from_features(x, y)
        began = time.perf_counter()
        wanted = scipys()
        slow = time.perf_counter() - began
        rows.append({"way": "scipy.linalg.sqrtm", "images": n, "dims": dims, "seconds": slow, "times": 1.0, "off": 0.0})
        for name, way in ways.items():
            off = abs(way() / wanted - 1)
            fast = min(timeit.repeat(way, number=1, repeat=repeats))
            rows.append({"way": name, "images": n, "dims": dims, "seconds": fast, "times": slow / fast, "off": off})
    return rows


def distances(n: int, dims: int, repeats: int) -> list[dict]:
    """Seconds of every distance of two sets of n feature vectors, and of what it needs from them."""
    from metrics.frechet import frechet_distance
    from metrics.halving import frechet_interval
    from metrics.kernel import kid
    from metrics.sliced import mind
    from metrics.stats import StreamingStats

    rng = np.random.default_rng(0)
    spectrum = np.arange(1, dims + 1) ** -0.5  # about as Inception's falls
    mix = np.linalg.qr(rng.standard_normal((dims, dims)))[0] * spectrum
    x, y = ((rng.standard_normal((n, dims)) @ mix.T + shift).astype(np.float32) for shift in (0, 0.01))

    def statistics(a: np.ndarray):
        stats = StreamingStats(dims)
        stats.update(a)
        return stats.finish()

    a, b = statistics(x), statistics(y)
    fid = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
    ways = {
        "FID: both means and covariances": lambda: (statistics(x), statistics(y)),
        "FID: the distance": lambda: frechet_distance(a.mu, a.sigma, b.mu, b.sigma),
        "FID's interval, 20 halvings (2 measured)": lambda: frechet_interval(x, y, fid, halvings=2),
        "KID, 100 subsets of 1000": lambda: kid(x, y),
        "MIND, 1000 directions": lambda: mind(x, y),
    }
    rows = []
    for name, way in ways.items():
        wall, cpu = float("inf"), float("inf")
        for _ in range(1 if name.startswith(("KID", "FID's")) else repeats):
            began, used = time.perf_counter(), time.process_time()
            way()
            wall, cpu = min(wall, time.perf_counter() - began), min(cpu, time.process_time() - used)
        times = 10 if "2 measured" in name else 1
        row = {"what": name, "images": n, "dims": dims, "seconds": times * wall, "cpu_seconds": times * cpu}
        rows.append(row)
    return rows


def _peak(kind: str, n: int, dims: int, pipe) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def vectors() -> np.ndarray:
        x = np.empty((n, dims), np.float32)
        for part in np.array_split(x, max(1, n // 1000)):
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        return x

    if kind == "streamed mean and covariance":
        from metrics.stats import StreamingStats

        stats = StreamingStats(dims)
        for _ in range(0, n, 1000):
            stats.update(rng.standard_normal((1000, dims), dtype=np.float32))
            if stats.n >= 5000:  # from here on it is always the same
                break
        stats.finish()
    elif kind == "KID (two sets)":
        from metrics.kernel import kid

        kid(vectors(), vectors(), subsets=2)
    elif kind == "MIND (two sets)":
        from metrics.sliced import mind

        mind(vectors(), vectors(), directions=128)
    elif kind == "precision, recall, density, coverage (two sets)":
        from metrics.manifold import _Points

        centre = np.zeros(dims, np.float32)
        a, b = (_Points(vectors(), centre, "cpu", 512) for _ in range(2))
        for _, d in itertools.islice(a.distances(b), 1):  # all other blocks of rows are like the first
            d.topk(5, dim=1, largest=False)
            (d <= b.norms).any(dim=1)
    import resource  # not on Windows

    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def memory(n: int = 50000, dims: int = 2048) -> list[dict]:
    """Peak of a process of its own, in GB."""
    rows, context = [], multiprocessing.get_context("spawn")
    for kind in (
        "nothing but the imports",
        "streamed mean and covariance",
        "KID (two sets)",
        "MIND (two sets)",
        "precision, recall, density, coverage (two sets)",
    ):
        here, there = context.Pipe(False)
        process = context.Process(target=_peak, args=(kind, n, dims, there))
        process.start()
        rows.append({"what": kind, "vectors": n, "dims": dims, "peak_gb": here.recv()})
        process.join()
    return rows


def bits(weights: Path, folders: tuple[str, str], n: int) -> list[dict]:
    """FID of photos with fewer bits, against float32. Real weights and photos: random ones say nothing here."""
    from faces.source import open_source
    from metrics.frechet import frechet_from_features
    from metrics.images import SourceImages
    from metrics.inception import InceptionFeatures

    images = []
    for folder in folders:
        source = SourceImages(open_source(folder, max_items=n))
        blocks = [image for i in range(-(-len(source) // 64)) for image in source.block(i).images]
        images.append(torch.from_numpy(np.stack(blocks)))
        source.close()
    exact = InceptionFeatures(weights, None)

    def bf16(batch: torch.Tensor) -> torch.Tensor:
        from metrics.resize import network_input

        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            parts = [exact.net(network_input(b, "tf1")).float().mean(dim=(2, 3)) for b in batch.split(8)]
        return torch.cat(parts)

    ways = {"float32": exact, "bfloat16": bf16}
    int8 = int8_session(exact, images[0][:48])
    if int8 is not None:
        ways["int8 (ONNX Runtime, static, per channel)"] = int8
    rows = []
    for name, way in ways.items():
        began = time.perf_counter()
        a, b = (way(x).double().numpy() for x in images)
        seconds = time.perf_counter() - began
        rows.append(
            {"bits": name, "dims": exact.dims, "images": len(a), "fid": frechet_from_features(a, b), "seconds": seconds}
        )
    for row in rows:
        row["fid_off"] = abs(row["fid"] / rows[0]["fid"] - 1)
    return rows


def int8_session(exact, calibration: torch.Tensor):
    try:
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError:
        return None
    from metrics.onnx_graph import onnx_model
    from metrics.resize import network_input

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([network_input(b, "tf1").contiguous().numpy() for b in calibration.split(8)])

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(onnx_model(exact.net))
        quantize_static(
            str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(target.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        parts = [session.run(None, {"x": network_input(b, "tf1").contiguous().numpy()})[0] for b in images.split(8)]
        return torch.from_numpy(np.concatenate(parts))

    return run


def show(title: str, rows: list[dict]) -> None:
    click.echo(f"\n{title}")
    for row in rows:
        cells = [
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" if v is not None else "" for k, v in row.items()
        ]
        click.echo("  " + ", ".join(cell for cell in cells if cell))


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Some of the parts.  [default: all]")
@click.option("--weights", type=click.Path(exists=True), help="InceptionV3 weights.  [default: random ones]")
@click.option("--photos", nargs=2, metavar="DIR DIR", help="Two folders of photos, for `bits`.")
@click.option("--images", default=25, show_default=True, help="Images of each of the two sets.")
@click.option("--repeats", default=2, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--dims", default=2048, show_default=True, help="Of `frechet` and `distances`.")
@click.option("--samples", default=5000, show_default=True, help="Images of each set in `distances`.")
@click.option("--json", "target", metavar="FILE", help="Write (or bring up to date) the results there.")
def main(only, weights, photos, images, repeats, threads, dims, samples, target) -> None:
    torch.set_num_threads(threads)
    only = only or PARTS
    results = {"machine": f"{platform.machine()}, {threads} threads", "torch": torch.__version__.split("+")[0]}
    if "features" in only:
        with tempfile.TemporaryDirectory() as folder:
            state = torch.load(weights, weights_only=True) if weights else random_state()
            path = Path(weights) if weights else Path(folder) / "random.pth"
            if not weights:
                torch.save(state, path)
            results["features"] = features(path, state, images, repeats)
        show("features", results["features"])
    if "frechet" in only:
        results["frechet"] = frechet(dims, repeats)
        show("Frechet distance", results["frechet"])
    if "distances" in only:
        results["distances"] = distances(samples, dims, repeats)
        show("distances", results["distances"])
    if "memory" in only:
        results["memory"] = memory()
        show("memory", results["memory"])
    if "bits" in only and photos and weights:
        results["bits"] = bits(Path(weights), photos, images)
        show("fewer bits", results["bits"])
    if target:
        path = Path(target)
        old = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**old, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
