"""Known vulnerabilities of the pinned packages: `make audit`, or python requirements/audit.py (the extra `audit`).

pip-audit looks every line of locked.txt up in a database of the network and installs nothing. Where the database does
not answer, or does not know a package, pip-audit itself may end well having checked nothing; here that is told.
Exit code 0: all were looked up, nothing is known. 1: something is known. 2: not all could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCKED = Path(__file__).with_name("locked.txt")
SERVICES = ("pypi", "osv")  # of pip-audit; the second where the first does not answer


def asked(service: str, locked: Path) -> tuple[list[dict], str]:
    """pip-audit's list of packages, and what went wrong in a line where it gave none."""
    command = [sys.executable, "-m", "pip_audit", "-s", service, "--disable-pip", "--require-hashes"]
    command += ["--requirement", str(locked), "--format", "json", "--progress-spinner", "off", "--timeout", "20"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        return json.loads(done.stdout)["dependencies"], ""
    except subprocess.TimeoutExpired:
        return [], "no answer within 15 minutes"
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return [], lines[-1][:200]


def verdict(packages: list[dict], trouble: str) -> tuple[int, list[str]]:
    """(exit code, lines) of what pip-audit said of the packages."""
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {known['id']}"
        f" (mended in {', '.join(known['fix_versions']) or 'no version yet'})"
        for package in packages
        for known in package.get("vulns", [])
    ]
    looked = len(packages) - len(skipped)
    if lines:
        lines.append(f"{len(lines)} known vulnerabilities in {looked} packages looked up; {len(skipped)} not looked up")
        return 1, lines
    if not looked:
        why = trouble or f"it knows none of {len(skipped)} packages"
        return 2, [f"error: the database of vulnerabilities could not be asked, so nothing was checked: {why}"]
    if skipped:
        return 2, [f"error: {looked} packages without a known vulnerability, but not looked up: {', '.join(skipped)}"]
    return 0, [f"no known vulnerability in {looked} packages"]


def main() -> int:
    for service in SERVICES:
        code, lines = verdict(*asked(service, LOCKED))
        print(f"{service}: " + "\n".join(lines), file=sys.stderr if code == 2 else sys.stdout, flush=True)
        if code != 2:
            return code
    return 2


if __name__ == "__main__":
    sys.exit(main())
