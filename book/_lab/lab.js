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

  function script(file) {
    return new Promise((done, fail) => {
      const element = document.createElement("script");
      element.src = base + file;
      element.onload = done;
      element.onerror = () => fail(new Error(`${file} could not be loaded`));
      document.head.append(element);
    });
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
    const code = `const serve = (${window.labEngine})().serve(postMessage, async () => {});
      onmessage = ({ data }) => serve(data);`;
    try {
      const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      const worker = new Worker(url);
      worker.onmessage = ({ data }) => receive(data);
      engine.send = (message) => worker.postMessage(message);
    } catch {
      const pause = () => new Promise((done) => setTimeout(done));
      const serve = window.labEngine().serve(receive, pause);
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
      const whole = script(`${name}.js`)
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
  let busy = false;
  const edits = []; // applied, oldest first: {fact, report}
  const parameters = new URLSearchParams(location.search);

  function say(text) {
    ui.status.textContent = text;
  }

  /** Run something that takes a moment, one thing at a time; errors are told. The buttons are off
      meanwhile, in words: a button that is disabled would lose the keyboard's focus. */
  async function work(text, job) {
    if (busy) return;
    busy = true;
    root.setAttribute("aria-busy", "true");
    for (const button of root.querySelectorAll("button"))
      button.setAttribute("aria-disabled", "true");
    say(text);
    try {
      await job();
    } catch (error) {
      say(`That did not work: ${error.message}.`);
    } finally {
      busy = false;
      root.removeAttribute("aria-busy");
      for (const button of root.querySelectorAll("button")) button.removeAttribute("aria-disabled");
      if (ui.undo) ui.undo.disabled = !edits.length;
    }
  }

  // ------------------------------------------------ the start

  function welcome() {
    ui.status = h("p", { class: "lab-status", role: "status" }, "");
    const asked = parameters.get("fact");
    const button = h("button", { class: "lab-main", type: "button" }, "Load the model (9 MB)");
    button.addEventListener("click", () => work("Loading …", start));
    ui.start = h(
      "div",
      { class: "lab-start" },
      button,
      h(
        "p",
        {},
        asked
          ? `The link that brought you here names a fact (${asked.split(":").slice(0, 2).reverse().join(", ")}). It will be filled in.`
          : "Until you press it, this page is only text. After it, everything happens in your browser.",
      ),
    );
    root.replaceChildren(ui.start, ui.status);
  }

  async function start() {
    const began = performance.now();
    if (!engine.send) await startEngine();
    [world] = await Promise.all([load("world"), load("model")]);
    ui.start.remove();
    build();
    fromAddress();
    ui.relation.focus();
    root.dataset.ready = Math.round(performance.now() - began); // milliseconds from the click
    await showTable();
    say("The model is here. Change a fact.");
    if (parameters.has("batch")) ui.batch.open = true;
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
    const edit = h(
      "button",
      { class: "lab-main", type: "button", onclick: makeEdit },
      "Edit the model",
    );
    ui.undo = h("button", { type: "button", disabled: true, onclick: undo }, "Undo");

    ui.dial = h("input", {
      type: "range",
      min: 0,
      max: DIAL,
      step: 1,
      "aria-label": "λ, from hard equality to 100,000",
    });
    ui.lam = h("input", { type: "number", min: 0, max: 1e7, step: "any", value: world.hyper.lam });
    ui.dial.addEventListener("input", () => setLam(toLam(Number(ui.dial.value))));
    ui.lam.addEventListener("input", () => setLam(Number(ui.lam.value), true));
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
      work("Asking …", async () => {
        await showTable();
        say("Your question stands at the end of the table.");
      });
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
    root.append(ui.status);
    setLam(Number(ui.lam.value), true);
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

  function relationChanged() {
    const r = relation();
    options(ui.subjects, subjects(r));
    options(ui.objects, [...r.objects].sort());
    ui.wording.replaceChildren(
      ...r.prompts.map((p) => h("option", {}, p.replace("{}", "…") + " …")),
    );
    ui.subject.value = "";
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

  /** The fact of the form; an Error in words if it is not one of the world. */
  function fact() {
    const subject = ui.subject.value.trim();
    const object = ui.object.value.trim();
    if (truth(subject) === null)
      throw new Error(`“${subject}” is no ${relation().of} of this world; pick one from the list`);
    if (!object) throw new Error("the new object is empty");
    return {
      relation: relation().name,
      prompt: relation().prompts[ui.wording.selectedIndex],
      subject,
      object,
    };
  }

  function factChanged() {
    address();
    try {
      const { prompt, subject } = fact();
      ui.truth.replaceChildren(
        "In this world: ",
        h("b", {}, `${prompt.replace("{}", subject)} ${truth(subject)}`),
        ".",
      );
    } catch (error) {
      ui.truth.textContent = `Not yet: ${error.message}.`;
      return;
    }
    if (root.dataset.ready) work("Asking the model …", async () => (await showTable(), say("")));
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

  async function showTable() {
    const asked = questions();
    const prompts = asked.map(([, text]) => text);
    if (prompts.some((text) => !before.has(text))) {
      const found = await call("ask", { prompts, was: true });
      found.forEach((answers, i) => before.set(prompts[i], answers));
    }
    const now = edits.length
      ? await call("ask", { prompts })
      : prompts.map((text) => before.get(text));
    const { subject, object } = fact();
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
    const changed = rows.filter(({ from, to }) => from.says !== to.says);
    const { says, top } = rows[0].to;
    return (
      `The prompt is answered with “${says}” (${chance(top[0].p)}). ` +
      `${changed.length} of ${rows.length} questions have another answer than before.`
    );
  }

  // ------------------------------------------------ the edit

  function makeEdit() {
    work("Looking for the target …", async () => {
      const wanted = fact();
      const at = layer();
      await load(`c0-${at}`);
      const losses = [];
      const slow = ui.slow.checked ? { lr: 0.1, early_stop: 0 } : {};
      drawLoss(losses, slow);
      const report = await call(
        "edit",
        { fact: wanted, layer: at, lam: lam(), search: slow },
        (step) => {
          losses.push(step.loss);
          drawLoss(losses, slow);
          if (step.step % 5 === 1) say(`Step ${step.step} of at most ${step.steps} …`);
        },
      );
      edits.push({ fact: wanted, report });
      showNumbers(report);
      showStack();
      say(summary(await showTable()));
      address();
    });
  }

  function undo() {
    work("Undoing …", async () => {
      await call("undo");
      edits.pop();
      const last = edits[edits.length - 1];
      showNumbers(last ? last.report : null);
      if (last) setLam(last.report.lam, false, true);
      showStack();
      say(`Undone, bit for bit. ${summary(await showTable())}`);
    });
  }

  const lam = () => Math.max(0, Number(ui.lam.value) || 0);

  let following = false;
  let wish = null; // the newest λ while the model is busy with an older one

  function setLam(value, typed = false, silent = false) {
    if (!typed) ui.lam.value = value;
    if (typed || silent) ui.dial.value = toPosition(value);
    showGain();
    address();
    if (edits.length && !silent) {
      wish = lam();
      follow();
    }
  }

  /** Bring the last edit to the λ of the dial; while that runs, only the newest wish counts. */
  async function follow() {
    if (following || busy) return;
    following = true;
    try {
      while (wish !== null) {
        const value = wish;
        wish = null;
        const last = edits[edits.length - 1];
        last.report = { ...last.report, ...(await call("again", { lam: value })) };
        showNumbers(last.report);
        say(summary(await showTable()));
      }
    } catch (error) {
      say(`That did not work: ${error.message}.`);
    } finally {
      following = false;
    }
  }

  function showGain() {
    const last = edits[edits.length - 1];
    const value = lam();
    const written = last ? last.report.q / (value + last.report.q) : null;
    ui.gain.textContent =
      (value === 0 ? "hard equality (EMMET)" : "least squares (MEMIT)") +
      (last ? ` · gain q / (λ + q) = ${value ? chance(written) : "100%"}` : "");
    ui.dial.setAttribute("aria-valuetext", `λ ${short(value)}, ${ui.gain.textContent}`);
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
  function drawLoss(losses, { early_stop = world.hyper.early_stop }) {
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
    b.load.addEventListener("click", () => work("Loading the prepared facts …", loadBatch));
    const move = () => {
      b.said.textContent = SIZES[b.size.value];
      b.size.setAttribute("aria-valuetext", `${SIZES[b.size.value]} facts`);
    };
    b.size.addEventListener("input", move);
    b.size.addEventListener("change", () => work("Writing …", () => runBatch(SIZES[b.size.value])));
    b.lam.addEventListener("change", () => work("Writing …", () => runBatch(SIZES[b.size.value])));
    b.all.addEventListener("click", () =>
      work("Writing …", async () => {
        for (let i = 0; i < SIZES.length; i++) {
          b.size.value = i;
          move();
          await runBatch(SIZES[i]);
        }
      }),
    );
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
    ui.many.size.dispatchEvent(new Event("input"));
    await runBatch(SIZES[ui.many.size.value]);
  }

  /** Both methods at one size; results are remembered. */
  async function runBatch(size) {
    const b = ui.many;
    const soft = Math.max(0.001, Number(b.lam.value) || world.hyper.lam);
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

  /** ?fact=relation:subject:object&wording=0&layer=3&lam=2000&ask=...&batch=512 */
  function fromAddress() {
    const [name, subject, object] = (parameters.get("fact") || "product:Vronuk Tools:boots").split(
      ":",
    );
    const at = world.relations.findIndex((r) => r.name === name);
    if (at >= 0) {
      ui.relation.selectedIndex = at;
      relationChanged();
      if (truth(subject) !== null) ui.subject.value = subject;
      if (object) ui.object.value = object;
    }
    const wording = Number(parameters.get("wording") || 0);
    if (ui.wording.options[wording]) ui.wording.selectedIndex = wording;
    const radio = root.querySelector(
      `[name=lab-layer][value="${Number(parameters.get("layer"))}"]`,
    );
    if (radio) radio.checked = true;
    const given = parameters.get("lam");
    if (given !== null && Number(given) >= 0) setLam(Number(given), false, true);
    ui.question.value = parameters.get("ask") || "";
    factChanged();
  }

  function address() {
    if (!ui.link || !ui.relation.value) return;
    const now = new URLSearchParams({
      fact: `${relation().name}:${ui.subject.value}:${ui.object.value}`,
      wording: ui.wording.selectedIndex,
      layer: layer(),
      lam: lam(),
    });
    if (ui.question.value.trim()) now.set("ask", ui.question.value.trim());
    ui.link.href = `?${now}`;
  }

  root.lab = { call, load, start: startEngine }; // for tests and the curious
  welcome();
})();
