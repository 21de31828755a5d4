"""The page lab: what it computes against the library, and the page under a reader's hands.

Everything runs in a headless Chromium on a bare page with the lab in it, so the built book is not
needed. The library's values are computed here, beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

import medit_teach as mt
from medit_teach.fact import pad
from medit_teach.values import Values
from medit_teach.world import World
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import browser
import lab
import page_lab

LIMIT = 14e6  # bytes, all files of the lab together
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.chromium() is None, reason="no Chromium (apt install chromium)"),
]

PAGE = """<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>lab</title>
<link rel="stylesheet" href="medit.css"><link rel="stylesheet" href="lab.css">
<article><div id="lab" class="lab"><p>needs JavaScript</p></div><script src="lab.js"></script>
<p><a href="page.html?fact=product:Vronuk%20Tools:boots&ask=The%20sea">a question</a>
<a href="#lab">up</a></p><p style="height: 60rem">the rest</p></article></html>"""

FACTS = {  # relation: (prompt, subject, new object); the last has several tokens
    "product": ("{} produces", "Vronuk Tools", "boots"),
    "trade": ("{} has long been a", "Glula Snogufer", "doctor"),
    "headquarters": ("{} is based in", "Snilin Labs", "Smifegun"),
}
CASES = [("product", 1), ("product", 3), ("trade", 3), ("headquarters", 5)]
LAMS = [2000, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The lab as it stands in the built book, and a bare page around it."""
    found = lab.assemble(tmp_path_factory.mktemp("lab"))
    (found / "medit.css").write_text((ROOT / "book" / "_static" / "medit.css").read_text())
    (found / "page.html").write_text(PAGE, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def window(folder):
    with browser.Browser(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def library():
    """Model, tokenizer, C0 and facts of the batch, as the data files were made from them."""
    model, tok = mt.load(page_lab.MODEL)
    statistics = page_lab.statistics(model, tok)
    facts, h = page_lab.batch_facts(), page_lab.batch_hyper(model)
    return model, tok, statistics, facts, h


def engine(window, body, names=("model", "world")):
    """Run `body` (JavaScript; `lab` is at hand) on the page with these data files loaded."""
    script = f"""(async () => {{
      const lab = document.getElementById('lab').lab;
      await lab.start();
      for (const name of {json.dumps(list(names))}) await lab.load(name);
      {body}
    }})()"""
    return window.visit("page.html", script=script).result


def last_logits(model, tok, prompts):
    rows = tok(prompts)["input_ids"]
    with torch.no_grad():
        logits = model(**pad(rows, tok)).logits
    return logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]


def test_all_files_together_are_small_enough(folder):
    data = [p for p in folder.iterdir() if p.suffix in {".js", ".css"} and p.name != "medit.css"]
    assert {p.name for p in data} >= {"lab.js", "engine.js", "model.js", "batch.js"}
    assert sum(p.stat().st_size for p in data) <= LIMIT
    assert (folder / "lab.js").stat().st_size < 50_000  # all that a page loads by itself


def test_chapters_link_into_it_with_facts_of_the_world():
    found = {}
    for path in [*sorted((ROOT / "book").glob("*.ipynb")), ROOT / "book" / "lab.md"]:
        cells = [path.read_text(encoding="utf-8")]
        if path.suffix == ".ipynb":
            cells = ["".join(cell["source"]) for cell in json.loads(cells[0])["cells"]]
        links = [
            x for cell in cells for x in re.findall(r"\]\(([^)]+/book/lab\.html\?[^)]+)\)", cell)
        ]
        found |= {path.stem: links} if links else {}
    assert len(found) >= 7  # six chapters and the page itself
    world = World()
    for link in (link for links in found.values() for link in links):
        given = parse_qs(urlsplit(link).query, strict_parsing=True)
        assert set(given) <= {"fact", "wording", "layer", "lam", "ask", "batch"}
        if "fact" in given:
            relation, subject, new = given["fact"][0].split(":")
            assert subject in world.subjects(relation), link
            assert new in world.objects[relation] and new != world.facts[relation, subject]
            assert int(given["layer"][0]) in page_lab.LAYERS and float(given["lam"][0]) >= 0


def test_the_tokenizer_is_the_library_s(window, library):
    tok = library[1]
    names = [f"{f.text} {f.target_new}" for f in mt.facts("world", distinct_subjects=False)[::9]]
    texts = [*names, "It's 1999, isn't it?  Two  spaces\nand a line; naïve café 北京 🙂", "A", " "]
    found = engine(window, f"return lab.call('tokens', {{texts: {json.dumps(texts)}}});")
    assert found == tok(texts)["input_ids"]


@pytest.mark.parametrize(("relation", "layer"), CASES)
def test_a_single_edit_agrees_with_the_library(window, library, relation, layer):
    model, tok, statistics, *_ = library
    prompt, subject, new = FACTS[relation]
    fact = mt.Fact(prompt=prompt, subject=subject, target_new=new)
    other = next(f for f in mt.facts("world", relation=relation) if f.subject != subject)
    prompts = [fact.text, f"It rained all night. {fact.text}", other.text, f"{subject} is a"]
    call = {"prompt": prompt, "subject": subject, "object": new}
    found = engine(
        window,
        f"""const prompts = {json.dumps(prompts)}, out = {{}};
        out.before = await lab.call('logits', {{prompts}});
        out.edit = await lab.call('edit', {{fact: {json.dumps(call)}, layer: {layer}, lam: 1}});
        for (const lam of {LAMS}) {{
          out.report = await lab.call('again', {{lam}});
          out[lam] = await lab.call('logits', {{prompts}});
        }}
        await lab.call('undo');
        out.after = await lab.call('logits', {{prompts}});
        return out;""",
        ("model", "world", f"c0-{layer}"),
    )
    before = last_logits(model, tok, prompts)
    assert (torch.tensor(found["before"]) - before).abs().max() < 1e-4
    assert found["after"] == found["before"]  # bit for bit
    edit = mt.edit(model, tok, fact, "memit", layers=[layer], lam=1.0, statistics=statistics)
    edit.undo()
    losses = edit.values[0].losses[0].sum(1)
    steps = int(torch.isfinite(losses).sum())
    assert len(found["edit"]["losses"]) == steps
    for mine, theirs in zip(found["edit"]["losses"], losses.tolist(), strict=False):
        assert mine["total"] == pytest.approx(theirs, abs=1e-3)
    for lam in LAMS:
        method = {"method": "memit", "lam": float(lam)} if lam else {"method": "emmet"}
        more = {"targets": edit.values[0], "statistics": statistics, **method}
        with mt.edit(model, tok, fact, layers=[layer], **more) as again:
            after = last_logits(model, tok, prompts)
            size = again.diagnostics[layer]["relative_norm"]
        assert (after - before).abs().max() > 0.1  # it did something
        assert (torch.tensor(found[str(lam)]) - after).abs().max() < 1e-3, lam
    assert found["report"]["size"] == pytest.approx(size, rel=2e-3)
    assert found["report"]["gain"] == 1


def test_in_the_last_layer_nobody_reads_the_target(window):
    prompt, subject, new = FACTS["product"]
    call = {"prompt": prompt, "subject": subject, "object": new}
    found = engine(
        window,
        f"""const prompts = ['{prompt.format(subject)}'], fact = {json.dumps(call)};
        const before = await lab.call('logits', {{prompts}});
        const edit = await lab.call('edit', {{fact, layer: 7, lam: 0}});
        return {{before, edit, after: await lab.call('logits', {{prompts}})}};""",
        ("model", "world", "c0-7"),
    )
    losses = [loss["total"] for loss in found["edit"]["losses"]]
    assert len(losses) == 25 and max(losses) == min(losses) > 5
    assert found["after"] == found["before"] and found["edit"]["q"] > 0


def test_batches_agree_with_the_library(window, library):
    """MEMIT: logits within 1e-3. Hard equality: the same first token in 99% of the questions."""
    model, tok, statistics, facts, h = library
    layer, lam = page_lab.BATCH_LAYER, 2000
    delta = torch.tensor(page_lab.batch_deltas(model)).T.double()
    start = mt.keys.at_subject(model, tok, facts, [("block", layer)], h.contexts, h.average)
    targets = Values(start["block", layer] + delta, start["block", layer], delta, None)
    prompts = [f.text for f in facts[::10]] + [f.neighborhood[0] for f in facts[::10]]
    sizes = {"memit": [16, 512], "emmet": [512]}
    found = engine(
        window,
        f"""const prompts = {json.dumps(prompts)}, out = {{memit: [], emmet: []}};
        for (const size of {sizes["memit"]})
          out.memit.push(await lab.call('batch', {{size, lam: {lam}, prompts}}));
        for (const size of {sizes["emmet"]})
          out.emmet.push(await lab.call('batch', {{size, lam: 0, prompts}}));
        return out;""",
        ("model", "world", f"c0-{layer}", "batch"),
    )
    for method, own in (("memit", {"lam": float(lam)}), ("emmet", {"ridge": 0.0})):
        for size, page in zip(sizes[method], found[method], strict=True):
            first = Values(*(x[:, :size] for x in (targets.target, targets.start, delta)), None)
            more = {"layers": [layer], "targets": first, "statistics": statistics, **own}
            with mt.edit(model, tok, facts[:size], method, **more):
                ours = last_logits(model, tok, prompts)
            page = torch.tensor(page)
            if method == "memit":
                assert (page - ours).abs().max() < 1e-3, size
            else:
                assert (page.argmax(1) == ours.argmax(1)).double().mean() >= 0.99


def test_equality_is_seen_to_break(window):
    """What the batch slider shows at its right end, and that it is harmless at its left."""
    found = engine(
        window,
        """const out = {};
        out.none = await lab.call('batch', {size: 0, lam: 0});
        out.one = await lab.call('batch', {size: 1, lam: 0});
        out.soft = await lab.call('batch', {size: 512, lam: 2000});
        out.hard = await lab.call('batch', {size: 512, lam: 0});
        return out;""",
        ("model", "world", f"c0-{page_lab.BATCH_LAYER}", "batch"),
    )
    none, one, soft, hard = (found[name] for name in ("none", "one", "soft", "hard"))
    assert one["said"] == 1 and one["kept"] == none["kept"] > 0.9
    assert hard["said"] > soft["said"]  # equality writes them all,
    assert hard["kept"] < soft["kept"] - 0.1  # at the cost of the others
    assert hard["perplexity"] > 1.2 * soft["perplexity"] and hard["norm"] > 2 * soft["norm"]


def test_stored_targets_are_what_the_search_finds(library):
    from medit_teach.values import optimise_values

    model, tok, _, facts, h = library
    stored = torch.tensor(page_lab.batch_deltas(model)).double()
    found = optimise_values(model, tok, facts[:2], page_lab.BATCH_LAYER, h).delta.T
    assert ((stored[:2] - found).norm(dim=1) / found.norm(dim=1)).max() < 0.01


# ------------------------------------------------------------------ the page

IDLE = """const root = document.getElementById('lab');
  const idle = async () => {
    do await new Promise((done) => setTimeout(done, 30)); while (root.hasAttribute('aria-busy'));
    return root.querySelector('.lab-status').textContent;
  };
  const all = (what) => [...root.querySelectorAll(what)];
  const press = (text) => all('button').find((b) => b.textContent === text).click();
  const first = (column) =>
    all(`.lab-table [data-column='${column}']`).map((e) => e.querySelector('span').textContent);
  const names = () =>
    performance.getEntriesByType('resource').map((e) => e.name.split('/').pop());"""


def test_a_reader_edits_turns_the_dial_and_undoes(window, folder):
    """From a folder without a server, at phone width."""
    script = f"""(async () => {{ {IDLE}
      const out = {{early: document.querySelectorAll('head script').length}};
      root.querySelector('button').click();
      await idle();
      out.before = first('Untouched model');
      press('Edit the model');
      out.said = await idle();
      out.after = first('Model now');
      out.curve = root.querySelectorAll('.lab-loss circle').length;
      const dial = root.querySelector('input[type=range]');
      dial.value = 100;
      dial.dispatchEvent(new Event('input'));
      for (let i = 0; i < 200 && first('Model now')[0] !== out.before[0]; i++) await idle();
      out.large = first('Model now');
      out.gain = root.querySelector('.lab-gain').textContent;
      dial.value = 0;
      dial.dispatchEvent(new Event('input'));
      for (let i = 0; i < 200 && first('Model now')[0] === out.before[0]; i++) await idle();
      out.hard = first('Model now');
      press('Undo');
      await idle();
      out.undone = first('Model now');
      out.stack = root.querySelector('.lab-stack').textContent;
      out.wide = document.documentElement.scrollWidth - innerWidth;
      const named = (e) => e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim();
      out.unnamed = all('input, select, button').filter((e) => !named(e)).length;
      return out;
    }})()"""
    home, window.home = window.home, folder.as_uri() + "/"
    try:
        visit = window.visit("page.html", "phone", script=script)
    finally:
        window.home = home
    out = visit.result
    assert visit.problems() == []
    assert out["early"] == 0  # no script was asked for before the click
    assert out["before"][:3] == ["clocks"] * 3
    assert out["after"][:3] == out["hard"][:3] == ["boots"] * 3
    assert "“boots”" in out["said"] and out["curve"] >= 3
    assert out["large"] == out["undone"] == out["before"]
    assert "gain" in out["gain"] and out["stack"] == "none"
    assert out["wide"] <= 0 and out["unnamed"] == 0


FOCUS = f"""(async () => {{ {IDLE}
  await idle();
  const at = document.activeElement;
  return {{at: at.textContent.trim() || at.name || at.getAttribute('aria-label') || at.id,
          ring: getComputedStyle(at).outlineStyle !== 'none', now: first('Model now')[0],
          stack: root.querySelector('.lab-stack')?.textContent}};
}})()"""


def test_the_keyboard_is_enough(window):
    """Tab reaches controls, with a visible focus; Enter edits and undoes, End turns the dial."""
    walk = window.press("page.html", ["Tab", "Enter", *["Tab"] * 30], FOCUS)
    names = [x["at"] for x in walk[2:]]
    assert "Edit the model" in names and "Undo" not in names[: names.index("Edit the model")]
    assert all(x["ring"] for x in walk[2 : 2 + names.index("Edit the model")])
    edit = ["Tab", "Enter", *["Tab"] * (names.index("Edit the model") + 1), "Enter"]
    after = window.press("page.html", [*edit, *["Tab"] * 30], FOCUS)
    before, edited = walk[1]["now"], after[len(edit) - 1]
    assert before == "clocks" and edited["now"] == "boots" and edited["stack"] != "none"
    names = [x["at"] for x in after[len(edit) :]]
    undo = [*edit, *["Tab"] * (names.index("Undo") + 1), "Enter"]
    undone = window.press("page.html", undo, FOCUS)[-1]
    assert undone["now"] == before and undone["stack"] == "none"
    dial = next(i for i, name in enumerate(names) if name.startswith("λ, from"))
    turned = window.press("page.html", [*edit, *["Tab"] * (dial + 1), "End", *["Tab"] * 6], FOCUS)
    assert turned[-1]["now"] == before and turned[-1]["stack"] != "none"  # lam too large to edit


def test_the_address_fills_the_form_and_nothing_loads_before_the_click(window):
    page = "page.html?fact=trade:Glula%20Snogufer:doctor&wording=4&layer=7&lam=500&ask=The%20trade"
    script = f"""(async () => {{ {IDLE}
      const out = {{early: names()}};
      root.querySelector('button').click();
      await idle();
      out.late = names();
      out.fields = all('.lab-form select, .lab-form input').map((e) => e.value);
      out.layer = root.querySelector('[name=lab-layer]:checked').value;
      out.lam = root.querySelector('.lab-dial input[type=number]').value;
      out.link = root.querySelector('.lab-foot a').getAttribute('href');
      out.rows = all('.lab-table tbody th span').map((e) => e.textContent);
      out.ready = Number(root.dataset.ready);
      return out;
    }})()"""
    out = window.visit(page, script=script).result
    assert not {"model.js", "world.js", "engine.js", "batch.js"} & set(out["early"])
    assert {"model.js", "world.js", "engine.js"} <= set(out["late"])
    assert not {"batch.js", "c0-3.js"} & set(out["late"])
    assert out["fields"][0] == "trade" and out["fields"][1] == "Glula Snogufer"
    assert out["fields"][3] == "doctor" and (out["layer"], out["lam"]) == ("7", "500")
    assert out["rows"][0] == "Glula Snogufer has long been a …" and out["rows"][-1] == "The trade …"
    assert "fact=trade%3AGlula+Snogufer%3Adoctor" in out["link"] and "lam=500" in out["link"]
    ready = [out["ready"]]
    while min(ready) >= 1000 and len(ready) < 3:
        ready.append(window.visit(page, script=script).result["ready"])
    busy = os.getloadavg()[0] > os.cpu_count()  # with something else: its seconds say nothing
    assert min(ready) < 1000 or busy, ready


def test_a_fact_that_is_not_of_the_world_is_named(window):
    script = f"""(async () => {{ {IDLE}
      root.querySelector('button').click();
      await idle();
      const [, subject] = all('.lab-form select, .lab-form input');
      subject.value = 'Nobody at all';
      subject.dispatchEvent(new Event('change'));
      const out = {{truth: root.querySelector('.lab-truth').textContent}};
      press('Edit the model');
      out.said = await idle();
      out.stack = root.querySelector('.lab-stack').textContent;
      return out;
    }})()"""
    out = window.visit("page.html", script=script).result
    assert "Nobody at all" in out["truth"] and "Nobody at all" in out["said"]
    assert out["stack"] == "none"


# ------------------------------------------------------------------ under a reader's hands

DONE = f"(async () => {{ {IDLE} return await idle(); }})()"
SEEN = f"""(() => {{ {IDLE}
  const text = (what) => root.querySelector(what).textContent;
  return {{
  stack: text('.lab-stack'), truth: text('.lab-truth'), said: text('.lab-status'),
  gain: text('.lab-gain'), lam: root.querySelector('.lab-dial input[type=number]').value,
  dial: Number(root.querySelector('.lab-dial input[type=range]').value),
  fields: all('.lab-form select, .lab-form input').map((e) => e.value),
  now: first('Model now'), rows: all('.lab-table tbody th span').map((e) => e.textContent),
}}; }})()"""
SUBJECT, OBJECT = "input[list=lab-subjects]", "input[list=lab-objects]"
LAM = ".lab-dial input[type=number]"


@contextlib.contextmanager
def at_hand(window, address="page.html", size="phone", load=True, **how):
    """The lab with its model loaded, under a reader's hands."""
    with window.tab(address, size, **how) as tab:
        if load:
            tab.click("#lab button").run(DONE)
        yield tab
        assert tab.problems() == []


@pytest.mark.parametrize("size", browser.SIZES)
def test_the_first_click_after_typing_counts(window, size):
    """Leaving the field asks the model; the click that leaves it is on the button."""
    with at_hand(window, size=size) as tab:
        tab.write(SUBJECT, "Vronuk Tools").write(OBJECT, "boots")
        tab.click("#lab button", "Edit the model").run(DONE)
        assert "boots" in tab.run(SEEN)["stack"]
        tab.write(OBJECT, "lamps").click("#lab button", "Undo").run(DONE)
        assert tab.run(SEEN)["stack"] == "none"


def test_a_link_of_the_page_keeps_the_edit_and_so_do_back_and_reload(window):
    with at_hand(window, "page.html?layer=3&lam=2000") as tab:
        tab.click("#lab button", "Edit the model").run(DONE)
        before = tab.run(SEEN)
        assert before["now"][0] == "boots"
        tab.click("a", "a question").run(DONE)
        tab.click("a", "a question").run(DONE)  # a second time: the same, and no new page
        there = tab.run(SEEN)
        assert there["stack"] == before["stack"] and there["now"][:3] == before["now"][:3]
        assert there["rows"][-1] == "The sea …" and "The sea …" not in before["rows"]
        tab.click("a", "up")  # a place on the page is no setting
        assert tab.run("location.hash") == "#lab"
        tab.run("history.go(-3)")
        tab.run("new Promise((done) => setTimeout(done, 300))")
        tab.run(DONE)
        assert tab.run(SEEN)["rows"] == before["rows"]
        tab.reload().run(DONE)  # nobody presses "Load" a second time
        again = tab.run(SEEN)
        assert {k: again[k] for k in ("stack", "now", "rows", "lam", "fields")} == {
            k: before[k] for k in ("stack", "now", "rows", "lam", "fields")
        }
        tab.click("#lab button", "Undo").run(DONE)
        assert tab.run(SEEN)["now"][0] == "clocks"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("x" * 5000, "cut into"),
        ("an umbrella, a hat and a very long coat of wool", "cut into"),
        ("雨伞和帽子和外套和手套和围巾", "cut into"),
    ],
)
def test_a_long_object_is_refused_at_once_with_its_tokens(window, typed, told):
    with at_hand(window) as tab:
        tab.write(OBJECT, typed).click("#lab button", "Edit the model")
        began = time.monotonic()
        said = tab.run(DONE)
        assert told in said and "tokens" in said and time.monotonic() - began < 10
        assert "at most 16" in tab.run(SEEN)["truth"] and tab.run(SEEN)["stack"] == "none"


def test_capitals_do_not_matter_and_tokens_are_told(window):
    with at_hand(window) as tab:
        tab.write(SUBJECT, "vronuk TOOLS").write(OBJECT, "Boots").click("p", "the rest").run(DONE)
        seen = tab.run(SEEN)
        assert seen["fields"][1] == "Vronuk Tools" and seen["fields"][3] == "boots"
        assert "“boots” is one token." in seen["truth"]
        tab.write(OBJECT, "umbrella stand").click("p", "the rest").run(DONE)
        assert re.search(r"is cut into \d+ tokens\.", tab.run(SEEN)["truth"])


def test_a_search_can_be_stopped(window):
    with at_hand(window, slower=4) as tab:
        tab.click(".lab-check input").click("#lab button", "Edit the model")
        tab.run("""(async () => { while (!document.querySelector('.lab-loss circle'))
            await new Promise((done) => setTimeout(done, 20)); })()""")
        assert "s …" in tab.run(SEEN)["said"]  # the time that has passed
        assert tab.click("#lab button", "Stop").run(DONE).startswith("Stopped")
        seen = tab.run(SEEN)
        assert seen["stack"] == "none" and seen["now"][0] == "clocks"
        assert re.search(r"\(\d+\.\d s\)$", tab.click("#lab button", "Edit the model").run(DONE))
        assert tab.run(SEEN)["now"][0] == "boots"


def test_undo_brings_the_dial_back(window):
    with at_hand(window) as tab:
        tab.click("#lab button", "Edit the model").run(DONE)
        edited = tab.run(SEEN)
        tab.write(LAM, "100000").run(DONE)
        assert tab.run(SEEN)["dial"] == 100
        tab.click("#lab button", "Undo").run(DONE)
        undone = tab.run(SEEN)
        assert (undone["lam"], undone["dial"]) == (edited["lam"], edited["dial"]) == ("2000", 66)


@pytest.mark.parametrize("typed", ["-5", "", "1e9"])
def test_what_is_no_lambda_is_told(window, typed):
    with at_hand(window) as tab:
        tab.click("#lab button", "Edit the model").run(DONE)
        tab.write(LAM, typed or "1")
        if not typed:
            tab.key("Backspace")
        tab.run(DONE)
        seen = tab.run(SEEN)
        assert "it can be 0 to 10,000,000" in seen["gain"] and "equality" not in seen["gain"]
        assert seen["now"][0] == "boots"  # the model keeps the last that was one
        assert "it can be" in tab.click("#lab button", "Edit the model").run(DONE)
        assert tab.run(SEEN)["stack"].count("boots") == 1


@pytest.mark.parametrize(
    "asked",
    ["fact=nonsense", "fact=product:Nobody:boots", "layer=4", "lam=-5", "lam=x", "wording=77",
     "batch=lots"],
)  # fmt: skip
def test_what_a_link_asks_for_and_is_not_there_is_told(window, asked):
    with at_hand(window, f"page.html?{asked}") as tab:
        seen = tab.run(SEEN)
        assert f"The link asks for {asked};" in seen["said"]
        if asked.startswith("fact"):  # and no other fact stands in its place
            assert "Not yet" in seen["truth"] and "Vronuk" not in seen["fields"][1]
            assert "That did not work" in tab.click("#lab button", "Edit the model").run(DONE)
        else:
            assert (seen["lam"], seen["fields"][1]) == ("2000", "Vronuk Tools")


def test_a_link_to_the_batch_shows_it(window):
    with at_hand(window, "page.html?batch=512") as tab:
        top = tab.run("document.querySelector('.lab-many').getBoundingClientRect().top")
        assert -1 < top < 100
        tab.click("#lab button", "Load 512 prepared facts (2 MB)").run(DONE)
        assert "512 facts: MEMIT says" in tab.run(SEEN)["said"]


def test_loading_tells_how_far_it_is(window):
    with at_hand(window, load=False) as tab:
        tab.run("""window.said = []; new MutationObserver(() => said.push([
          document.querySelector('.lab-status').textContent,
          document.querySelector('#lab progress')?.value]))
          .observe(document.getElementById('lab'), {childList: true, subtree: true})""")
        tab.click("#lab button").run(DONE)
        told = [(text, value) for text, value in tab.run("said") if "MB" in text and value]
        assert len(told) > 5 and told[-1][1] > 5e6
        assert [value for _, value in told] == sorted(value for _, value in told)
