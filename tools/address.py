"""The repository's address, in one place.

    python tools/address.py               rewrite every link from [tool.medit_teach], pyproject.toml
    python tools/address.py owner/name    change the address there, then rewrite every link
    python tools/address.py --check       list links that point elsewhere; exit code 1 if any do

Links: the repository, "Open in Colab", the install line of the notebooks, "suggest an edit", and
the published pages. Links to other people's repositories are left alone.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {
    ".md",
    ".ipynb",
    ".yml",
    ".yaml",
    ".cff",
    ".py",
    ".toml",
    ".html",
    ".js",
    ".css",
    ".cfg",
}
SKIP = {".git", ".venv", "_build", "_vendor", "node_modules", "models", ".ruff_cache"}
NAME = r"[A-Za-z0-9_.-]+"


@dataclass(frozen=True)
class Address:
    owner: str
    name: str
    branch: str = "main"

    @property
    def repository(self) -> str:
        return f"https://github.com/{self.owner}/{self.name}"

    @property
    def pages(self) -> str:
        return f"https://{self.owner.lower()}.github.io/{self.name}/"

    @property
    def install(self) -> str:
        return f"git+{self.repository}"

    def colab(self, notebook: str) -> str:
        """The Colab link of `book/<file>.ipynb`."""
        where = f"{self.owner}/{self.name}/blob/{self.branch}/{notebook}"
        return f"https://colab.research.google.com/github/{where}"


def read(root: Path = ROOT) -> Address:
    """The address that `pyproject.toml` gives."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "medit_teach"
    ]
    return Address(table["owner"], table["repository"], table.get("branch", "main"))


def in_use(root: Path = ROOT) -> Address:
    """The address that the links have now: the one of `_config.yml`."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    url = re.search(rf"^\s+url: https://github\.com/({NAME})/({NAME})\s*$", text, re.M)
    branch = re.search(rf"^\s+branch: ({NAME})\s*$", text, re.M)
    if not url or not branch:
        raise SystemExit("_config.yml has no `repository: url:` and `branch:` to start from")
    return Address(url[1], url[2], branch[1])


def files(root: Path = ROOT):
    """The text files that may hold a link."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIP)
        yield from (Path(folder, name) for name in sorted(names) if Path(name).suffix in SUFFIXES)


def rewrite(text: str, old: Address, new: Address) -> str:
    """`text` with every link to `old` pointing to `new`."""
    end = r"(?![A-Za-z0-9_-])"
    was, now = f"{old.owner}/{old.name}", f"{new.owner}/{new.name}"
    pairs = [
        (
            rf"(github(?:\.com)?/){was}/(blob|edit|tree)/{old.branch}/",
            rf"\g<1>{now}/\g<2>/{new.branch}/",
        ),
        (rf"github\.com/{was}{end}", f"github.com/{now}"),
        (
            rf"(?i:{old.owner})\.github\.io/{old.name}{end}",
            f"{new.owner.lower()}.github.io/{new.name}",
        ),
    ]
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


def strays(text: str, address: Address) -> list[str]:
    """Links that are ours by their shape, and do not point to `address`.

    Ours: a Colab link to a notebook under `book/`; a repository or page called as this one is, or
    as it was called first, whoever owns it.
    """
    names = f"(?:{re.escape(address.name)}|medit[_-]teach)"
    ours = [
        rf"colab\.research\.google\.com/github/{NAME}/{NAME}/blob/{NAME}/book/[^\s\"')\\]*",
        rf"github\.com/{NAME}/{names}(?![A-Za-z0-9_-])",
        rf"{NAME}\.github\.io/{names}(?![A-Za-z0-9_-])",
    ]
    good = (
        f"colab.research.google.com/github/{address.owner}/{address.name}/blob/{address.branch}/",
        f"github.com/{address.owner}/{address.name}",
        f"{address.owner.lower()}.github.io/{address.name}",
    )
    found = [match for pattern in ours for match in re.findall(pattern, text)]
    return [link for link in found if not link.startswith(good)]


def set_address(root: Path, owner: str, name: str, branch: str) -> None:
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    for key, value in {"owner": owner, "repository": name, "branch": branch}.items():
        text = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.M)
    path.write_text(text, encoding="utf-8")


def sync(root: Path = ROOT) -> list[Path]:
    """Rewrite every link from pyproject's address; the files that changed."""
    old, new = in_use(root), read(root)
    changed = []
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        better = rewrite(text, old, new)
        if path.name == "_config.yml":
            better = re.sub(rf"^(\s+branch: ){NAME}$", rf"\g<1>{new.branch}", better, flags=re.M)
        if better != text:
            path.write_text(better, encoding="utf-8")
            changed.append(path)
    return changed


def check(root: Path = ROOT) -> list[str]:
    address = read(root)
    return [
        f"{path.relative_to(root)}: {link}"
        for path in files(root)
        if path.name != "test_repo.py"
        for link in strays(path.read_text(encoding="utf-8"), address)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("address", nargs="?", help="owner/name")
    parser.add_argument("--branch", help="the branch that links point to (as it is)")
    parser.add_argument("--check", action="store_true", help="only list links that point elsewhere")
    options = parser.parse_args(argv)
    if options.check:
        wrong = check()
        print("\n".join(wrong) or f"every link points to {read().repository}")
        return 1 if wrong else 0
    now = read()
    if options.address or options.branch:
        match = re.fullmatch(rf"({NAME})/({NAME})", options.address or f"{now.owner}/{now.name}")
        if not match:
            parser.error(f"not an owner/name: {options.address!r}")
        set_address(ROOT, match[1], match[2], options.branch or now.branch)
    changed = sync()
    for path in changed:
        print(path.relative_to(ROOT))
    print(f"{len(changed)} files changed; every link points to {read().repository}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
