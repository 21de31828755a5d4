"""The built pages: no script, style or font from outside; each page carries only what it needs."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest
from pybtex.database import parse_file

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import address
import browser
import citations

HTML = browser.HTML
NOT_BUILT = browser.not_built()
PAGES = [] if NOT_BUILT else [HTML / page for page in browser.all_pages()]

pytestmark = pytest.mark.skipif(bool(NOT_BUILT), reason=NOT_BUILT)


class Resources(HTMLParser):
    """What a page loads: scripts, styles, fonts, pictures."""

    def __init__(self):
        super().__init__()
        self.loaded: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        have = dict(attrs)
        if tag == "script" and have.get("src"):
            self.scripts.append(have["src"])
        if tag in {"script", "img", "iframe", "video", "audio", "source"} and have.get("src"):
            self.loaded.append(have["src"])
        kinds = set((have.get("rel") or "").split())
        if tag == "link" and kinds & {"stylesheet", "preload", "preconnect", "icon", "prefetch"}:
            self.loaded.append(have.get("href") or "")


def resources(path) -> Resources:
    parser = Resources()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def _name(path):
    return path.relative_to(HTML).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_nothing_comes_from_outside(path):
    outside = [x for x in resources(path).loaded if re.match(r"(https?:)?//", x)]
    assert outside == []
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"unpkg\.com|cdn\.jsdelivr|cdnjs\.|fonts\.googleapis", text)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_resource_is_there(path):
    for link in resources(path).loaded:
        if not link.startswith("data:"):
            assert (path.parent / link.split("?")[0]).exists(), link


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_scripts_only_where_they_are_used(path):
    text = path.read_text(encoding="utf-8")
    scripts = " ".join(resources(path).scripts)
    assert ("vendor/mathjax/es5/tex-chtml.js" in scripts) == ('class="math ' in text)
    widgets = "application/vnd.jupyter.widget-view+json" in text
    assert ("vendor/widgets/embed.js" in scripts) == widgets


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_pictures_have_a_text(path):
    for tag in re.findall(r"<img\b[^>]*>", path.read_text(encoding="utf-8")):
        alt = re.search(r'\balt="([^"]+)"', tag)
        assert alt and not re.search(r"\.(png|svg|jpe?g|gif)$", alt[1]), tag


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_reader_finds_his_tools(path):
    """Suggest an edit on every page; a notebook opens in Colab and can be downloaded."""
    if path.parent == HTML:  # search and index are no pages of the book
        return
    text, name = path.read_text(encoding="utf-8"), _name(path).removesuffix(".html")
    source = next(p for p in (ROOT / f"{name}.ipynb", ROOT / f"{name}.md") if p.exists())
    where = source.relative_to(ROOT).as_posix()
    here = address.read()
    assert f"{here.repository}/edit/{here.branch}/{where}" in text
    assert f'href="../{"../" * (name.count("/") - 1)}_sources/{where}"' in text
    if source.suffix == ".ipynb":
        assert here.colab(where) in text


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_page_says_how_long_it_takes_to_read(path):
    if path.parent == HTML or path.name == "index.html":
        return
    text = path.read_text(encoding="utf-8")
    assert ("<strong>Time</strong>" in text) != ('class="mt-reading"' in text)
    assert re.search(r"\d+ minutes?\b|To look things up in", text)


def test_terms_lead_to_the_glossary_once_a_page():
    for name in ("00-start", "07-rome", "15-map", "solutions/08-memit"):
        text = (HTML / "book" / f"{name}.html").read_text(encoding="utf-8")
        linked = re.findall(r'href="[./]*glossary\.html#term-([\w-]+)"', text)
        assert linked and len(linked) == len(set(linked)), name


def test_docstrings_lead_to_the_equations_of_the_book():
    text = (HTML / "book" / "api.html").read_text(encoding="utf-8")
    links = dict(re.findall(r'href="(\d\d-[\w-]+\.html#equation-eq-[a-z-]+)">(Eq\. [\d.]+)<', text))
    assert len(links) >= 10
    for link, number in links.items():
        page, anchor = link.split("#")
        there = (HTML / "book" / page).read_text(encoding="utf-8")
        assert f'id="{anchor}"' in there and f"({number.removeprefix('Eq. ')})" in there
    assert "eq:" not in re.sub(r"<pre.*?</pre>|<[^>]*>", "", text, flags=re.S)


def test_no_heavy_script_lands_in_every_page():
    common = set.intersection(*(set(resources(path).scripts) for path in PAGES))
    assert not [link for link in common if "vendor" in link]


def test_styles_load_nothing_from_outside():
    for path in (HTML / "_static").rglob("*.css"):
        found = re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)'\"]+", path.read_text())
        assert not found, path


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_page_that_is_linked_to_tells_what_it_is(path):
    if path.parent == HTML:
        return
    text = path.read_text(encoding="utf-8")
    tags = dict(re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)">', text))
    assert 40 <= len(tags["description"]) <= 210 and tags["og:description"] == tags["description"]
    assert "\\" not in tags["description"] and tags["og:title"]
    picture = tags["og:image"].removeprefix(address.read().pages)
    assert (HTML / picture.lstrip("/")).read_bytes().startswith(b"\x89PNG")
    assert re.search(r'<link rel="icon" href="[./]*_static/favicon\.svg"', text)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_icons_are_drawn_without_a_script(path):
    text = path.read_text(encoding="utf-8")
    assert "fontawesome.js" not in text and not re.search(r"<(i|span) [^>]*\bfa-", text)
    assert text.count('<svg class="mt-icon') >= 6


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_head_of_a_table_says_something(path):
    text = path.read_text(encoding="utf-8")
    heads = re.findall(r"<th\b(?![^>]*\bstub)[^>]*>(.*?)</th>", text, flags=re.S)
    assert all(re.sub(r"<[^>]*>", "", head).strip() for head in heads)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_the_solutions_take_one_line_of_the_side_bar(path):
    if path.parent == HTML:
        return
    found = re.findall(r'<details class="mt-folded"( open)?>.*?</details>',
                       path.read_text(encoding="utf-8"), flags=re.S)  # fmt: skip
    assert found == [" open" if path.parent.name == "solutions" else ""]


def test_no_two_works_are_cited_alike():
    entries = parse_file(str(ROOT / "book" / "references.bib")).entries.values()
    alike = [(citations._label(e), e.fields["year"]) for e in entries]
    assert len(alike) > len(set(alike))  # without the letters
    citations.tell_apart(entries)
    citations.tell_apart(entries)  # as a second build does
    told = [(citations._label(e), e.fields["year"]) for e in entries]
    assert len(told) == len(set(told))
    cited = (HTML / "book" / "05-objective.html").read_text(encoding="utf-8")
    assert re.search(r"Gupta <em>et al\.</em> \[<a [^>]*>2024[abc]</a>", cited)
