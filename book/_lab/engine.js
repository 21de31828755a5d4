/* The page lab's engine: the embedded model, its keys, targets and edits, in plain JavaScript.

   It knows nothing of the page. lab.js runs it in a worker; it can be run beside the page as well.
   Numbers are kept as float32, sums are made in float64. Matrices lie row by row, as in PyTorch:
   W[o * d_in + i]. A batch of texts is one array of T tokens and a list of rows; a row says which
   tokens are its own, and what of it was computed before:

     {from, to, past, k, v}   tokens from..to-1; `past` tokens come before them in the text, whose
                              attention keys and values in block l are k[l] and v[l]  */

function labEngine() {
  "use strict";

  const data = {}; // what was loaded: "model", "world", "batch", "c0-3", ...
  let shape, blocks, head; // of the model
  let outs, original; // the matrices W that are edited, one a block: as they are, as they were
  let stack = []; // the edits that are applied, oldest first
  // What does not change while one layer is edited, by layer and texts: of the model as it is now,
  // and of the unedited one.
  const states = { now: new Map(), was: new Map() };

  // ---------------------------------------------------------------- data files to arrays

  /** Bytes of text in base 85 (Python's base64.b85encode). */
  function fromBase85(text) {
    const alphabet =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    const value = new Uint8Array(128);
    for (let i = 0; i < 85; i++) value[alphabet.charCodeAt(i)] = i;
    const letters = new TextEncoder().encode(text);
    const bytes = new DataView(new ArrayBuffer((text.length / 5) * 4));
    for (let i = 0, o = 0; i < letters.length; i += 5, o += 4) {
      const [a, b] = [value[letters[i]], value[letters[i + 1]]];
      const [c, d] = [value[letters[i + 2]], value[letters[i + 3]]];
      bytes.setUint32(o, (((a * 85 + b) * 85 + c) * 85 + d) * 85 + value[letters[i + 4]]);
    }
    return new Uint8Array(bytes.buffer);
  }

  async function inflate(bytes, size) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const reader = stream.getReader();
    const whole = new Uint8Array(size);
    for (let at = 0; ;) {
      const { done, value } = await reader.read();
      if (done) return whole;
      whole.set(value, at);
      at += value.length;
    }
  }

  /** All 65,536 half-precision numbers as float32. */
  function halves() {
    const table = new Float32Array(65536);
    for (let h = 0; h < 65536; h++) {
      const exponent = (h >> 10) & 31;
      const fraction = h & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      table[h] = h & 0x8000 ? -size : size;
    }
    return table;
  }

  /** Arrays of a data file, by name. Each number has 2 (half), 3 or 4 bytes (the leading ones of a
      float32); all first bytes of an array come before all second ones, which compresses better. */
  async function unpack(header, text) {
    const size = header.arrays.reduce((sum, [, n, bytes]) => sum + n * bytes, 0);
    const raw = await inflate(fromBase85(text).subarray(0, header.packed), size);
    const half = halves();
    const arrays = {};
    let at = 0;
    for (const [name, n, bytes] of header.arrays) {
      const plane = (j) => raw.subarray(at + j * n, at + (j + 1) * n);
      const [a, b] = [plane(0), plane(1)];
      const out = (arrays[name] = new Float32Array(n));
      if (bytes === 2) {
        for (let i = 0; i < n; i++) out[i] = half[(a[i] << 8) | b[i]];
      } else {
        const c = plane(2);
        const last = bytes === 4 ? plane(3) : new Uint8Array(n);
        const words = new Uint32Array(out.buffer);
        for (let i = 0; i < n; i++) words[i] = (a[i] << 24) | (b[i] << 16) | (c[i] << 8) | last[i];
      }
      at += n * bytes;
    }
    return arrays;
  }

  async function load({ name, header, text }) {
    const arrays = text ? await unpack(header, text) : {};
    data[name] = { ...header, ...arrays };
    if (name === "model") buildModel(data.model);
    if (name === "world") buildTokenizer(data.world.tokenizer);
    if (name.startsWith("c0-")) data[name].inverse = wholeInverse(data[name]);
    return { loaded: name };
  }

  function buildModel(w) {
    shape = w.shape; // {layers, heads, width, inner, rotary, vocabulary, positions, eps}
    const at = (i, name) => w[`transformer.h.${i}.${name}`];
    blocks = Array.from({ length: shape.layers }, (_, i) => ({
      scale: at(i, "ln_1.weight"),
      shift: at(i, "ln_1.bias"),
      q: matrix(at(i, "attn.q_proj.weight"), shape.width),
      k: matrix(at(i, "attn.k_proj.weight"), shape.width),
      v: matrix(at(i, "attn.v_proj.weight"), shape.width),
      o: matrix(at(i, "attn.out_proj.weight"), shape.width),
      up: matrix(at(i, "mlp.fc_in.weight"), shape.width, at(i, "mlp.fc_in.bias")),
      bias: at(i, "mlp.fc_out.bias"),
    }));
    original = blocks.map((b, i) => matrix(at(i, "mlp.fc_out.weight"), shape.inner, b.bias));
    outs = original.slice();
    head = {
      embed: w["transformer.wte.weight"],
      scale: w["transformer.ln_f.weight"],
      shift: w["transformer.ln_f.bias"],
      words: matrix(w["lm_head.weight"], shape.width, w["lm_head.bias"]),
    };
    const pairs = shape.rotary / 2;
    shape.angles = Array.from({ length: pairs }, (_, i) => 10000 ** (-i / pairs));
    stack = [];
    states.now.clear();
    states.was.clear();
  }

  // ---------------------------------------------------------------- text to tokens

  const tokenizer = {};

  /** The tokenizer is byte-pair encoding over words; a byte stands as one printable character. */
  function buildTokenizer({ vocabulary, merges }) {
    const printable = (b) => (b > 32 && b < 127) || (b > 160 && b < 256 && b !== 173);
    tokenizer.character = [];
    for (let b = 0, other = 256; b < 256; b++)
      tokenizer.character.push(String.fromCharCode(printable(b) ? b : other++));
    tokenizer.byte = new Map(tokenizer.character.map((c, b) => [c, b]));
    tokenizer.tokens = vocabulary;
    tokenizer.id = new Map(vocabulary.map((token, i) => [token, i]));
    tokenizer.rank = new Map(merges.map((pair, i) => [pair, i]));
    tokenizer.known = new Map();
  }

  function encodeWord(word) {
    if (tokenizer.known.has(word)) return tokenizer.known.get(word);
    let parts = Array.from(new TextEncoder().encode(word), (b) => tokenizer.character[b]);
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < parts.length; i++)
        best = Math.min(best, tokenizer.rank.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity);
      if (best === Infinity) break;
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        const pair = tokenizer.rank.get(`${parts[i]} ${parts[i + 1]}`);
        joined.push(pair === best ? parts[i] + parts[++i] : parts[i]);
      }
      parts = joined;
    }
    const ids = parts.map((part) => tokenizer.id.get(part));
    tokenizer.known.set(word, ids);
    return ids;
  }

  /** Token ids of a text, and where in it (in bytes) each token ends. */
  function encode(text) {
    const words =
      text.match(/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu) ||
      [];
    const ids = words.flatMap(encodeWord);
    let at = 0;
    const ends = ids.map((id) => (at += tokenizer.tokens[id].length));
    return { ids, ends };
  }

  function decode(id) {
    const bytes = Array.from(tokenizer.tokens[id], (c) => tokenizer.byte.get(c));
    return new TextDecoder().decode(new Uint8Array(bytes));
  }

  /** Index of the last token of `text` that covers any of its first `end` bytes. */
  const lastToken = (ends, end) => ends.findIndex((e) => e >= end);

  // ---------------------------------------------------------------- the pieces of the model

  function matrix(W, d_in, bias = null) {
    return { W, d_in, d_out: W.length / d_in, bias };
  }

  /** The transpose of a matrix, made once: gradients go through it. */
  function transposed(m) {
    if (!m.T) {
      const T = new Float32Array(m.W.length);
      for (let o = 0; o < m.d_out; o++)
        for (let i = 0; i < m.d_in; i++) T[i * m.d_out + o] = m.W[o * m.d_in + i];
      m.T = matrix(T, m.d_out);
    }
    return m.T;
  }

  /** W x + b for every token of x. Four tokens and two rows of W at a time: each number that is
      fetched serves several products. */
  function linear(tokens, { W, d_in, d_out, bias }) {
    const T = tokens.length / d_in;
    const x = new Float64Array(tokens);
    const y = new Float32Array(T * d_out);
    const sums = new Float64Array(8);
    for (let t = 0; t < T; t += 4) {
      const a = t * d_in;
      const b = Math.min(t + 1, T - 1) * d_in;
      const c = Math.min(t + 2, T - 1) * d_in;
      const d = Math.min(t + 3, T - 1) * d_in;
      for (let o = 0; o < d_out; o += 2) {
        const p = Math.min(o + 1, d_out - 1);
        let A = 0,
          B = 0,
          C = 0,
          D = 0,
          E = 0,
          F = 0,
          G = 0,
          H = 0;
        for (let i = 0, w = o * d_in, v = p * d_in; i < d_in; i++) {
          const m = W[w + i];
          const n = W[v + i];
          A += m * x[a + i];
          B += m * x[b + i];
          C += m * x[c + i];
          D += m * x[d + i];
          E += n * x[a + i];
          F += n * x[b + i];
          G += n * x[c + i];
          H += n * x[d + i];
        }
        sums[0] = A;
        sums[1] = B;
        sums[2] = C;
        sums[3] = D;
        sums[4] = E;
        sums[5] = F;
        sums[6] = G;
        sums[7] = H;
        for (let n = 0; n < 4 && t + n < T; n++) {
          y[(t + n) * d_out + o] = sums[n] + (bias ? bias[o] : 0);
          y[(t + n) * d_out + p] = sums[4 + n] + (bias ? bias[p] : 0);
        }
      }
    }
    return y;
  }

  function add(...arrays) {
    const sum = new Float32Array(arrays[0].length);
    for (const x of arrays) for (let i = 0; i < sum.length; i++) sum[i] += x[i];
    return sum;
  }

  /** Layer norm of every token; `hat` and `inverse` are kept for the gradient. */
  function normalise(x, scale, shift) {
    const d = scale.length;
    const [y, hat] = [new Float32Array(x.length), new Float32Array(x.length)];
    const inverse = new Float64Array(x.length / d);
    for (let t = 0; t * d < x.length; t++) {
      let [mean, square] = [0, 0];
      for (let i = 0; i < d; i++) mean += x[t * d + i] / d;
      for (let i = 0; i < d; i++) square += (x[t * d + i] - mean) ** 2 / d;
      inverse[t] = 1 / Math.sqrt(square + shape.eps);
      for (let i = t * d; i < (t + 1) * d; i++) {
        hat[i] = (x[i] - mean) * inverse[t];
        y[i] = hat[i] * scale[i % d] + shift[i % d];
      }
    }
    return { y, hat, inverse };
  }

  function normaliseBack(g, { hat, inverse }, scale) {
    const d = scale.length;
    const out = new Float32Array(g.length);
    for (let t = 0; t * d < g.length; t++) {
      let [mean, along] = [0, 0];
      for (let i = 0; i < d; i++) {
        const part = (g[t * d + i] * scale[i]) / d;
        mean += part;
        along += part * hat[t * d + i];
      }
      for (let i = 0; i < d; i++) {
        const j = t * d + i;
        out[j] = inverse[t] * (g[j] * scale[i] - mean - hat[j] * along);
      }
    }
    return out;
  }

  /** Rotary positions, in place: pairs of a head's first numbers turn with the position
      (direction 1); gradients turn back (direction -1). */
  function rotate(x, rows, direction) {
    const { width, heads, rotary, angles } = shape;
    const size = width / heads;
    for (const row of rows)
      for (let t = row.from; t < row.to; t++)
        for (let i = 0; i < rotary / 2; i++) {
          const angle = direction * angles[i] * (row.past + t - row.from);
          const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
          for (let h = 0; h < heads; h++) {
            const j = t * width + h * size + 2 * i;
            const [a, b] = [x[j], x[j + 1]];
            x[j] = a * cos - b * sin;
            x[j + 1] = b * cos + a * sin;
          }
        }
    return x;
  }

  /** Keys or values of a row's whole text: those from before, then those of its own tokens. */
  function joined(before, own) {
    const all = new Float32Array((before ? before.length : 0) + own.length);
    if (before) all.set(before);
    all.set(own, all.length - own.length);
    return all;
  }

  /** Causal attention in block l. `saved`: per row what the gradient needs. */
  function attend(q, k, v, rows, l) {
    const { width: d, heads } = shape;
    const size = d / heads;
    const scale = 1 / Math.sqrt(size);
    const out = new Float32Array(q.length);
    const saved = rows.map((row) => {
      const K = joined(row.k && row.k[l], k.subarray(row.from * d, row.to * d));
      const V = joined(row.v && row.v[l], v.subarray(row.from * d, row.to * d));
      const all = row.past + row.to - row.from;
      const weights = new Float64Array((row.to - row.from) * heads * all);
      for (let t = row.from, w = 0; t < row.to; t++)
        for (let h = 0; h < heads; h++, w += all) {
          const seen = row.past + t - row.from + 1;
          const at = t * d + h * size;
          let [top, sum] = [-Infinity, 0];
          for (let j = 0; j < seen; j++) {
            let s = 0;
            for (let i = 0; i < size; i++) s += q[at + i] * K[j * d + h * size + i];
            weights[w + j] = s * scale;
            top = Math.max(top, s * scale);
          }
          for (let j = 0; j < seen; j++) sum += weights[w + j] = Math.exp(weights[w + j] - top);
          for (let j = 0; j < seen; j++) {
            const p = (weights[w + j] /= sum);
            for (let i = 0; i < size; i++) out[at + i] += p * V[j * d + h * size + i];
          }
        }
      return { K, V, weights, all };
    });
    return { out, saved };
  }

  function attendBack(g, q, saved, rows) {
    const { width: d, heads } = shape;
    const size = d / heads;
    const scale = 1 / Math.sqrt(size);
    const [dq, dk, dv] = [0, 0, 0].map(() => new Float32Array(g.length));
    rows.forEach((row, r) => {
      const { K, V, weights, all } = saved[r];
      const ds = new Float64Array(all);
      for (let t = row.from, w = 0; t < row.to; t++)
        for (let h = 0; h < heads; h++, w += all) {
          const seen = row.past + t - row.from + 1;
          const at = t * d + h * size;
          let mean = 0;
          for (let j = 0; j < seen; j++) {
            ds[j] = 0;
            for (let i = 0; i < size; i++) ds[j] += g[at + i] * V[j * d + h * size + i];
            mean += weights[w + j] * ds[j];
          }
          for (let j = 0; j < seen; j++) {
            const p = weights[w + j];
            const s = p * (ds[j] - mean) * scale;
            const own = (row.from + j - row.past) * d + h * size; // where token j is in dk, dv
            for (let i = 0; i < size; i++) {
              dq[at + i] += s * K[j * d + h * size + i];
              if (j >= row.past) {
                dk[own + i] += s * q[at + i];
                dv[own + i] += p * g[at + i];
              }
            }
          }
        }
    });
    return { dq, dk, dv };
  }

  const BEND = Math.sqrt(2 / Math.PI);

  /** GELU in its tanh form. */
  function bend(x) {
    return x.map((a) => 0.5 * a * (1 + Math.tanh(BEND * (a + 0.044715 * a ** 3))));
  }

  function bendBack(g, x) {
    return g.map((slope, i) => {
      const a = x[i];
      const t = Math.tanh(BEND * (a + 0.044715 * a ** 3));
      return slope * 0.5 * (1 + t + a * (1 - t * t) * BEND * (1 + 3 * 0.044715 * a * a));
    });
  }

  /** Block l up to its last matrix: the block's output is `rest` + W key + b. */
  function upToKey(x, rows, l) {
    const b = blocks[l];
    const norm = normalise(x, b.scale, b.shift);
    const q = rotate(linear(norm.y, b.q), rows, 1);
    const k = rotate(linear(norm.y, b.k), rows, 1);
    const v = linear(norm.y, b.v);
    const attention = attend(q, k, v, rows, l);
    const pre = linear(norm.y, b.up);
    const rest = add(x, linear(attention.out, b.o));
    return { rest, key: bend(pre), norm, q, k, v, attention, pre };
  }

  const output = (rest, key, W) => add(rest, linear(key, W));

  /** Gradient at the input of block l, from that at its output. */
  function blockBack(g, rows, l, kept) {
    const b = blocks[l];
    const pre = bendBack(linear(g, transposed(outs[l])), kept.pre);
    const there = linear(g, transposed(b.o));
    const { dq, dk, dv } = attendBack(there, kept.q, kept.attention.saved, rows);
    const norm = add(
      linear(pre, transposed(b.up)),
      linear(rotate(dq, rows, -1), transposed(b.q)),
      linear(rotate(dk, rows, -1), transposed(b.k)),
      linear(dv, transposed(b.v)),
    );
    return add(g, normaliseBack(norm, kept.norm, b.scale));
  }

  function embed(ids) {
    const d = shape.width;
    const x = new Float32Array(ids.length * d);
    ids.forEach((id, t) => x.set(head.embed.subarray(id * d, (id + 1) * d), t * d));
    return x;
  }

  /** Texts (lists of token ids) as one batch of which nothing was computed before. */
  function begin(texts) {
    let from = 0;
    const rows = texts.map((ids) => ({ from, to: (from += ids.length), past: 0 }));
    return { x: embed(texts.flat()), rows };
  }

  /** Logits at some tokens of the last block's output. */
  function logitsAt(x, tokens) {
    const d = shape.width;
    const some = new Float32Array(tokens.length * d);
    tokens.forEach((t, i) => some.set(x.subarray(t * d, (t + 1) * d), i * d));
    const norm = normalise(some, head.scale, head.shift);
    const all = linear(norm.y, head.words);
    const n = shape.vocabulary;
    return { norm, logits: tokens.map((_, i) => all.subarray(i * n, (i + 1) * n)) };
  }

  /** Blocks `first` to `last` with the matrices `W`; the keys and values of each go to `past`. */
  function through(x, rows, first, last, W, past = null) {
    for (let l = first; l <= last; l++) {
      const block = upToKey(x, rows, l);
      x = output(block.rest, block.key, W[l]);
      if (past) [past.k[l], past.v[l]] = [block.k, block.v];
    }
    return x;
  }

  /** The whole model on texts with the matrices `W`: those in use, or the original ones up to a
      change in `layer`. What lies before that change is remembered. */
  function read(texts, layer, W) {
    const known = W === outs ? states.now : states.was;
    const name = JSON.stringify([layer, texts]);
    if (!known.has(name)) {
      const { x, rows } = begin(texts);
      const past = { k: [], v: [] };
      const block = upToKey(through(x, rows, 0, layer - 1, W, past), rows, layer);
      [past.k[layer], past.v[layer]] = [block.k, block.v];
      if (known.size === 20) known.delete(known.keys().next().value); // the oldest
      known.set(name, { rows, past, rest: block.rest, key: block.key });
    }
    const { rows, past, rest, key } = known.get(name);
    const x = through(output(rest, key, W[layer]), rows, layer + 1, shape.layers - 1, W, past);
    return { x, rows, past };
  }

  const lastOf = (rows) => rows.map((row) => row.to - 1);

  /** Logits at the last token of each text. */
  function answer(texts, layer, W) {
    const { x, rows } = read(texts, layer, W);
    return logitsAt(x, lastOf(rows)).logits;
  }

  /** The part of `values` (one list for each block) that belongs to tokens from..to-1. */
  const cut = (values, from, to) =>
    values.map((y) => y.subarray(from * shape.width, to * shape.width));

  /** What the model goes on to say after each text, up to a full stop or `n` tokens. */
  function goOn({ x, rows, past }, W, n) {
    let tokens = logitsAt(x, lastOf(rows)).logits.map(best);
    const said = tokens.map(decode);
    const later = rows.map(({ from, to }, r) => ({
      from: r,
      to: r + 1,
      past: to - from,
      k: cut(past.k, from, to),
      v: cut(past.v, from, to),
    }));
    for (let step = 1; step < n && !said.every((words) => words.includes(".")); step++) {
      const own = { k: [], v: [] };
      const y = through(embed(tokens), later, 0, shape.layers - 1, W, own);
      later.forEach((row, r) => {
        for (const what of ["k", "v"])
          row[what] = cut(own[what], r, r + 1).map((new_, l) => joined(row[what][l], new_));
        row.past++;
      });
      tokens = logitsAt(
        y,
        tokens.map((_, r) => r),
      ).logits.map(best);
      tokens.forEach((id, r) => (said[r] += decode(id)));
    }
    return said.map((words) => words.split(".")[0].trim());
  }

  function logSoftmax(logits) {
    let [top, sum] = [-Infinity, 0];
    for (const z of logits) top = Math.max(top, z);
    for (const z of logits) sum += Math.exp(z - top);
    return Float64Array.from(logits, (z) => z - top - Math.log(sum));
  }

  const best = (x) => x.reduce((found, value, i) => (value > x[found] ? i : found), 0);
  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  };
  const length = (x) => Math.sqrt(dot(x, x));

  // ---------------------------------------------------------------- key, target, update

  /** What the contexts make of a fact: token ids, and the position of the subject's last token. */
  function inContexts({ prompt, subject, object }) {
    const text = prompt.replace("{}", subject);
    const until = prompt.indexOf("{}") + subject.length;
    return data.world.hyper.contexts.map((context) => {
      const whole = encode(context + text + (object ? ` ${object}` : ""));
      const position = lastToken(whole.ends, context.length + until);
      const start = whole.ends.findIndex((end) => end > context.length + text.length);
      return { ids: whole.ids, position, start };
    });
  }

  /** k* (the mean key over contexts) and z0 (the mean block output) at the subject's last token. */
  function keyAndStart(fact, layer) {
    const found = inContexts({ ...fact, object: "" });
    const texts = found.map(({ ids, position }) => ids.slice(0, position + 1));
    const { x, rows } = begin(texts);
    const { rest, key } = upToKey(through(x, rows, 0, layer - 1, outs), rows, layer);
    const out = output(rest, key, outs[layer]);
    const mean = (values, d) => {
      const sum = new Float64Array(d);
      rows.forEach((row, r) => {
        for (let i = 0; i < d; i++)
          sum[i] += data.world.hyper.weights[r] * values[(row.to - 1) * d + i];
      });
      return sum;
    };
    return { k: mean(key, shape.inner), z0: mean(out, shape.width) };
  }

  /** The tokens from the subject's last one on, as rows that go on after what is fixed: their
      outputs of block `layer`, which is where delta is added. */
  function tails(texts, layer) {
    const d = shape.width;
    const { x, rows } = begin(texts.map(({ ids }) => ids));
    const past = { k: [], v: [] };
    const z = through(x, rows, 0, layer, outs, past);
    through(z, rows, layer + 1, shape.layers - 1, outs, past);
    let from = 0;
    const later = rows.map((row, r) => {
      const { position } = texts[r];
      const at = row.from + position;
      const before = { k: cut(past.k, row.from, at), v: cut(past.v, row.from, at) };
      return { from, to: (from += row.to - at), past: position, at, ...before };
    });
    const hidden = new Float32Array(from * d);
    for (const { from: start, to, at } of later)
      hidden.set(z.subarray(at * d, (at + to - start) * d), start * d);
    return { hidden, rows: later };
  }

  /** The target's delta: at most 25 steps of Adam on "say the object, stay what you are, stay small".
      `search` may replace hyper-parameters of the search. */
  async function optimise(fact, layer, z0, search, progress) {
    const h = { ...data.world.hyper, ...search };
    const d = shape.width;
    const texts = inContexts(fact).map((t) => ({ ...t, ids: t.ids.slice(0, -1), whole: t.ids }));
    const about = encode(`${fact.subject} is a`); // the sentence whose meaning is to stay
    const own = lastToken(about.ends, fact.subject.length);
    texts.push({ ids: about.ids.slice(0, own + 1), position: own, start: 0, whole: null });
    const { hidden, rows } = tails(texts, layer);

    const wanted = []; // where a probability is needed: {token, label, weight}
    texts.forEach(({ whole, start, position }, r) => {
      if (!whole) return;
      const n = whole.length - start;
      for (let i = start; i < whole.length; i++) {
        const token = rows[r].from + i - 1 - position;
        wanted.push({ token, label: whole[i], weight: 1 / (n * h.contexts.length) });
      }
    });
    const asked = [...wanted.map(({ token }) => token), rows[rows.length - 1].from];

    const size = length(z0);
    const delta = new Float64Array(d);
    const [first, second] = [new Float64Array(d), new Float64Array(d)]; // Adam's two means
    const losses = [];
    let before = null;
    for (let step = 1; step <= h.steps; step++) {
      if (stopped) throw new Error("it was stopped");
      let x = hidden.slice();
      for (const row of rows) for (let i = 0; i < d; i++) x[row.from * d + i] += delta[i];
      const kept = [];
      for (let l = layer + 1; l < shape.layers; l++) {
        kept[l] = upToKey(x, rows, l);
        x = output(kept[l].rest, kept[l].key, outs[l]);
      }
      const { logits, norm } = logitsAt(x, asked);

      // the three terms, and the gradient of the first two at the logits
      const n = shape.vocabulary;
      const g = new Float32Array(asked.length * n);
      let [nll, kl] = [0, 0];
      asked.forEach((_, a) => {
        const logp = logSoftmax(logits[a]);
        if (a < wanted.length) {
          const { label, weight } = wanted[a];
          nll -= weight * logp[label];
          for (let i = 0; i < n; i++) g[a * n + i] = weight * Math.exp(logp[i]);
          g[a * n + label] -= weight;
        } else {
          before = before || logp;
          for (let i = 0; i < n; i++) kl += Math.exp(logp[i]) * (logp[i] - before[i]);
          for (let i = 0; i < n; i++)
            g[a * n + i] = h.kl_factor * Math.exp(logp[i]) * (logp[i] - before[i] - kl);
        }
      });
      const now = length(delta);
      const loss = { nll, kl: h.kl_factor * kl, decay: (h.weight_decay * now) / size ** 2 };
      loss.total = loss.nll + loss.kl + loss.decay;
      losses.push(loss);
      await progress({ step, steps: h.steps, loss, length: now / size });
      if (loss.total < h.early_stop || step === h.steps) break;

      // back to the subject's last token
      const atHead = normaliseBack(linear(g, transposed(head.words)), norm, head.scale);
      let back = new Float32Array(x.length);
      asked.forEach((t, a) => {
        for (let i = 0; i < d; i++) back[t * d + i] += atHead[a * d + i];
      });
      for (let l = shape.layers - 1; l > layer; l--) back = blockBack(back, rows, l, kept[l]);

      // Adam, then back into the ball
      for (let i = 0; i < d; i++) {
        let slope = now ? (h.weight_decay * delta[i]) / now / size ** 2 : 0;
        for (const row of rows) slope += back[row.from * d + i];
        first[i] = 0.9 * first[i] + 0.1 * slope;
        second[i] = 0.999 * second[i] + 0.001 * slope * slope;
        const step_size = h.lr / (1 - 0.9 ** step);
        delta[i] -= (step_size * first[i]) / (Math.sqrt(second[i] / (1 - 0.999 ** step)) + 1e-8);
      }
      const over = length(delta) / (h.clamp * size);
      if (over > 1) for (let i = 0; i < d; i++) delta[i] /= over;
    }
    return { delta, losses };
  }

  /** C0^-1, (d_in, d_in), from the file's lower triangle, whose diagonal was scaled to one. */
  function wholeInverse({ triangle, scale }) {
    const d = scale.length;
    const out = new Float64Array(d * d);
    for (let i = 0, t = 0; i < d; i++)
      for (let j = 0; j <= i; j++, t++)
        out[i * d + j] = out[j * d + i] = triangle[t] * scale[i] * scale[j];
    return out;
  }

  function inverseOf(layer) {
    const known = data[`c0-${layer}`];
    if (!known) throw new Error(`C0 of layer ${layer} is not loaded`);
    return known.inverse;
  }

  /** u = C0^-1 k. */
  function solve(inverse, k) {
    const d = k.length;
    return Float64Array.from(k, (_, i) => dot(k, inverse.subarray(i * d, (i + 1) * d)));
  }

  /** W + Delta as float32, from the unchanged W; Delta (d_out, d_in). */
  function changed(old, Delta) {
    return matrix(
      old.W.map((w, i) => w + Delta[i]),
      old.d_in,
      old.bias,
    );
  }

  /** Put the last edit of the stack into the model: Delta = r u^T / (lam + q). */
  function write(edit) {
    const { delta, u, q, lam, layer, below } = edit;
    const gain = 1 / (lam + q);
    const Delta = new Float64Array(delta.length * u.length);
    for (let o = 0; o < delta.length; o++)
      for (let i = 0; i < u.length; i++) Delta[o * u.length + i] = delta[o] * u[i] * gain;
    outs[layer] = changed(below, Delta);
    edit.size = length(Delta) / length(below.W);
  }

  const report = ({ q, lam, size, losses, layer, z0, delta }) => ({
    q,
    lam,
    layer,
    losses,
    gain: q / (lam + q),
    size,
    grown: length(delta) / length(z0),
    delta: Array.from(delta),
  });

  let stopped = false;

  /** Leave the search that is running. */
  function stop() {
    stopped = true;
  }

  /** Find and apply one edit, on top of those that are there. `made`: its delta and losses, if the
      target was found before. */
  async function edit({ fact, layer, lam, search, made: known }, progress) {
    stopped = false;
    const { length: n } = encode(` ${fact.object}`).ids;
    const most = data.world.hyper.longest;
    if (n > most) throw new Error(`the new object is cut into ${n} tokens, and ${most} are the most`);
    const { k, z0 } = keyAndStart(fact, layer);
    const u = solve(inverseOf(layer), k);
    const { delta, losses } = known || (await optimise(fact, layer, z0, search, progress));
    const made = { fact, layer, lam, k, z0, u, q: dot(k, u), delta, losses, below: outs[layer] };
    states.now.clear();
    write(made);
    stack.push(made);
    return report(made);
  }

  /** Another lam for the last edit: its key and target stay. */
  function again({ lam }) {
    const last = stack[stack.length - 1];
    if (!last) throw new Error("there is no edit");
    last.lam = lam;
    write(last);
    return report(last);
  }

  function undo() {
    const last = stack.pop();
    if (last) outs[last.layer] = last.below; // the very matrix, bit for bit
    states.now.clear();
    return { left: stack.length };
  }

  // ---------------------------------------------------------------- questions

  const top = (logits, n) => {
    const logp = logSoftmax(logits);
    const order = [...logp.keys()].sort((a, b) => logp[b] - logp[a]).slice(0, n);
    return order.map((id) => ({ token: decode(id), p: Math.exp(logp[id]) }));
  };

  function tokensOf(prompt) {
    const { ids } = encode(prompt);
    if (!ids.length) throw new Error("the question is empty");
    if (ids.length > shape.positions) throw new Error("the question is too long for the model");
    return ids;
  }

  /** The likeliest next tokens after each prompt, and the words that the model goes on to say; of
      the model as it is, or as it was. */
  function ask({ prompts, was = false, n = 5 }) {
    const layer = stack.length && !was ? stack[stack.length - 1].layer : 0;
    const W = was ? original : outs;
    const found = read(prompts.map(tokensOf), layer, W);
    const { logits } = logitsAt(found.x, lastOf(found.rows));
    const said = goOn(found, W, 7);
    return logits.map((z, i) => ({ top: top(z, n), says: said[i] }));
  }

  /** All logits after each prompt, for tests. */
  function logits({ prompts }) {
    return answer(prompts.map(tokensOf), 0, outs).map((x) => Array.from(x));
  }

  const tokens = ({ texts }) => texts.map((text) => encode(text).ids);

  // ---------------------------------------------------------------- many facts at once

  /** A = C0^-1 K (d_in, E) and G = K^T A (E, E) of all prepared facts, column by column. */
  function prepareBatch() {
    const b = data.batch;
    if (b.G) return b;
    const [d, E] = [shape.inner, b.facts.length];
    const inverse = inverseOf(b.layer);
    b.columns = Array.from({ length: E }, (_, e) => b.keys.subarray(e * d, (e + 1) * d));
    const A = new Float64Array(E * d);
    for (let i = 0; i < d; i++) {
      const row = inverse.subarray(i * d, (i + 1) * d);
      for (let e = 0; e < E; e++) {
        const k = b.columns[e];
        let sum = 0;
        for (let j = 0; j < d; j++) sum += row[j] * k[j];
        A[e * d + i] = sum;
      }
    }
    b.A = Array.from({ length: E }, (_, e) => A.subarray(e * d, (e + 1) * d));
    b.G = b.A.map((a, e) => Float64Array.from({ length: e + 1 }, (_, f) => dot(a, b.columns[f])));
    return b;
  }

  /** Delta = R (G + lam I)^-1 A^T for the first `size` facts; lam 0 is hard equality. */
  function batchDelta(size, lam) {
    const { A, G, deltas } = prepareBatch();
    const [d_in, d_out] = [shape.inner, shape.width];
    // Cholesky: G + lam I = L L^T
    const L = [];
    for (let i = 0; i < size; i++) {
      L[i] = new Float64Array(i + 1);
      for (let j = 0; j <= i; j++) {
        let sum = G[i][j] + (i === j ? lam : 0);
        for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
        if (i === j && !(sum > 0)) throw new Error("these facts cannot all be met exactly");
        L[i][j] = i === j ? Math.sqrt(sum) : sum / L[j][j];
      }
    }
    // Y = (L L^T)^-1 R^T, row e for fact e
    const Y = Array.from({ length: size }, (_, e) =>
      Float64Array.from(deltas.subarray(e * d_out, (e + 1) * d_out)),
    );
    const subtract = (from, row, factor) => {
      for (let o = 0; o < d_out; o++) from[o] -= factor * row[o];
    };
    const divide = (row, by) => {
      for (let o = 0; o < d_out; o++) row[o] /= by;
    };
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < i; j++) subtract(Y[i], Y[j], L[i][j]);
      divide(Y[i], L[i][i]);
    }
    for (let i = size - 1; i >= 0; i--) {
      divide(Y[i], L[i][i]);
      for (let j = 0; j < i; j++) subtract(Y[j], Y[i], L[i][j]);
    }
    const Delta = new Float64Array(d_out * d_in);
    for (let e = 0; e < size; e++)
      for (let o = 0; o < d_out; o++) {
        const y = Y[e][o];
        for (let i = 0; i < d_in; i++) Delta[o * d_in + i] += y * A[e][i];
      }
    return Delta;
  }

  /** Write the first `size` prepared facts into the unedited model, look, and take them back.
      size 0 is the unedited model. With `prompts`: their logits, for tests. */
  function batch({ size, lam, sample = 24, prompts = null }) {
    const { facts, layer, texts } = data.batch;
    const Delta = size ? batchDelta(size, lam) : new Float64Array(shape.inner * shape.width);
    const W = original.slice();
    W[layer] = changed(original[layer], Delta);
    if (prompts) return answer(prompts.map(tokensOf), layer, W).map((x) => Array.from(x));
    const n = Math.min(sample, size || facts.length);
    const chosen = Array.from({ length: n }, (_, i) =>
      Math.floor((i * (size || facts.length)) / n),
    );
    const share = (questions) => {
      const found = answer(
        questions.map(([prompt]) => encode(prompt).ids),
        layer,
        W,
      );
      const hits = found.filter((x, i) => best(x) === encode(` ${questions[i][1]}`).ids[0]);
      return hits.length / questions.length;
    };
    const said = share(chosen.map((e) => [facts[e].text, facts[e].object]));
    const kept = share(data.batch.neighbours);
    const { x, rows } = read(
      texts.map((text) => encode(text).ids),
      layer,
      W,
    );
    const ids = texts.flatMap((text) => encode(text).ids);
    const before = rows.flatMap(({ from, to }) =>
      Array.from({ length: to - from - 1 }, (_, i) => from + i),
    );
    const { logits } = logitsAt(x, before);
    const loss = before.map((t, i) => -logSoftmax(logits[i])[ids[t + 1]]);
    const perplexity = Math.exp(loss.reduce((a, b) => a + b) / loss.length);
    const norm = length(Delta) / length(original[layer].W);
    return { said, kept, perplexity, norm };
  }

  // ---------------------------------------------------------------- requests

  const calls = { load, edit, stop, again, undo, ask, logits, tokens, batch };

  /** Answer requests {id, call, args} with {id, result}, {id, error} or, on the way, {id, step}. */
  function serve(post, pause) {
    return async ({ id, call, args }) => {
      try {
        const progress = async (step) => {
          post({ id, step });
          await pause();
        };
        post({ id, result: await calls[call](args || {}, progress) });
      } catch (error) {
        post({ id, error: error.message });
      }
    };
  }

  return { serve };
}
