"""C0, the second moment of the keys a model sees in ordinary text: collected once, kept, refused
when it belongs to other weights.

    C0 = (1/N) sum k k^T  over N tokens, k (d_in,) the input of the MLP's down-projection.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from . import kept, objective
from .errors import MeditError, StatisticsError
from .fact import encode
from .hooks import evaluating, watch
from .kept import Damaged, Unwritable, write_whole
from .memory import Room, ran_out
from .models import View, fingerprint, why_not_finite
from .processes import ALONE
from .running import exact, home
from .settings import dtype_of, layer_numbers, place, truth, whole
from .texts import as_texts

SAVE_EVERY = 30.0  # seconds of work between two saves of what is unfinished, or
SAVE_SHARE = 20.0  # times as long as the last save took, where that is more
LONGEST = 2048  # tokens of a text that are read: one row of 100,000 could not be made smaller
ORIGIN = ("weights", "text", "tokens", "layer")  # what the header of a C0's file says
ROWS = 512  # rows of a sum that are added to at once, from the diagonal on: it is symmetric


def cache_folder():
    """Where statistics are kept: MEDIT_CACHE, else the user's cache folder."""
    try:
        return Path(os.environ.get("MEDIT_CACHE") or Path.home() / ".cache" / "medit_teach")
    except RuntimeError as error:
        raise StatisticsError("there is no home folder to keep C0 in: set MEDIT_CACHE") from error


@dataclass
class Statistics:
    """C0 {layer: (d_in, d_in)} over `tokens` tokens of the text with hash `text`, for the model
    with fingerprint `weights`. A C0 is factored once and the factor kept; if it lies on the disk
    (load(..., one_at_a_time=True)), only the last layer's factor is. Updates are solved on the
    device of C0."""

    C0: dict
    tokens: int
    weights: str
    text: str
    _factors: dict = field(default_factory=dict, repr=False)

    def soft(self, layer):
        """objective.factor of this layer's C0, computed at the first call."""
        return self._once(("soft", layer), lambda: objective.factor(self[layer]))

    def hard(self, layer, threshold=None, energy=None):
        """objective.null_space of this layer's C0, computed at the first call."""
        key = ("hard", layer, threshold, energy)
        return self._once(key, lambda: objective.null_space(self[layer], threshold, energy))

    def _once(self, key, make):
        if key not in self._factors:
            if isinstance(self.C0, _Files):
                self._factors.clear()
            self._factors[key] = make()
        return self._factors[key]

    def device(self, layer):
        """Where the C0 of this layer lies: the host, if it is read from the disk."""
        return torch.device("cpu") if isinstance(self.C0, _Files) else home(self.C0[layer].device)

    def __getitem__(self, layer):
        """C0 of this layer, (d_in, d_in) float64; StatisticsError if there is none."""
        self._there(layer)
        return exact(self.C0[layer])

    def shape(self, layer):
        """(d_in, d_in) of this layer's C0, which is not read for it; StatisticsError as above."""
        self._there(layer)
        return self.C0.shape(layer) if isinstance(self.C0, _Files) else tuple(self.C0[layer].shape)

    def _there(self, layer):
        if layer not in self.C0:
            raise StatisticsError(f"no C0 for layer {layer}; there is one for {sorted(self.C0)}")

    @property
    def origin(self):
        """(weights, text, tokens): what every file of a C0 says of itself."""
        return self.weights, self.text, self.tokens

    def shrunk(self, alpha):
        """The same statistics with objective.shrink(C0, alpha) in every layer."""
        C0 = {layer: objective.shrink(C, alpha) for layer, C in self.C0.items()}
        return Statistics(C0, self.tokens, self.weights, self.text)

    def check(self, view, layers, weights=None):
        """StatisticsError unless this holds a C0 of the right size, from these very weights."""
        weights = weights or fingerprint(view.model)
        for layer in layers:
            d_in = view.weight(layer).shape[1]
            if (shape := self.shape(layer)) != (d_in, d_in):
                raise StatisticsError(
                    f"C0 of layer {layer} has shape {shape}, the model needs "
                    f"({d_in}, {d_in}); it was collected from another model: collect it again"
                )
        if self.weights != weights:
            raise StatisticsError(
                "this C0 was collected from a model with other weights "
                f"({self.weights[:8]}..., the model here is {weights[:8]}...); collect it again "
                "with second_moment(model, ...), or undo the edits that changed the model"
            )

    def save(self, folder):
        """One safetensors file a layer, which says whose it is and carries a hash of its content,
        and a statistics.json, in `folder`. StatisticsError, and nothing is written, where a C0 of
        another model, text or number of tokens lies there; MeditError where the disk refuses."""
        folder = Path(folder)
        with kept.named(folder):
            self._alone(folder)
            for layer, C in self.C0.items():
                about = dict(zip(ORIGIN, map(str, (*self.origin, layer)), strict=True))
                save = partial(kept.save, tensors={"C0": C}, about=about)
                write_whole(folder / f"C0-{layer}.safetensors", save)
            about = {"tokens": self.tokens, "weights": self.weights, "text": self.text}
            write_whole(
                folder / "statistics.json",
                lambda p: Path(p).write_text(json.dumps(about), encoding="utf-8"),
            )

    def _alone(self, folder):
        """StatisticsError if `folder` holds a C0 of another origin, or one that hides it."""
        for layer, path in _paths(folder).items() if folder.is_dir() else ():
            try:
                origin = _origin(kept.header(path)[1], layer) or _stated(folder)
            except (Damaged, OSError) as error:
                if layer in self.C0:  # it is replaced
                    continue
                origin = f"of an unknown model ({kept.reason(error)})"
            if origin != self.origin:
                raise StatisticsError(
                    f"{folder} holds a C0 {_told(origin)}, this one is {_told(self.origin)}: save "
                    "it into another folder, or delete that one first"
                )

    def push(self, repository, **kwargs):
        """The same files on the hub, in `repository` ("owner/name", made if there is none).

        kwargs: as of huggingface_hub's create_repo, such as private=True. Needs a hub login.
        """
        from huggingface_hub import HfApi, snapshot_download

        with TemporaryDirectory() as folder:
            self.save(folder)
            try:
                HfApi().create_repo(repository, exist_ok=True, **kwargs)
                there = Path(snapshot_download(repository, allow_patterns=["statistics.json"]))
                if (there / "statistics.json").is_file() and _stated(there) != self.origin:
                    raise StatisticsError(
                        f"{repository} holds a C0 {_told(_stated(there))}, this one is "
                        f"{_told(self.origin)}: name another repository"
                    )
                HfApi().upload_folder(repo_id=repository, folder_path=folder)
            except StatisticsError:
                raise
            except Exception as error:
                raise StatisticsError(
                    f"cannot write to {repository} on the hub ({_line(error)}); "
                    "statistics.save(folder) keeps the same files here"
                ) from error

    @classmethod
    def load(cls, source, layers=None, one_at_a_time=False):
        """What `save` or `push` wrote; StatisticsError when a file is missing or cannot be read.

        source: a folder, or "owner/name" on the hub. layers: these only (default all).
        one_at_a_time: each C0 is read when it is needed, and not kept: for matrices that do not
        fit into memory together. Whether it belongs to a model is seen when it is used (`check`).
        """
        folder = place("source", source, StatisticsError)
        layers = None if layers is None else layer_numbers(layers, StatisticsError)
        if not os.path.exists(folder) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
            folder = _from_hub(str(source), layers)
        try:
            paths = _paths(folder)
            wanted = sorted(paths) if layers is None else [x for x in layers if x in paths]
            files = _Files({layer: paths[layer] for layer in wanted})
            origins = {layer: files.origin(layer) or _stated(folder) for layer in wanted}
            told = {origin: layer for layer, origin in origins.items()} or {_stated(folder): None}
            if len(told) > 1:
                each = ", ".join(f"layer {layer} {_told(x)}" for x, layer in sorted(told.items()))
                raise StatisticsError(f"it holds C0 of several origins ({each})")
            weights, text, tokens = next(iter(told))
            return cls(files if one_at_a_time else dict(files), tokens, weights, text)
        except (MeditError, OSError, ValueError) as error:
            again = "" if isinstance(error, OSError) else "; delete the folder and collect again"
            raise StatisticsError(
                f"cannot read statistics in {folder}: {kept.reason(error)}{again}"
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            raise StatisticsError(
                f"out of memory for the C0 in {folder}: read one layer at a time (one_at_a_time)"
            ) from error


def _paths(folder):
    """{layer: the file of its C0} in a folder; OSError if it cannot be listed."""
    found = ((re.fullmatch(r"C0-(\d+)\.safetensors", p.name), p) for p in folder.iterdir())
    return {int(name[1]): p for name, p in sorted(found, key=lambda x: x[1]) if name}


def _origin(about, layer):
    """(weights, text, tokens) in the header of a C0's file; None in one of earlier versions, which
    say nothing. Damaged if it is another layer's."""
    if not about:
        return None
    if set(about) != set(ORIGIN) or not about["tokens"].isdecimal():
        raise Damaged(kept.CHANGED)
    if about["layer"] != str(layer):
        raise Damaged(f"it holds the C0 of layer {about['layer']}, not of layer {layer}")
    return about["weights"], about["text"], int(about["tokens"])


def _stated(folder):
    """(weights, text, tokens) in a folder's statistics.json: it vouches for files that say nothing
    themselves."""
    try:
        about = kept.opened((folder / "statistics.json").read_bytes())
    except (Damaged, OSError) as error:
        raise Damaged(f"statistics.json cannot be read: {kept.reason(error)}") from error
    weights, text, tokens = (about.get(name) for name in ("weights", "text", "tokens"))
    if not (isinstance(weights, str) and isinstance(text, str) and type(tokens) is int):
        raise Damaged("statistics.json does not say whose C0 it is")
    return weights, text, tokens


def _told(origin):
    """An origin in words."""
    if isinstance(origin, str):
        return origin
    return f"of weights {origin[0][:8]}..., text {origin[1][:8]}..., {origin[2]} tokens"


def _matrix(path, layer):
    """(C0, its origin or None) in a layer's file, on the host; Damaged unless it is one."""
    tensors, about = kept.load(path, old=True)
    C, origin = tensors.get("C0"), _origin(about, layer)
    if C is None or C.ndim != 2 or len(C) != C.shape[1] or not C.is_floating_point():
        raise Damaged("it holds no C0")
    if not torch.isfinite(C).all():
        raise Damaged("its C0 is not finite")
    return C, origin


def _from_hub(repository, layers):
    """A local folder with the files of these layers (None: all) of a hub repository."""
    from huggingface_hub import snapshot_download

    names = ["C0-*.safetensors"] if layers is None else [f"C0-{x}.safetensors" for x in layers]
    try:
        return Path(snapshot_download(repository, allow_patterns=["statistics.json", *names]))
    except Exception as error:
        raise StatisticsError(
            f"there is no folder {repository}, and it cannot be loaded from the hub "
            f"({_line(error)}); collect C0 with second_moment(...)"
        ) from error


def _line(error):
    """The first line of an error."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _Files(Mapping):
    """{layer: C0}, read from its file, and checked, at each look."""

    def __init__(self, paths):
        self.paths = paths

    def __getitem__(self, layer):
        try:
            return _matrix(self.paths[layer], layer)[0]
        except (Damaged, OSError) as error:
            again = "; delete it and collect again" if isinstance(error, Damaged) else ""
            raise StatisticsError(
                f"cannot read {self.paths[layer].name}: {kept.reason(error)}{again}"
            ) from error

    def _header(self, layer):
        try:
            return kept.header(self.paths[layer])
        except (Damaged, OSError) as error:
            raise StatisticsError(
                f"cannot read {self.paths[layer].name}: {kept.reason(error)}"
            ) from error

    def shape(self, layer):
        return self._header(layer)[0].get("C0", ())

    def origin(self, layer):
        return _origin(self._header(layer)[1], layer)

    def __contains__(self, layer):  # Mapping's own would read the file
        return layer in self.paths

    def __iter__(self):
        return iter(self.paths)

    def __len__(self):
        return len(self.paths)


def second_moment(
    model,
    tok,
    texts,
    layers,
    tokens=100_000,
    batch_tokens=4096,
    dtype=torch.float64,
    cache=None,
    progress=False,
    one_at_a_time=False,
    processes=ALONE,
):
    """Statistics of `layers` over the first `tokens` tokens of `texts`: one pass for all layers.

    texts: iterable of str (or of records with a field "text"), each encoded on its own and cut at
    the model's context length, or at LONGEST tokens where that is less. The pass stops at the
    highest layer. Sums are kept in float64; dtype is what is stored.
    cache: a folder (True: the default one); finished layers are found there again by the hash of
    weights, text, sample size and dtype, and work that was interrupted goes on where it stopped.
    one_at_a_time: a pass for each layer, and never more than one C0 in memory (needs cache).
    progress: show a bar. processes: each reads its share of the batches, all have the whole C0.
    StatisticsError if there are fewer tokens than key dimensions, which would make C0 singular.
    """
    view = View(model)
    layers = view.layers(layers, StatisticsError)
    tokens = whole("tokens", tokens, 1, error=StatisticsError)
    batch_tokens = whole("batch_tokens", batch_tokens, 1, error=StatisticsError)
    dtype = dtype_of("dtype", dtype, StatisticsError)
    one_at_a_time = truth("one_at_a_time", one_at_a_time, StatisticsError)
    if one_at_a_time and not cache:
        raise StatisticsError("one_at_a_time keeps C0 on the disk: give cache=True or a folder")
    d_in = max(view.weight(layer).shape[1] for layer in layers)
    texts = as_texts(texts, error=StatisticsError)
    rows = _take(tok, texts, tokens, min(LONGEST, view.window))
    count = sum(map(len, rows))
    if count < d_in:
        raise StatisticsError(
            f"only {count} tokens of text for keys of {d_in} dimensions: C0 would be singular; "
            f"give more text, as a list: of each, {min(LONGEST, view.window)} tokens are read"
        )
    weights = fingerprint(model)
    text = hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()
    result = Statistics({}, count, weights, text)
    folder, cached = None, cache is not None and cache is not False
    if cached:
        name = f"{weights}-{text}-{count}-{str(dtype).removeprefix('torch.')}"
        kept_in = cache_folder() if cache is True else place("cache", cache, StatisticsError)
        folder = kept_in / name
        try:
            there = _cached(folder, layers, view, result.origin, dtype, not one_at_a_time)
            files = {layer: folder / f"C0-{layer}.safetensors" for layer in there}
            result.C0 = _Files(files) if one_at_a_time else there
        except OSError as error:
            told = f"cannot read the C0 kept in {folder}: {kept.reason(error)}"
            if one_at_a_time:
                raise StatisticsError(told) from error
            kept.warn(f"{told}; it is collected again and not kept")
            folder = None
    told = processes.gathered((weights, text, [x for x in layers if x not in result.C0]))
    if any(one[:2] != told[0][:2] for one in told):
        raise StatisticsError("the processes have different weights or different text")
    missing = sorted({layer for *_, lacking in told for layer in lacking})
    if one_at_a_time and missing and processes.main:
        kept.ready(folder / "statistics.json")
    batches = processes.share(_batches(rows, batch_tokens))
    for group in [[x] for x in missing] if one_at_a_time else [missing] if missing else []:
        part = {x: _partial(folder, x, batch_tokens, processes) for x in group} if folder else {}
        show = progress and processes.main
        sums = _collect(view, tok, batches, group, part, show, keep=processes.count > 1)
        found = {layer: processes.total(S).div_(count).to(dtype) for layer, S in sums.items()}
        if not all(torch.isfinite(C).all() for C in found.values()):
            raise StatisticsError(f"the keys are not finite: {why_not_finite(model)}")
        result.C0 = found if one_at_a_time else result.C0 | found
        if cached:
            saved = folder and _saved(result, folder, bool(part), one_at_a_time, processes)
            # a share is given up when the whole is kept, and only then
            for path in part.values() if processes.gathered(saved)[0] else ():
                with suppress(OSError):  # it is of no more use, and does no harm
                    path.unlink(missing_ok=True)
    return Statistics.load(folder, layers, True) if one_at_a_time else result


def _saved(result, folder, warn, needed, processes):
    """Whether the first process could save `result`; that it could not is an error if it is
    `needed` there, else a warning."""
    try:
        if processes.main:
            result.save(folder)
        return True
    except Unwritable as error:
        if needed:
            raise
        if warn:  # else it was told when a part of the sum could not be kept
            kept.warn_unwritten(folder, error)
        return False


def _cached(folder, layers, view, origin, dtype, keep):
    """{layer: C0 where the layer's matrix lies} of those layers whose whole file is in `folder`;
    keep=False: checked, and not kept. A damaged file is set aside. OSError if one cannot be read;
    StatisticsError if one is of another origin."""
    found = {}
    for layer in layers:
        path = folder / f"C0-{layer}.safetensors"
        if not os.path.exists(path):
            continue
        try:
            C, theirs = _matrix(path, layer)
            theirs, d_in = theirs or _stated(folder), view.weight(layer).shape[1]
            if theirs[:2] != origin[:2]:
                raise StatisticsError(
                    f"{folder} holds a C0 of other weights or text ({theirs[0][:8]}..., the "
                    f"model here is {origin[0][:8]}...); delete the folder and collect again"
                )
            if theirs != origin or C.shape != (d_in, d_in) or C.dtype != dtype:
                raise Damaged("it is the C0 of another call")
        except Damaged as error:
            kept.set_aside(path, error)
            continue
        found[layer] = C.to(home(view.parameter(layer).device)) if keep else None
    return found


def _batches(rows, batch_tokens):
    """The rows in batches of about one length, of at most batch_tokens tokens with padding."""
    batches = []
    for row in sorted(rows, key=len):
        if not batches or (len(batches[-1]) + 1) * len(row) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _collect(view, tok, batches, layers, part, progress, keep=False):
    """{layer: sum of k k^T (d_in, d_in) float64}; unfinished work is saved in the files `part`
    {layer: path}, if there are any, and found there again. keep: finished work too."""
    most = len(batches)
    found = {layer: _unfinished(view.weight(layer), part.get(layer), most) for layer in layers}
    sums = {layer: S for layer, (S, _) in found.items()}
    done = {layer: n for layer, (_, n) in found.items()}  # batches
    tokens = [sum(map(len, rows)) for rows in batches]
    first, wait, saved_at = min(done.values()), SAVE_EVERY, time.monotonic()
    with _bar(sum(tokens), sum(tokens[:first]), progress) as bar:
        with torch.no_grad(), evaluating(view.model):
            for b in range(first, len(batches)):
                modules = {x: view.down(x) for x in layers if done[x] == b}
                for keys in _keys(view, tok, batches[b], modules):
                    for layer in modules:
                        K = exact(keys.pop(layer))  # (tokens, d_in)
                        sums[layer] = sums[layer].to(K)
                        for i in range(0, K.shape[1], ROWS):
                            sums[layer][i : i + ROWS, i:] += K.T[i : i + ROWS] @ K[:, i:]
                bar(tokens[b])
                done |= dict.fromkeys(modules, b + 1)
                last = keep and b + 1 == len(batches)
                if part and (last or time.monotonic() - saved_at > wait):
                    began = time.monotonic()
                    try:
                        for layer, S in sums.items():  # each on its own: one copy on the host
                            state, path = {"sum": S, "done": torch.tensor(done[layer])}, part[layer]
                            save = partial(kept.save, tensors=state, about={"of": _of(path)})
                            write_whole(path, save)
                    except OSError as error:
                        kept.warn_unwritten(path.parent, error)
                        part.clear()
                    saved_at = time.monotonic()
                    wait = max(SAVE_EVERY, SAVE_SHARE * (saved_at - began))
    for S in sums.values():
        for i in range(0, len(S), ROWS):
            S[i + ROWS :, i : i + ROWS] = S[i : i + ROWS, i + ROWS :].T
    return sums


def _unfinished(W, path, most):
    """(sum, number of batches in it, of `most`) as they lie in the file `path`; if there is none,
    zeros and 0. A damaged file, or one that was written under another name, is set aside."""
    d, at = W.shape[1], home(W.device)
    try:
        if path and os.path.exists(path):
            saved, about = kept.load(path)
            S, done = saved.get("sum"), saved.get("done")
            if about != {"of": _of(path)} or S is None or S.shape != (d, d) or done is None:
                raise Damaged("it is a part of another sum")
            fits = S.dtype == torch.float64 and done.numel() == 1 and 0 <= int(done) <= most
            if not fits or not torch.isfinite(S).all():
                raise Damaged("it is no part of this sum")
            return S.to(at), int(done)
    except Damaged as error:  # it only costs the time to collect again
        kept.set_aside(path, error)
    except OSError as error:
        kept.warn(f"cannot read {path}: {kept.reason(error)}; its part is collected again")
    return torch.zeros(d, d, dtype=torch.float64, device=at), 0


def _of(path):
    """What the file of an unfinished sum belongs to: its folder's name tells weights and text."""
    return f"{path.parent.name}/{path.name}"


def _keys(view, tok, rows, modules):
    """{layer: keys (tokens, d_in)} of rows of token ids: once, or, where memory runs out,
    several times for fewer rows each."""
    longest, done = max(map(len, rows)), 0
    room = Room(len(rows) * longest, "batch_tokens", least=longest)
    while done < len(rows):
        keys = None
        with room:
            some = rows[done : done + room.size // longest]
            batch = view.batch(some, tok)
            with watch(modules, stop=True) as seen:
                view.run(batch)
            real = batch["attention_mask"].bool().flatten()
            flat = {layer: seen[layer].input.flatten(0, -2) for layer in modules}
            keys = {layer: K[real.to(K.device)] for layer, K in flat.items()}
        if keys:
            done += len(some)
            yield keys


def _partial(folder, layer, batch_tokens, processes):
    """Where the unfinished sum of the layer lies, of the share that depends on these."""
    share = f"{processes.index + 1}of{processes.count}-{batch_tokens}"
    return folder / f"partial-{layer}-{share}.safetensors"


def _take(tok, texts, tokens, longest):
    """Token ids of texts, one list each, `tokens` in all (the last text is cut)."""
    rows, left = [], tokens
    for text in texts:
        ids = encode(tok, text)[0][: min(longest, left)]
        if ids:
            rows.append(ids)
            left -= len(ids)
        if left <= 0:
            break
    return rows


class _bar:
    """A tqdm bar in tokens, or nothing."""

    def __init__(self, total, initial, show):
        self.args, self.show = {"total": total, "initial": initial, "unit": "token"}, show

    def __enter__(self):
        if not self.show:
            return lambda n: None
        from tqdm.auto import tqdm

        self.bar = tqdm(desc="second moment", **self.args)
        return self.bar.update

    def __exit__(self, *error):
        if self.show:
            self.bar.close()
