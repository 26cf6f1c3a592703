"""The locked packages, their licences and the audit of them."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.declared import PROJECT, unfolded
from tests.project.test_environment import constraints

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
AUDIT = runpy.run_path(str(REQUIREMENTS / "audit.py"))
LICENCES = runpy.run_path(str(REQUIREMENTS / "licences.py"))


def locked(name: str) -> dict[str, str]:
    """name: version, each of them with hashes of its files and nothing else on its lines."""
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    assert "://" not in text and "index" not in text, "no registry is named"
    lines = [line for line in text.replace("\\\n", "").splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ; [^#]+?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+", line)
        assert match, line[:80]
        found[match[1]] = match[2]
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(
    ("name", "extras"), [("locked.txt", ["dev"]), ("locked-light.txt", ["web", "video", "heif"])]
)  # fmt: skip
def test_what_is_locked_is_what_is_pinned_and_all_that_is_asked_for(name, extras):
    pins, found = constraints(), locked(name)
    assert {package: version for package, version in found.items() if pins.get(package, version) != version} == {}
    asked = PROJECT["dependencies"] + [spec for extra in extras for spec in unfolded(extra)] + ["setuptools>=77"]
    for spec in map(Requirement, asked):
        assert spec.specifier.contains(found[canonicalize_name(spec.name)])
    if extras == ["dev"]:
        assert found == pins, "make the locked file again: its first lines say how"


def package(name: str, **more) -> dict:
    return {"name": name, "version": "1.0", "vulns": [], **more}


KNOWN = [{"id": "X-2026-1", "fix_versions": ["1.1"]}]


@pytest.mark.parametrize(
    ("packages", "trouble", "code", "said"),
    [
        ([package("a"), package("b")], "", 0, "no known vulnerability in 2 packages"),
        ([package("a", vulns=KNOWN), package("b")], "", 1, "a 1.0: X-2026-1 (mended in 1.1)"),
        ([{"name": "a", "skip_reason": "not found"}, package("b", vulns=KNOWN)], "", 1, "1 not looked up"),
        ([], "Failed to resolve", 2, "could not be asked, so nothing was checked: Failed to resolve"),
        ([{"name": "a", "skip_reason": "not found"}], "", 2, "so nothing was checked: it knows none of 1 packages"),
        ([{"name": "a", "skip_reason": "not found"}, package("b")], "", 2, "but not looked up: a"),
    ],
)
def test_an_audit_that_looked_nothing_up_is_no_good_news(packages, trouble, code, said):
    got, lines = AUDIT["verdict"](packages, trouble)
    assert got == code and said in "\n".join(lines)
    assert (code == 2) == lines[0].startswith("error: ")


@pytest.mark.parametrize(
    ("stdout", "stderr", "want"),
    [
        ("", "long\ntraceback\nConnectionError: no name", ([], "ConnectionError: no name")),
        ("", "", ([], "exit code 1")),
        (json.dumps({"dependencies": [package("a")]}), "noise", ([package("a")], "")),
    ],
)
def test_what_pip_audit_said_or_did_not(monkeypatch, stdout, stderr, want):
    done = subprocess.CompletedProcess([], 1, stdout, stderr)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: done)
    assert AUDIT["asked"]("pypi", Path("locked.txt")) == want


class Installed:
    """A package's metadata, as importlib.metadata gives them."""

    def __init__(self, *headers: tuple[str, str], text: str | None = None, folder: Path | None = None):
        self.metadata = Message()
        for key, value in (("Name", "x"), *headers):
            self.metadata[key] = value
        self.files = [] if text is None or folder is None else [folder / "LICENSE"]
        if self.files:
            self.files[0].write_text(text, encoding="utf-8")


def test_licences_are_the_packages_own_words(tmp_path):
    said = LICENCES["licence"]
    mit = ("Classifier", "License :: OSI Approved :: MIT License")
    assert said(Installed(("License-Expression", "BSD-3-Clause"), mit)) == "BSD-3-Clause"
    assert said(Installed(("License", "===\nlong text"), mit)) == "MIT License"
    assert said(Installed(("License", "Apache 2.0"), ("Classifier", "License :: OSI Approved"))) == "Apache 2.0"
    assert said(Installed(("License", "UNKNOWN"), text="\n  The Z License\nmore", folder=tmp_path)) == "The Z License"
    assert said(Installed()) == ""


def test_every_declared_package_is_listed():
    names = set(LICENCES["closure"](LICENCES["wanted"]()))
    declared = {canonicalize_name(Requirement(spec).name) for spec in PROJECT["dependencies"] + unfolded("dev")}
    assert declared <= names and "markupsafe" in names, "what is asked for, and what that asks for"
    assert LICENCES["ASKS"].search("GPL-3.0-or-later") and LICENCES["ASKS"].search("GNU General Public License v3")
    assert not LICENCES["ASKS"].search("GNU Lesser General Public License")
