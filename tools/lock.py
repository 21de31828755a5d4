"""The lock: constraints.txt, exact versions of all that `make` installs, made by one command.

    python tools/lock.py                        # the newest that requirements.txt admits
    python tools/lock.py transformers==5.23.0   # with some versions held

One version of each package serves every Python of PYTHONS, so that numbers do not depend on it. The
file holds names and versions only; it is an argument of pip's -c and installs nothing by itself.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK, REQUIREMENTS = ROOT / "constraints.txt", ROOT / "requirements.txt"
PYTHONS = ("3.11", "3.12", "3.13")
HEAD = """# Exact versions of what requirements.txt needs, for Python {} to {}. Do not edit:
# `make lock` writes it anew; `make ... LATEST=1` leaves it out.
"""


def lines(path):
    """The lines of a requirements file that say something."""
    return [
        line
        for line in map(str.strip, path.read_text(encoding="utf-8").splitlines())
        if line[:1] not in "#"
    ]


def locked(path=LOCK, python=None):
    """{name: version} of the lock that hold for `python` ("3.12"; default: the running one)."""
    here = default_environment()
    if python:
        here |= {"python_version": python, "python_full_version": f"{python}.99"}
    found = [Requirement(line) for line in lines(path)]
    return {
        canonicalize_name(r.name): re.sub("^==", "", str(r.specifier))
        for r in found
        if r.marker is None or r.marker.evaluate(here)
    }


def default_torch():
    """What the Makefile installs as torch, unless it is told otherwise."""
    return re.search(
        r"^TORCH \?= (torch==\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M
    )[1]


def resolve(pins=(), python=PYTHONS[0], universal=True, constraints=()):
    """Lines "name==version ; marker" that satisfy requirements.txt with `pins` held."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as held:
        held.write("\n".join(pins))
        held.flush()
        command = ["uv", "pip", "compile", REQUIREMENTS, "--python-version", python, "--quiet"]
        command += ["--no-header", "--no-annotate", "--no-emit-index-url", "-c", held.name]
        command += ["--universal", "--fork-strategy", "fewest"] if universal else []
        command += [arg for path in constraints for arg in ("-c", path)]
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, encoding="utf-8"
        )
    if done.returncode:
        raise SystemExit(f"no versions satisfy requirements.txt on Python {python}:\n{done.stderr}")
    return done.stdout.splitlines()


def main(pins):
    found = resolve([default_torch(), *pins])
    LOCK.write_text(
        "\n".join([HEAD.format(PYTHONS[0], PYTHONS[-1]) + found[0], *found[1:], ""]),
        encoding="utf-8",
    )
    for python in PYTHONS:  # once more without the resolver's freedom
        alone = resolve(python=python, universal=False, constraints=[LOCK])
        print(f"{len(found)} packages; {len(alone)} of them on Python {python} here")


if __name__ == "__main__":
    main(sys.argv[1:])
