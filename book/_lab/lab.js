/* The page lab's page: form, pictures and tables around the engine (engine.js).

   Nothing but this file is loaded before the reader asks for it. Data files are scripts that call
   labData; they come through script elements, which also work from a folder without a server. */

(() => {
  "use strict";

  const root = document.getElementById("lab");
  const base = new URL(".", document.currentScript.src).href;

  // ---------------------------------------------------------------- files and the engine

  const arrived = {}; // name: what to call when the data file is there

  window.labData = (name, header, text) => arrived[name]({ name, header, text });

  function script(file, source = base + file) {
    return new Promise((done, fail) => {
      const element = document.createElement("script");
      element.src = source;
      element.onload = done;
      element.onerror = () => fail(new Error(`${file} could not be loaded`));
      document.head.append(element);
    });
  }

  const received = new Map(); // bytes of each file so far

  /** The same, and `arriving` is told of every piece. From a folder no file can be read piece by
      piece: there the script element has to do. */
  async function scriptInPieces(file) {
    if (!location.protocol.startsWith("http")) return script(file);
    const answer = await fetch(base + file).catch(() => ({}));
    if (!answer.ok) throw new Error(`${file} could not be loaded`);
    const pieces = [];
    const reader = answer.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      received.set(file, (received.get(file) || 0) + value.length);
      arriving();
    }
    const url = URL.createObjectURL(new Blob(pieces, { type: "text/javascript" }));
    await script(file, url);
    URL.revokeObjectURL(url);
  }

  /** How far the files are, in words. */
  function arriving() {
    const bytes = [...received.values()].reduce((a, b) => a + b, 0);
    say(`Loading … ${(bytes / 1e6).toFixed(1)} MB are here`);
    if (ui.progress) ui.progress.value = bytes;
  }

  const engine = { waiting: new Map(), number: 0, loaded: new Map() };

  function receive({ id, result, error, step }) {
    const { done, fail, progress } = engine.waiting.get(id);
    if (step) return progress && progress(step);
    engine.waiting.delete(id);
    if (error) fail(new Error(error));
    else done(result);
  }

  /** Run labEngine in a worker; beside the page where the browser allows none. */
  async function startEngine() {
    await script("engine.js");
    const pause = "() => new Promise((done) => setTimeout(done))"; // so that a Stop is heard
    const code = `const serve = (${window.labEngine})().serve(postMessage, ${pause});
      onmessage = ({ data }) => serve(data);`;
    try {
      const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      const worker = new Worker(url);
      worker.onmessage = ({ data }) => receive(data);
      engine.send = (message) => worker.postMessage(message);
    } catch {
      const serve = window.labEngine().serve(receive, () => new Promise((done) => setTimeout(done)));
      engine.send = (message) => setTimeout(() => serve(message));
    }
  }

  /** Ask the engine; `progress` is called with each step on the way. */
  function call(name, args, progress) {
    return new Promise((done, fail) => {
      const id = ++engine.number;
      engine.waiting.set(id, { done, fail, progress });
      engine.send({ id, call: name, args });
    });
  }

  /** Load a data file once, into the engine; gives its header. */
  function load(name) {
    if (!engine.loaded.has(name)) {
      const file = new Promise((done) => (arrived[name] = done));
      const whole = scriptInPieces(`${name}.js`)
        .then(() => file)
        .then(async (data) => {
          await call("load", data);
          return data.header;
        });
      whole.catch(() => engine.loaded.delete(name));
      engine.loaded.set(name, whole);
    }
    return engine.loaded.get(name);
  }

  // ---------------------------------------------------------------- small helpers

  /** An element: h("p", {class: "x", onclick: f}, "text", child). */
  function h(tag, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "text", "circle", "rect", "g", "title"].includes(tag);
    const element = svg
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const label = (text, control) => h("label", { class: "lab-field" }, h("span", {}, text), control);
  const percent = (p) => `${Math.round(100 * p)}%`;
  /** A probability, never rounded to certainty. */
  const chance = (p) => (p < 0.005 ? "<1%" : p > 0.995 ? ">99%" : percent(p));
  const short = (x) =>
    x === 0 ? "0" : x >= 100 ? Math.round(x).toLocaleString("en") : x.toPrecision(2);

  // λ on the slider: 0 at the left end, then 1 to 100,000 on a logarithmic scale
  const DIAL = 100;
  const toLam = (position) =>
    position === 0 ? 0 : Number((10 ** ((5 * (position - 1)) / (DIAL - 1))).toPrecision(3));
  const toPosition = (lam) =>
    lam < 1 ? 0 : Math.min(DIAL, Math.round(1 + ((DIAL - 1) * Math.log10(lam)) / 5));

  // ---------------------------------------------------------------- what the page shows

  const ui = {}; // elements that change
  let world = null; // header of world.js
  const edits = []; // applied, oldest first: {fact, asked: its first λ, report}
  let parameters = new URLSearchParams(location.search);

  function say(text) {
    ui.status.textContent = text;
  }

  // ------------------------------------------------ one thing after the other

  let line = Promise.resolve(); // what is to be done, in the order in which it was asked for
  const waiting = new Set();
  let stopped = false;

  /** Do `job` when all that was asked for before is done; errors are told. The same job again, while
      it waits, is the same wish: a job reads the form when its turn comes. The button that asked for
      it is off until it is done, in words: a disabled one would lose the keyboard's focus. */
  function work(text, job, button = null) {
    if (waiting.has(job) || off(button)) return;
    waiting.add(job);
    root.setAttribute("aria-busy", "true");
    if (button) mark(button, false);
    line = line.then(async () => {
      waiting.delete(job);
      stopped = false;
      if (text) say(text);
      try {
        await job();
      } catch (error) {
        say(stopped ? "Stopped. The model is as it was." : `That did not work: ${error.message}.`);
      }
      if (document.activeElement === ui.stop) button?.focus();
      ui.stop.hidden = true;
      if (button) mark(button, true);
      if (ui.undo) mark(ui.undo, edits.length && !waiting.has(undo));
      if (!waiting.size) root.removeAttribute("aria-busy");
    });
  }

  const off = (button) => button?.getAttribute("aria-disabled") === "true";
  const mark = (button, on) => button.setAttribute("aria-disabled", !on);

  function stop() {
    stopped = true;
    call("stop");
  }

  // ------------------------------------------------ the start

  /** What a reload or a step back brings again, of this page in this tab. */
  const memory = {
    name: `lab ${location.pathname}`,
    read() {
      const [how] = performance.getEntriesByType("navigation");
      if (!how || how.type === "navigate") return null;
      try {
        return JSON.parse(sessionStorage.getItem(this.name));
      } catch {
        return null;
      }
    },
    write() {
      try {
        sessionStorage.setItem(this.name, JSON.stringify(edits));
      } catch {
        // a browser that keeps nothing
      }
    },
  };

  function welcome() {
    ui.status = h("p", { class: "lab-status", role: "status" }, "");
    ui.offer = h("p", {});
    const button = h("button", { class: "lab-main", type: "button" }, "Load the model (9 MB)");
    button.addEventListener("click", () => work("Loading …", start, button));
    ui.progress = h("progress", { max: 9e6, hidden: true, "aria-label": "Loading" });
    ui.start = h("div", { class: "lab-start" }, button, ui.offer, ui.progress);
    ui.stop = h("button", { type: "button", hidden: true, onclick: stop }, "Stop");
    ui.bar = h("div", { class: "lab-bar" }, ui.status, ui.stop);
    root.replaceChildren(ui.start, ui.bar);
    offer();
    document.addEventListener("click", follow);
    addEventListener("popstate", settingChanged);
    if (memory.read()) work("Loading …", start, button); // the reader has asked for it before
  }

  function offer() {
    const asked = parameters.get("fact");
    ui.offer.textContent = asked
      ? `The link that brought you here names a fact (${asked.split(":").slice(0, 2).reverse().join(", ")}). It will be filled in.`
      : "Until you press it, this page is only text. After it, everything happens in your browser.";
  }

  /** A link of this page to a setting is followed in place: the model and its edits stay. */
  function follow(event) {
    const link = event.target.closest?.("a[href]");
    const modified = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!link || modified || event.defaultPrevented || link.pathname !== location.pathname) return;
    const place = link.hash && link.search === location.search; // on the page, no setting
    if (link.host !== location.host || !link.search || place) return;
    event.preventDefault();
    go("pushState", link.search + link.hash);
    settingChanged();
    root.scrollIntoView();
  }

  /** Put `search` into the address; some browsers allow that only on a server. */
  function go(how, search) {
    parameters = new URLSearchParams(search);
    try {
      history[how](null, "", search);
    } catch {
      // the page goes on without
    }
  }

  /** The address names another setting: fill it in. */
  function settingChanged(event) {
    if (event) parameters = new URLSearchParams(location.search);
    if (!root.dataset.ready) return offer();
    fromAddress();
    if (parameters.has("batch")) showBatch();
  }

  async function start() {
    const began = performance.now();
    ui.progress.hidden = false;
    if (!engine.send) await startEngine();
    [world] = await Promise.all([load("world"), load("model")]);
    ui.start.remove();
    delete ui.progress;
    build();
    const complaint = fromAddress();
    ui.relation.focus({ preventScroll: true });
    root.dataset.ready = Math.round(performance.now() - began); // milliseconds from the click
    await restore(memory.read() || []);
    memory.write();
    await showTable();
    say(complaint || "The model is here. Change a fact.");
    if (parameters.has("batch")) showBatch();
  }

  /** Edits that were there before the page was loaded again; their targets were kept. */
  async function restore(kept) {
    for (const { fact, asked, report } of kept) {
      say("Putting your edits back …");
      await load(`c0-${report.layer}`);
      const { layer, lam } = report;
      edits.push({ fact, asked, report: await call("edit", { fact, layer, lam, made: report }) });
      setLam(lam);
    }
    showEdits();
  }

  // ------------------------------------------------ the form

  function build() {
    const change = () => factChanged();
    ui.relation = h(
      "select",
      { onchange: relationChanged },
      ...world.relations.map((r) => h("option", {}, r.name)),
    );
    ui.subjects = h("datalist", { id: "lab-subjects" });
    ui.subject = h("input", {
      list: "lab-subjects",
      autocomplete: "off",
      spellcheck: "false",
      onchange: change,
    });
    ui.wording = h("select", { onchange: change });
    ui.objects = h("datalist", { id: "lab-objects" });
    ui.object = h("input", {
      list: "lab-objects",
      autocomplete: "off",
      spellcheck: "false",
      onchange: change,
    });
    const other = h("button", { type: "button", onclick: anotherFact }, "Another fact");
    ui.truth = h("p", { class: "lab-truth" });

    ui.layers = h(
      "fieldset",
      { class: "lab-layers" },
      h("legend", {}, "Layer"),
      ...world.layers.map((layer) =>
        h(
          "label",
          {},
          h("input", {
            type: "radio",
            name: "lab-layer",
            value: layer,
            checked: layer === 3,
            onchange: address,
          }),
          ` ${layer}`,
        ),
      ),
    );
    ui.slow = h("input", { type: "checkbox" });
    const edit = h("button", { class: "lab-main", type: "button" }, "Edit the model");
    edit.addEventListener("click", () => work("Looking for the target …", makeEdit, edit));
    ui.undo = h("button", { type: "button", "aria-disabled": "true", onclick: () => work("Undoing …", undo, ui.undo) }, "Undo");

    ui.dial = h("input", {
      type: "range",
      min: 0,
      max: DIAL,
      step: 1,
      "aria-label": "λ, from hard equality to 100,000",
    });
    ui.lam = h("input", { type: "number", min: 0, max: 1e7, step: "any", value: world.hyper.lam });
    ui.dial.addEventListener("input", () => turned(toLam(Number(ui.dial.value))));
    ui.lam.addEventListener("input", () => turned());
    ui.gain = h("output", { class: "lab-gain" });

    ui.loss = h("figure", { class: "lab-loss" });
    ui.numbers = h("dl", { class: "lab-numbers" });
    ui.stack = h("ol", { class: "lab-stack" });
    ui.link = h("a", { href: "?" }, "Link to this setting");
    ui.question = h("input", { type: "text", spellcheck: "false", autocomplete: "off" });
    const ask = h(
      "form",
      { class: "lab-ask" },
      label("A question of your own", ui.question),
      h("button", {}, "Ask"),
    );
    ask.addEventListener("submit", (event) => {
      event.preventDefault();
      address();
      work("Asking …", askOwn);
    });
    ui.rows = h("tbody", {});
    ui.batch = batchPanel();

    root.append(
      h(
        "form",
        { class: "lab-form", onsubmit: (event) => event.preventDefault() },
        label("Relation", ui.relation),
        label("Subject", ui.subject),
        label("Wording", ui.wording),
        label("New object", ui.object),
        ui.subjects,
        ui.objects,
        h("div", { class: "lab-buttons" }, other),
        ui.truth,
      ),
      h(
        "div",
        { class: "lab-run" },
        ui.layers,
        h("label", { class: "lab-check" }, ui.slow, " small steps: all 25, learning rate 0.1"),
        h("div", { class: "lab-buttons" }, edit, ui.undo),
      ),
      h("div", { class: "lab-found" }, ui.loss, ui.numbers),
      h(
        "div",
        { class: "lab-dial" },
        h("span", { class: "lab-dial-name" }, "λ, how much the rest counts"),
        ui.dial,
        label("λ", ui.lam),
        ui.gain,
      ),
      h(
        "table",
        { class: "lab-table" },
        h("caption", {}, "The likeliest next tokens"),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...["Question", "Untouched model", "Model now"].map((t) =>
              h("th", { scope: "col" }, t),
            ),
          ),
        ),
        ui.rows,
      ),
      ask,
      h("div", { class: "lab-foot" }, h("div", {}, "Applied edits:", ui.stack), ui.link),
      ui.batch,
    );
    root.append(ui.bar);
    setLam(world.hyper.lam);
    showStack();
    relationChanged();
  }

  const relation = () => world.relations[ui.relation.selectedIndex];
  const layer = () => Number(root.querySelector("[name=lab-layer]:checked").value);

  function options(list, words) {
    list.replaceChildren(...words.map((word) => h("option", { value: word })));
  }

  /** Subjects whose fact the model was taught often, and that edits may use. */
  function subjects(r) {
    const mine = (_, i) => r.known[i] === "1" && world.editable[r.of][i] === "1" && r.facts[i] >= 0;
    return world.names[r.of].filter(mine);
  }

  function fillLists() {
    const r = relation();
    options(ui.subjects, subjects(r));
    options(ui.objects, [...r.objects].sort());
    ui.wording.replaceChildren(
      ...r.prompts.map((p) => h("option", {}, p.replace("{}", "…") + " …")),
    );
  }

  function relationChanged() {
    fillLists();
    anotherFact();
  }

  let turn = 0;

  /** The next subject of the relation, and a new object for it. */
  function anotherFact() {
    const r = relation();
    const all = subjects(r);
    turn += 7;
    ui.subject.value = all[turn % all.length];
    const others = r.objects.filter((o) => o !== truth(ui.subject.value, r));
    ui.object.value = others[turn % others.length];
    factChanged();
  }

  function truth(subject, r = relation()) {
    const i = world.names[r.of].indexOf(subject);
    return i < 0 ? null : r.objects[r.facts[i]];
  }

  /** A word as the list spells it, whatever its capitals. */
  const spelled = (word, list) =>
    list.find((known) => known === word) ||
    list.find((known) => known.toLowerCase() === word.toLowerCase()) ||
    word;

  /** The fact of the form; an Error in words if it is not one of the world. */
  function fact() {
    const r = relation();
    const subject = spelled(ui.subject.value.trim(), world.names[r.of]);
    const object = spelled(ui.object.value.trim(), r.objects);
    if (!subject) throw new Error("the subject is empty; pick one from the list");
    if (truth(subject) === null)
      throw new Error(`“${subject}” is no ${r.of} of this world; pick one from the list`);
    if (!object) throw new Error("the new object is empty");
    return { relation: r.name, prompt: r.prompts[ui.wording.selectedIndex], subject, object };
  }

  function complete() {
    try {
      return fact();
    } catch {
      return null;
    }
  }

  /** The form has another fact; `notice` is what the reader is to know of it. */
  function factChanged(notice = "") {
    ui.notice = notice;
    try {
      const { prompt, subject, object } = fact();
      [ui.subject.value, ui.object.value] = [subject, object];
      ui.cut = h("span", { class: "lab-cut" });
      ui.truth.replaceChildren(
        "In this world: ",
        h("b", {}, `${prompt.replace("{}", subject)} ${truth(subject)}`),
        ". ",
        ui.cut,
      );
      if (root.dataset.ready) work("Asking the model …", refresh);
    } catch (error) {
      ui.truth.textContent = `Not yet: ${error.message}.`;
      if (notice) say(notice);
    }
    address();
  }

  /** The table for the form's fact. */
  async function refresh() {
    await showTable();
    say(ui.notice);
  }

  async function askOwn() {
    await showTable();
    say("Your question stands at the end of the table.");
  }

  /** A number field's value; an Error in words if it is none, or not in its range. */
  function number({ value, min, max }) {
    const found = value.trim() ? Number(value) : NaN;
    if (found >= Number(min) && found <= Number(max)) return found;
    const given = value.trim() ? `“${value}”` : "no number";
    throw new Error(`λ is ${given}; it can be ${min} to ${Number(max).toLocaleString("en")}`);
  }

  // ------------------------------------------------ questions and answers

  /** What is asked: the prompt, two paraphrases, three neighbours (where nobody else has the old
      object: three other subjects), the reader's own question. */
  function questions() {
    const r = relation();
    const { prompt, subject } = fact();
    const [one, two] = r.paraphrases.map((p) => p.replace("{}", subject));
    const old = truth(subject);
    const others = world.names[r.of].filter((name, i) => r.known[i] === "1" && name !== subject);
    const like = others.filter((name) => truth(name) === old);
    const neighbours = (like.length ? like : others).slice(0, 3);
    const kind = like.length ? "a neighbour" : "another subject";
    const out = [
      ["the prompt", prompt.replace("{}", subject)],
      ["a paraphrase", one],
      ["another, in a text", `${world.sentence} ${two}`],
      ...neighbours.map((name) => [kind, prompt.replace("{}", name)]),
    ];
    if (ui.question.value.trim()) out.push(["your question", ui.question.value.trim()]);
    return out;
  }

  const before = new Map(); // answers of the untouched model, by question

  /** Ask all questions; what was said before and now, or nothing while the form has no fact. */
  async function showTable() {
    if (!complete()) return [];
    const asked = questions();
    const { subject, object } = fact();
    const [ids] = await call("tokens", { texts: [` ${object}`] });
    const most = world.hyper.longest;
    ui.cut.textContent =
      (ids.length === 1 ? `“${object}” is one token` : `“${object}” is cut into ${ids.length} tokens`) +
      (ids.length > most ? `; a target is searched for at most ${most}.` : ".");
    const prompts = asked.map(([, text]) => text);
    if (prompts.some((text) => !before.has(text))) {
      const found = await call("ask", { prompts, was: true });
      found.forEach((answers, i) => before.set(prompts[i], answers));
    }
    const now = edits.length
      ? await call("ask", { prompts })
      : prompts.map((text) => before.get(text));
    // the first token of a longer name tells it, unless both names begin with it
    const begins = (name, token) => name === token || (token && name.startsWith(token));
    const kind = (token) => {
      const [isNew, isOld] = [begins(object, token), begins(truth(subject), token)];
      return isNew === isOld ? "other" : isNew ? "new" : "old";
    };
    const bars = ({ top, says }) =>
      h(
        "ul",
        { class: "lab-bars" },
        ...(says && says !== top[0].token.trim()
          ? [h("li", { class: "lab-says" }, `“${says}”`)]
          : []),
        ...top
          .slice(0, 3)
          .map(({ token, p }) =>
            h(
              "li",
              { class: `lab-${kind(token.trim())}`, style: `--p: ${(100 * p).toFixed(1)}%` },
              h("span", {}, token.trim() || "(space)"),
              h("span", {}, chance(p)),
            ),
          ),
      );
    ui.rows.replaceChildren(
      ...asked.map(([what, text], i) => {
        const moved = before.get(text).says !== now[i].says;
        return h(
          "tr",
          { "data-kind": what, class: moved ? "lab-moved" : false },
          h("th", { scope: "row" }, h("small", {}, what), h("span", {}, `${text} …`)),
          h("td", { "data-column": "Untouched model" }, bars(before.get(text))),
          h("td", { "data-column": "Model now" }, bars(now[i])),
        );
      }),
    );
    return prompts.map((text, i) => ({ from: before.get(text), to: now[i] }));
  }

  /** One sentence for those who do not see the table. */
  function summary(rows) {
    if (!rows.length) return "";
    const changed = rows.filter(({ from, to }) => from.says !== to.says);
    const { says, top } = rows[0].to;
    return (
      `The prompt is answered with “${says}” (${chance(top[0].p)}). ` +
      `${changed.length} of ${rows.length} questions have another answer than before.`
    );
  }

  // ------------------------------------------------ the edit

  async function makeEdit() {
    const [wanted, at, asked] = [fact(), layer(), lam()];
    await load(`c0-${at}`);
    const search = ui.slow.checked ? { lr: 0.1, early_stop: 0 } : {};
    const began = performance.now();
    const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
    const losses = [];
    drawLoss(losses, search);
    ui.stop.hidden = false;
    const report = await call("edit", { fact: wanted, layer: at, lam: asked, search }, (step) => {
      losses.push(step.loss);
      drawLoss(losses, search);
      if (step.step % 5 === 1) say(`Step ${step.step} of at most ${step.steps}, ${seconds()} …`);
    }).catch((error) => {
      showEdits();
      throw error;
    });
    ui.stop.hidden = true;
    const took = seconds();
    edits.push({ fact: wanted, asked, report });
    showEdits();
    say(`${summary(await showTable())} (${took})`);
  }

  async function undo() {
    if (!edits.length) return;
    await call("undo");
    const { asked } = edits.pop();
    setLam(edits.length ? edits[edits.length - 1].report.lam : asked);
    showEdits();
    say(`Undone, bit for bit. ${summary(await showTable())}`);
  }

  /** All that tells of the edits: list, numbers, curve; and what a reload is to bring again. */
  function showEdits() {
    const last = edits[edits.length - 1];
    showNumbers(last ? last.report : null);
    if (last) drawLoss(last.report.losses);
    showStack();
    memory.write();
  }

  const lam = () => number(ui.lam);

  /** Put λ into dial and field; the model stays. */
  function setLam(value) {
    ui.lam.value = value;
    showGain();
  }

  /** The reader set λ: by the dial, whose `value` the field takes, or in the field. */
  function turned(value = null) {
    if (value !== null) ui.lam.value = value;
    if (showGain() && edits.length) work("", bringLam);
    address();
  }

  /** Bring the last edit to the λ of the dial. */
  async function bringLam() {
    const last = edits[edits.length - 1];
    if (!last) return;
    last.report = { ...last.report, ...(await call("again", { lam: lam() })) };
    showNumbers(last.report);
    memory.write();
    say(summary(await showTable()));
  }

  /** What λ means; false, with the reason on the page, if there is no λ in the field. */
  function showGain() {
    let value;
    try {
      value = lam();
    } catch (error) {
      ui.gain.textContent = `Not yet: ${error.message}.`;
      ui.lam.setAttribute("aria-invalid", "true");
      return false;
    }
    ui.lam.removeAttribute("aria-invalid");
    const last = edits[edits.length - 1];
    ui.gain.textContent =
      (value === 0 ? "hard equality (EMMET)" : "least squares (MEMIT)") +
      (last ? ` · gain q / (λ + q) = ${value ? chance(last.report.q / (value + last.report.q)) : "100%"}` : "");
    ui.dial.value = toPosition(value);
    ui.dial.setAttribute("aria-valuetext", `λ ${short(value)}, ${ui.gain.textContent}`);
    return true;
  }

  function showNumbers(report) {
    const rows = report
      ? [
          ["q = kᵀC₀⁻¹k", short(report.q)],
          ["gain q / (λ + q)", report.lam ? chance(report.gain) : "100%"],
          ["|δ| / |z₀|", report.grown.toFixed(2)],
          ["|Δ| / |W|", report.size.toFixed(3)],
          ["steps", String(report.losses.length)],
        ]
      : [];
    ui.numbers.replaceChildren(
      ...rows.map(([a, b]) => h("div", {}, h("dt", {}, a), h("dd", {}, b))),
    );
    if (!report) ui.loss.replaceChildren();
    showGain();
  }

  function showStack() {
    const rows = edits.map(({ fact: f, report }) =>
      h("li", {}, `${f.subject}: ${f.object} (layer ${report.layer})`),
    );
    ui.stack.replaceChildren(...(rows.length ? rows : [h("li", {}, "none")]));
  }

  // ------------------------------------------------ pictures

  /** The loss over the steps; below the dotted line the library stops. */
  function drawLoss(losses, { early_stop = world.hyper.early_stop } = {}) {
    const steps = world.hyper.steps;
    const most = Math.max(1, ...losses.map(({ total }) => total));
    const x = (i) => 34 + (250 * i) / (steps - 1);
    const y = (value) => 104 - (88 * value) / most;
    const points = losses.map(({ total }, i) => [x(i), y(total)]);
    const said = losses.length
      ? `Loss ${losses[0].total.toFixed(2)} at step 1, ${losses[losses.length - 1].total.toFixed(2)} at step ${losses.length}`
      : "no step yet";
    const text = (left, top, words, anchor = "middle") =>
      h("text", { x: left, y: top, "text-anchor": anchor }, words);
    ui.loss.replaceChildren(
      h(
        "svg",
        { viewBox: "0 0 300 140", role: "img", "aria-label": said },
        h("path", { class: "lab-axis", d: "M34 10 V104 H290" }),
        h("path", { class: "lab-stop", d: `M34 ${y(early_stop)} H290` }),
        text(30, 18, most.toFixed(1), "end"),
        text(30, 107, "0", "end"),
        ...[1, 5, 10, 15, 20, 25].map((n) => text(x(n - 1), 118, n)),
        text(162, 134, "step of the search for the target"),
        text(34, 8, "loss", "start"),
        h("path", {
          class: "lab-line",
          d: points.map(([a, b], i) => `${i ? "L" : "M"}${a} ${b}`).join(" ") || "M0 0",
        }),
        ...points.map(([a, b]) => h("circle", { class: "lab-dot", cx: a, cy: b, r: 2.6 })),
      ),
      h(
        "figcaption",
        {},
        said + (losses.length && losses.length < steps ? "; it stops below 0.05." : "."),
      ),
    );
  }

  // ------------------------------------------------ many facts at once

  const SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512];

  function batchPanel() {
    const b = (ui.many = { results: new Map() });
    b.size = h("input", { type: "range", min: 0, max: SIZES.length - 1, step: 1, value: 0 });
    b.said = h("output", {}, "1");
    b.lam = h("input", {
      type: "number",
      min: 0.001,
      max: 1e7,
      step: "any",
      value: world.hyper.lam,
    });
    b.rows = h("tbody", {});
    b.chart = h("figure", { class: "lab-chart" });
    b.all = h("button", { type: "button" }, "Run all sizes");
    b.body = h("div", { class: "lab-batch", hidden: true });
    b.load = h("button", { class: "lab-main", type: "button" }, "Load 512 prepared facts (2 MB)");
    b.load.addEventListener("click", () => work("Loading the prepared facts …", loadBatch, b.load));
    const move = () => {
      b.said.textContent = SIZES[b.size.value];
      b.size.setAttribute("aria-valuetext", `${SIZES[b.size.value]} facts`);
    };
    b.size.addEventListener("input", move);
    b.size.addEventListener("change", () => work("Writing …", runBatch));
    b.lam.addEventListener("change", () => work("Writing …", runBatch));
    b.all.addEventListener("click", () => work("Writing …", runAll, b.all));
    b.move = move;
    b.body.append(
      h(
        "div",
        { class: "lab-dial" },
        h("label", { class: "lab-dial-name" }, "Facts in one batch: ", b.said),
        b.size,
        label("λ of MEMIT", b.lam),
        b.all,
      ),
      h(
        "div",
        { class: "lab-scroll", tabindex: 0, role: "region", "aria-label": "Results of the batch" },
        h(
          "table",
          { class: "lab-scores" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ...["Method", "edited facts said", "other facts kept", "perplexity", "|Δ| / |W|"].map(
                (t) => h("th", { scope: "col" }, t),
              ),
            ),
          ),
          b.rows,
        ),
      ),
      b.chart,
    );
    b.size.setAttribute("aria-label", "Facts in one batch");
    b.size.setAttribute("aria-valuetext", "1 facts");
    return h(
      "details",
      { class: "lab-many" },
      h("summary", {}, "Many facts at once: where equality breaks"),
      h(
        "p",
        {},
        "This part starts from the untouched model each time; your edits above are not in it.",
      ),
      b.load,
      b.body,
    );
  }

  async function loadBatch() {
    await Promise.all([load("batch"), load(`c0-${world.batch.layer}`)]);
    ui.many.load.remove();
    ui.many.body.hidden = false;
    ui.many.size.focus();
    const wanted = SIZES.findIndex((n) => n >= Number(parameters.get("batch") || 1));
    ui.many.size.value = wanted < 0 ? SIZES.length - 1 : wanted;
    ui.many.move();
    await runBatch();
  }

  /** Open the batch's panel where the reader sees it. */
  function showBatch() {
    ui.batch.open = true;
    ui.batch.scrollIntoView();
    ui.batch.querySelector("summary").focus({ preventScroll: true });
  }

  async function runAll() {
    ui.stop.hidden = false;
    for (let i = 0; i < SIZES.length && !stopped; i++) {
      ui.many.size.value = i;
      ui.many.move();
      await runBatch();
    }
    if (stopped) say("Stopped; the sizes so far stay.");
  }

  /** Both methods at the size of the slider; results are remembered. */
  async function runBatch() {
    const b = ui.many;
    const size = SIZES[b.size.value];
    const soft = number(b.lam);
    const wanted = [
      ["untouched model", 0, 0],
      [`MEMIT, λ = ${short(soft)}`, size, soft],
      ["hard equality (EMMET)", size, 0],
    ];
    const found = [];
    for (const [, n, value] of wanted) {
      const name = `${n} ${value}`;
      if (!b.results.has(name)) {
        say(`Writing ${n} facts …`);
        b.results.set(name, await call("batch", { size: n, lam: value }));
      }
      found.push(b.results.get(name));
    }
    b.rows.replaceChildren(
      ...found.map(({ said, kept, perplexity, norm }, i) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, wanted[i][0]),
          ...[
            i ? percent(said) : "–",
            percent(kept),
            perplexity.toFixed(2),
            i ? norm.toFixed(2) : "–",
          ].map((t) => h("td", {}, t)),
        ),
      ),
    );
    drawSizes(soft);
    say(
      `${size} facts: MEMIT says ${percent(found[1].said)} of them and keeps ${percent(found[1].kept)} of the others; ` +
        `hard equality says ${percent(found[2].said)} and keeps ${percent(found[2].kept)}.`,
    );
  }

  /** Both scores over the batch size, for the sizes that were run. */
  function drawSizes(soft) {
    const b = ui.many;
    const panel = (field, title) => {
      const x = (size) => 34 + (Math.log2(size) / 9) * 190;
      const y = (share) => 150 - 120 * share;
      const text = (a, c, words, anchor = "middle") =>
        h("text", { x: a, y: c, "text-anchor": anchor }, words);
      const line = (value, kind) => {
        const have = SIZES.filter((n) => b.results.has(`${n} ${value}`));
        const points = have.map((n) => [x(n), y(b.results.get(`${n} ${value}`)[field])]);
        return [
          h("path", {
            class: `lab-${kind}`,
            d: points.map(([a, c], i) => `${i ? "L" : "M"}${a} ${c}`).join(" ") || "M0 0",
          }),
          ...points.map(([a, c]) =>
            kind === "soft"
              ? h("circle", { class: "lab-soft-dot", cx: a, cy: c, r: 3.4 })
              : h("rect", {
                  class: "lab-hard-dot",
                  x: a - 3.2,
                  y: c - 3.2,
                  width: 6.4,
                  height: 6.4,
                }),
          ),
        ];
      };
      const words = SIZES.filter(
        (n) => b.results.has(`${n} 0`) && b.results.has(`${n} ${soft}`),
      ).map((n) => {
        const [memit, equality] = [soft, 0].map((value) =>
          percent(b.results.get(`${n} ${value}`)[field]),
        );
        return `${n} facts: MEMIT ${memit}, hard equality ${equality}`;
      });
      return h(
        "svg",
        { viewBox: "0 0 250 190", role: "img", "aria-label": `${title}. ${words.join("; ")}` },
        h("path", { class: "lab-axis", d: "M34 26 V150 H232" }),
        text(34, 16, title, "start"),
        ...[0, 50, 100].map((p) => text(30, y(p / 100) + 4, p, "end")),
        ...[1, 8, 64, 512].map((n) => text(x(n), 165, n)),
        text(130, 182, "facts in one batch"),
        ...line(soft, "soft"),
        ...line(0, "hard"),
      );
    };
    b.chart.replaceChildren(
      h("div", {}, panel("said", "edited facts said, %"), panel("kept", "other facts kept, %")),
      h(
        "figcaption",
        {},
        h("span", { class: "lab-key-soft" }, "● MEMIT"),
        " ",
        h("span", { class: "lab-key-hard" }, "□ hard equality"),
      ),
    );
  }

  // ------------------------------------------------ the address

  const FIRST = "product:Vronuk Tools:boots";

  /** Fill the form from the address:
      ?fact=relation:subject:object&wording=0&layer=3&lam=2000&ask=...&batch=512
      What of it there is not in this world is told, in words. */
  function fromAddress() {
    const wrong = [];
    /** Do `set` with a value of the address, if it is there; false from it is a complaint. */
    const take = (name, set) => {
      const value = parameters.get(name);
      if (value !== null && !set(value)) wrong.push(`${name}=${value}`);
    };
    const named = parameters.get("fact") ?? FIRST;
    const [name, subject = "", object = ""] = named.split(":");
    const at = world.relations.findIndex((r) => r.name === name);
    if (at >= 0) ui.relation.selectedIndex = at;
    fillLists();
    [ui.subject.value, ui.object.value] = [subject, object];
    if (at < 0 || truth(spelled(subject, world.names[relation().of])) === null)
      wrong.push(`fact=${named}`);
    take("wording", (value) => {
      const there = ui.wording.options[value];
      if (there) there.selected = true;
      return there;
    });
    take("layer", (value) => {
      const radio = [...root.querySelectorAll("[name=lab-layer]")].find((r) => r.value === value);
      if (radio) radio.checked = true;
      return radio;
    });
    take("lam", (value) => {
      const before = ui.lam.value;
      ui.lam.value = value;
      if (!showGain()) return setLam(before), false;
      if (edits.length) work("", bringLam);
      return true;
    });
    take("batch", (value) => value >= 1 && value <= SIZES[SIZES.length - 1]);
    ui.question.value = parameters.get("ask") || "";
    const notice = wrong.length
      ? `The link asks for ${wrong.join(", ")}; there is no such thing in this world.`
      : "";
    factChanged(notice);
    return notice;
  }

  function address() {
    if (!ui.link) return;
    const now = new URLSearchParams({
      fact: `${relation().name}:${ui.subject.value}:${ui.object.value}`,
      wording: ui.wording.selectedIndex,
      layer: layer(),
      lam: ui.lam.value,
    });
    if (ui.question.value.trim()) now.set("ask", ui.question.value.trim());
    ui.link.href = `?${now}`;
    if (parameters.has("batch")) now.set("batch", parameters.get("batch"));
    if (root.dataset.ready) go("replaceState", `?${now}${location.hash}`);
  }

  root.lab = { call, load, start: startEngine }; // for tests and the curious
  welcome();
})();
