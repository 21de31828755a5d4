"""The explorers show what the library does: their frames against edits made by hand."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from math import inf

import pytest

import medit_teach as mt
from medit_teach import objective
from medit_teach.book import explorers
from medit_teach.hyper import hyper
from medit_teach.keys import keys
from medit_teach.metrics import top_tokens
from medit_teach.models import fingerprint
from tests.conftest import ROOT
from tests.helpers import TEXT, tiny_model, tiny_tokenizer

LAYERS, LAMS = [1, 2], [0.0, 0.5, inf]
FACTS = [
    mt.Fact("{} lives in", "Anna Marlow", "Paris", "Rome", ["{} stays in Italy and lives in"],
            ["Otto lives in"]),
    mt.Fact("{} speaks", "Danielle Darrieux", "German", "French", ["The language of {} is"],
            ["Her mother speaks"]),
]  # fmt: skip
FACTS = [
    mt.Fact(f.prompt, f.subject, f.target_new, f.target_true,
            [p.replace("{}", f.subject) for p in f.paraphrases], f.neighborhood) for f in FACTS
]  # fmt: skip


@pytest.fixture(scope="module")
def case():
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok, layers=3, d=16)
    return model, tok, mt.second_moment(model, tok, TEXT * 5, [0, 1, 2])


@pytest.fixture(autouse=True)
def unchanged(case):
    before = fingerprint(case[0])
    yield
    assert fingerprint(case[0]) == before


def frames(page):
    """[(sentence, {title: {name: (before or None, after)}})] of every frame that is stored."""
    page = page if isinstance(page, str) else page._repr_html_()
    data = json.loads(unescape(re.search(r"data-frames='([^']*)'", page)[1]))
    out = []
    for frame in data["frames"]:
        sentence, *panels = (data["pieces"][i] for i in frame)
        read = {}
        for panel in panels:
            title = unescape(re.match(r"<p>(.*?)</p>", panel)[1])
            rows = re.findall(r"<span>(.*?)</span><i></i><b>(?:(\d+)% → )?(\d+)%</b>", panel)
            read[title] = {unescape(n): (b and int(b), int(a)) for n, b, a in rows}
        out.append((unescape(sentence), read))
    return out


@pytest.fixture(scope="module")
def explored(case):
    model, tok, C0 = case
    found = explorers.edit_explorer(
        model, tok, FACTS, ["Italy", "Otto"], ["memit", "rome"], LAYERS, LAMS, C0
    )
    return frames(found)


def at(fact, new, method, layer, lam):
    """The number of a frame."""
    n = 0
    for chosen, values in ((fact, [0, 1]), (new, ["Italy", "Otto"]), (method, ["memit", "rome"]),
                           (layer, LAYERS), (lam, LAMS)):  # fmt: skip
        n = n * len(values) + values.index(chosen)
    return n


def test_a_frame_for_every_choice(explored):
    assert len(explored) == 2 * 2 * 2 * len(LAYERS) * len(LAMS)
    for sentence, panels in explored:
        assert len(panels) == 4 and "becomes" in sentence


@pytest.mark.parametrize("choice", [(0, "Italy", "memit", 2, 0.5), (1, "Otto", "rome", 1, 0.5)])
def test_a_frame_is_the_edit_made_by_hand(case, explored, choice):
    model, tok, C0 = case
    number, new, method, layer, lam = choice
    fact = mt.Fact(**{**vars(FACTS[number]), "target_new": new})
    prompts = [fact.text, fact.paraphrases[0], fact.neighborhood[0]]
    more = {"lam": lam} if method == "memit" else {}
    before = top_tokens(model, tok, prompts, k=100)
    with mt.edit(model, tok, fact, method, layers=[layer], statistics=C0, **more) as edit:
        after = top_tokens(model, tok, prompts, k=100)
    sentence, panels = explored[at(*choice)]
    written = 1 - edit.diagnostics[layer]["unwritten"]
    assert f"becomes {new}" in sentence and f"{written:.0%} of the residual" in sentence
    for panel, then, now in zip(list(panels.values())[:3], before, after, strict=True):
        then, now = ({t.strip(): p for t, p in found} for found in (then, now))
        assert panel[max(now, key=now.get)][1] == round(100 * max(now.values()))
        for token, (was, is_) in panel.items():
            assert abs(is_ - 100 * now.get(token, 0)) <= 1 >= abs(was - 100 * then.get(token, 0))


def test_the_dial_goes_from_exact_to_nothing(case):
    model, tok, C0 = case
    found = frames(explorers.dial(model, tok, FACTS[:1], lams=[0.5, 5, 50], layer=2, statistics=C0))
    rows = [panels["the update"] for _, panels in found]
    written, price = ([row[name][1] for row in rows] for name in ("written", "price"))
    assert (written[0], price[0], written[-1], price[-1]) == (100, 100, 0, 0)
    assert written == sorted(written, reverse=True)
    h = hyper("memit", model, layers=[2])
    k = keys(model, tok, FACTS[:1], 2, h.contexts, h.average)
    G = float(k.T @ objective.factor(C0[2]).unwhiten(objective.factor(C0[2]).whiten(k)))
    for lam, w, p in zip([0.5, 5, 50], written[1:], price[1:], strict=False):
        assert abs(w - 100 * G / (lam + G)) <= 1  # eq:memit-share
        assert abs(p - 100 * (G / (lam + G)) ** 2) <= 1
    for _, panels in found[-1:]:
        for title, panel in panels.items():
            assert title == "the update" or all(a == b for a, b in panel.values())


def test_methods_without_lam_take_no_notice_of_it(explored):
    rome = [explored[at(0, "Italy", "rome", 2, lam)] for lam in LAMS]
    assert all(frame == rome[0] for frame in rome) and "λ" not in rome[0][0]
    memit = [explored[at(0, "Italy", "memit", 2, lam)] for lam in LAMS]
    assert len({frame[0] for frame in memit}) == len(LAMS)


def test_a_method_that_refuses_is_told(case, monkeypatch):
    def refuse(*args, **kwargs):
        raise mt.errors.SingularError("no direction of C0 counts as null")

    model, tok, C0 = case
    monkeypatch.setattr(explorers, "edit", refuse)
    ((sentence, panels),) = frames(
        explorers.edit_explorer(model, tok, FACTS[:1], None, ["alphaedit"], [2], None, C0)
    )
    assert sentence.endswith("No edit: no direction of C0 counts as null.")
    assert panels["the update"] == {"written": ("", 0), "price": ("", 0)}
    assert all(a == b for x in list(panels)[:3] for a, b in panels[x].values())


def test_the_residual_over_layers(case):
    model, tok, C0 = case
    found = frames(
        explorers.distribution_explorer(
            model, tok, FACTS, ["spread", "even", "last"], LAYERS, [0.0, 0.5], C0
        )
    )
    assert len(found) == 3 * 2 * 2
    spread, last = found[2], found[10]  # both layers, lam 0
    missing = [after for _, after in spread[1]["still missing at the last layer"].values()]
    assert missing[0] == 100 and missing[-1] == 0 and 0 < missing[1]
    assert spread[0].startswith("spread, λ = 0: 0% of the residual is still missing")
    prices = spread[1]["price of each layer"]
    assert list(prices) == ["layer 1", "layer 2"]
    assert [after for _, after in last[1]["price of each layer"].values()] == [0, 100]
    alone = found[8]  # last, one layer, exact
    assert [after for _, after in alone[1]["price of each layer"].values()] == [100]
    with mt.edit(model, tok, FACTS, "memit", layers=LAYERS, lam=0.5, statistics=C0,
                 distribution="even") as made:  # fmt: skip
        pass
    with mt.edit(model, tok, FACTS, "emmet", layers=LAYERS[-1:], statistics=C0) as alone:
        pass
    unit = objective.preservation(alone.delta(2), C0[2])
    want = [objective.preservation(made.delta(x), C0[x]) / unit for x in LAYERS]
    shown = [after for _, after in found[7][1]["price of each layer"].values()]
    assert shown == [round(100 * float(x)) for x in want]


def test_the_explorer_of_the_first_page_is_of_the_model_that_ships():
    sys.path.insert(0, str(ROOT / "tools"))
    import picture

    stored = frames(picture.EXPLORER.read_text(encoding="utf-8"))
    today = frames(picture.explore())
    assert len(stored) == len(today)
    for (_, was), (_, now) in zip(stored, today, strict=True):
        assert list(was) == list(now)
        for title, panel in was.items():
            for name, (_, percent) in panel.items():
                assert abs(percent - now[title].get(name, (0, 0))[1]) <= 2, (title, name)
