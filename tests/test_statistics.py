"""C0: against a plain loop; padding, batches, layers, interruption and the cache change nothing."""

from itertools import pairwise

import pytest
import torch

import medit_teach as mt
from medit_teach import running, statistics
from medit_teach.errors import StatisticsError
from medit_teach.models import View, fingerprint

from .helpers import tiny_model, tiny_tokenizer
from .test_edit import TEXTS


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def case(request):
    tok = tiny_tokenizer()
    return tiny_model(request.param, tok, layers=3, d=16), tok


def by_hand(model, tok, texts, layer, tokens):
    """Sum of k k^T one text at a time, with a plain hook and no padding."""
    seen, left = [], tokens
    hook = lambda module, args: seen.append(args[0][0].double())  # noqa: E731
    handle = View(model).down(layer).register_forward_pre_hook(hook)
    with torch.no_grad():
        for text in texts:
            ids = tok(text)["input_ids"][: min(64, left)]
            if not ids:
                break
            model(torch.tensor([ids]))
            left -= len(ids)
    handle.remove()
    K = torch.cat(seen)
    return K.T @ K / len(K), len(K)


@pytest.mark.parametrize("tokens", [400, 10**6])
def test_against_a_plain_loop(case, tokens):
    model, tok = case
    ours = mt.second_moment(model, tok, TEXTS, [0, 1, 2], tokens=tokens)
    for layer in (0, 1, 2):
        C0, n = by_hand(model, tok, TEXTS, layer, tokens)
        assert ours.tokens == n <= tokens
        assert torch.allclose(ours[layer], C0, rtol=1e-5, atol=1e-6)


def test_batch_size_layers_and_padding_side_do_not_matter(case):
    model, tok = case
    one = mt.second_moment(model, tok, TEXTS, [1], batch_tokens=1)
    tok.padding_side = "left"
    many = mt.second_moment(model, tok, TEXTS, [0, 1, 2], batch_tokens=10_000)
    tok.padding_side = "right"
    assert torch.allclose(one[1], many[1], rtol=1e-5, atol=1e-6)


def test_too_little_text(case):
    model, tok = case
    with pytest.raises(StatisticsError, match=r"only \d+ tokens of text for keys of 64 dimensions"):
        mt.second_moment(model, tok, TEXTS[:1], [1])
    with pytest.raises(StatisticsError, match="only 0 tokens"):
        mt.second_moment(model, tok, [], [1])


def test_cache_computes_only_what_is_missing(case, tmp_path, monkeypatch):
    model, tok = case
    passes = []
    real = statistics._collect
    monkeypatch.setattr(
        statistics, "_collect", lambda *a, **k: passes.append(a[3]) or real(*a, **k)
    )
    call = dict(cache=tmp_path, tokens=500)
    a = mt.second_moment(model, tok, TEXTS, [0, 1], **call)
    b = mt.second_moment(model, tok, TEXTS, [1, 2], **call)
    c = mt.second_moment(model, tok, TEXTS, [0, 1, 2], **call)
    assert passes == [[0, 1], [2]]
    assert torch.equal(a[1], c[1]) and torch.equal(b[2], c[2])
    mt.second_moment(model, tok, TEXTS, [1], cache=tmp_path, tokens=501)
    mt.second_moment(model, tok, TEXTS[1:], [1], **call)
    mt.second_moment(model, tok, TEXTS, [1], dtype=torch.float32, **call)
    other = tiny_model(model.config.model_type, tok, layers=3, d=16, seed=5)
    mt.second_moment(other, tok, TEXTS, [1], **call)
    assert passes[2:] == [[1]] * 4  # sample size, text, dtype and weights are all told apart


def test_an_interrupted_collection_goes_on(case, tmp_path, monkeypatch):
    model, tok = case
    call = dict(cache=tmp_path, tokens=10**6, batch_tokens=64)
    whole = mt.second_moment(model, tok, TEXTS, [1, 2], tokens=10**6, batch_tokens=64)
    monkeypatch.setattr(statistics, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(statistics, "SAVE_SHARE", 0.0)
    real, rows = running.pad, []

    def pad(batch, *args):
        rows.append(len(batch))
        if len(rows) == 9:
            raise KeyboardInterrupt
        return real(batch, *args)

    monkeypatch.setattr(running, "pad", pad)
    with pytest.raises(KeyboardInterrupt):
        mt.second_moment(model, tok, TEXTS, [1, 2], **call)
    done = sum(rows[:8])
    rows.clear()
    rows += [0] * 100  # no further interruption
    resumed = mt.second_moment(model, tok, TEXTS, [1, 2], **call)
    assert sum(rows[100:]) == len(TEXTS) - done  # nothing was done twice
    assert torch.equal(resumed[1], whole[1]) and torch.equal(resumed[2], whole[2])
    assert not list(tmp_path.rglob("partial*"))


def test_a_kill_between_the_saves_of_two_layers(case, tmp_path, monkeypatch):
    """The layer that was saved is not collected twice where the other has to be."""
    model, tok = case
    call = dict(tokens=10**6, batch_tokens=64)
    whole = mt.second_moment(model, tok, TEXTS, [1, 2], **call)
    monkeypatch.setattr(statistics, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(statistics, "SAVE_SHARE", 0.0)
    real, saves = statistics.write_whole, []

    def write(path, save):
        saves.append(path.name.split("-")[1])
        if len(saves) == 6:
            raise KeyboardInterrupt
        real(path, save)

    with monkeypatch.context() as patch:
        patch.setattr(statistics, "write_whole", write)
        with pytest.raises(KeyboardInterrupt):
            mt.second_moment(model, tok, TEXTS, [1, 2], cache=tmp_path, **call)
    assert saves == ["1", "2"] * 3
    counts, real_keys = [], statistics._keys
    count = lambda *a: counts.append(sorted(a[3])) or real_keys(*a)  # noqa: E731
    monkeypatch.setattr(statistics, "_keys", count)
    resumed = mt.second_moment(model, tok, TEXTS, [1, 2], cache=tmp_path, **call)
    assert counts[:2] == [[2], [1, 2]] and counts[1:] == [[1, 2]] * (len(counts) - 1)
    assert torch.equal(resumed[1], whole[1]) and torch.equal(resumed[2], whole[2])
    assert not list(tmp_path.rglob("partial*"))


def test_saving_takes_a_small_part_of_the_time(case, tmp_path, monkeypatch):
    """By a clock that the work moves on: each batch takes 20 s, each layer's save 15 s."""
    model, tok = case
    clock, saved = [0.0], []
    monkeypatch.setattr(statistics.time, "monotonic", lambda: clock[0])

    def pad(*args, real=running.pad):
        clock[0] += 20
        return real(*args)

    def write(path, save):
        if "partial" in path.name:
            clock[0] += 15
            saved.append((clock[0], path.name))

    monkeypatch.setattr(running, "pad", pad)
    part = {layer: tmp_path / f"partial-{layer}" for layer in (1, 2)}
    monkeypatch.setattr(statistics, "write_whole", write)
    rows = [[5, 6, 7]] * 200
    statistics._collect(View(model), tok, [[row] for row in rows], [1, 2], part, False)
    times = [t for t, name in saved if name == "partial-2"]
    assert times[0] == 40 + 30  # the first after SAVE_EVERY
    apart = {b - a for a, b in pairwise(times)}
    assert len(times) > 3 and apart == {620 + 30}  # then SAVE_SHARE times 30 s, to the next batch


def test_a_long_text_is_cut_where_the_context_is_longer(monkeypatch):
    tok = tiny_tokenizer()
    short = tiny_model("llama", tok, layers=2, d=16)
    assert View(short).window == 64
    short.config.max_position_embeddings = 131_072
    assert View(short).window == 131_072 and statistics.LONGEST == 2048
    monkeypatch.setattr(statistics, "LONGEST", 30)
    long = " ".join(TEXTS)
    found = mt.second_moment(short, tok, [long, *TEXTS[:9]], [1], tokens=200)
    rows = [tok(text)["input_ids"][:30] for text in (long, *TEXTS[:9])]
    assert len(rows[0]) == 30 and found.tokens == min(200, sum(map(len, rows)))


def test_a_damaged_partial_file_only_costs_time(case, tmp_path, monkeypatch):
    model, tok = case
    whole = mt.second_moment(model, tok, TEXTS, [1], tokens=500)
    monkeypatch.setattr(statistics, "_partial", lambda *_: tmp_path / "partial")
    (tmp_path / "partial").write_bytes(b"broken")
    again = mt.second_moment(model, tok, TEXTS, [1], tokens=500, cache=tmp_path / "c")
    assert torch.equal(again[1], whole[1])


def test_save_load_and_damage(case, tmp_path):
    model, tok = case
    found = mt.second_moment(model, tok, TEXTS, [0, 2])
    found.save(tmp_path)
    back = mt.Statistics.load(tmp_path)
    assert sorted(back.C0) == [0, 2] and torch.equal(back[2], found[2])
    assert (back.tokens, back.weights) == (found.tokens, fingerprint(model))
    (tmp_path / "C0-2.safetensors").write_bytes(b"broken")
    with pytest.raises(StatisticsError, match="cannot read statistics"):
        mt.Statistics.load(tmp_path)


def test_one_layer_at_a_time_gives_the_same_edit_and_keeps_one_matrix(case, tmp_path, monkeypatch):
    model, tok = case
    whole = mt.second_moment(model, tok, TEXTS, [0, 1, 2])
    sizes, real = [], statistics.Statistics.save
    save = lambda self, folder: sizes.append(len(self.C0)) or real(self, folder)  # noqa: E731
    monkeypatch.setattr(statistics.Statistics, "save", save)
    call = dict(cache=tmp_path, one_at_a_time=True)
    found = mt.second_moment(model, tok, TEXTS, [0, 1, 2], **call)
    assert sizes == [1, 1, 1] and sorted(found.C0) == [0, 1, 2]
    assert all(torch.equal(found[layer], whole[layer]) for layer in (0, 1, 2))
    mt.second_moment(model, tok, TEXTS, [0, 1, 2], **call)
    assert len(sizes) == 3  # nothing was collected again
    a, b = (found.soft(layer) for layer in (0, 1))
    assert len(found._factors) == 1 and found.soft(1) is b and found.soft(0) is not a
    fact = mt.Fact("The king of {} is", "Rome", "old", "new")
    deltas = []
    for C0 in (whole, found):
        with mt.edit(model, tok, fact, "memit", layers=[0, 1, 2], steps=3, statistics=C0) as e:
            deltas.append([e.delta(layer) for layer in e.layers])
    assert all(torch.equal(x, y) for x, y in zip(*deltas, strict=True))
    next(tmp_path.rglob("C0-2.safetensors")).write_bytes(b"broken")
    with pytest.raises(StatisticsError, match="cannot read C0-2"):
        found[2]
    with pytest.raises(StatisticsError, match="give cache=True or a folder"):
        mt.second_moment(model, tok, TEXTS, [0], one_at_a_time=True)


def test_shrunk_statistics_can_be_solved_where_the_plain_ones_cannot(case):
    model, tok = case
    C0 = mt.second_moment(model, tok, TEXTS[:2], [1], tokens=70)
    flat = mt.Statistics({1: torch.zeros(64, 64) + C0[1][0, 0]}, 70, C0.weights, C0.text)
    with pytest.raises(mt.MeditError, match="singular"):
        flat.soft(1)
    assert flat.shrunk(0.1).soft(1).condition < 1e4


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands for the hub: repositories are folders."""
    import shutil

    class HfApi:
        def create_repo(self, repository, exist_ok, **kwargs):
            (tmp_path / "hub" / repository).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, repo_id, folder_path):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    def snapshot_download(repository, allow_patterns):
        source = tmp_path / "hub" / repository
        if not source.is_dir():
            raise ConnectionError("no network")
        local = tmp_path / "local"
        shutil.rmtree(local, ignore_errors=True)
        local.mkdir()
        for pattern in allow_patterns:
            for path in source.glob(pattern):
                shutil.copy(path, local)
        return str(local)

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)


def test_to_the_hub_and_back(case, hub):
    model, tok = case
    found = mt.second_moment(model, tok, TEXTS, [0, 2])
    found.push("someone/c0", private=True)
    back = mt.Statistics.load("someone/c0")
    assert sorted(back.C0) == [0, 2] and torch.equal(back[2], found[2])
    some = mt.Statistics.load("someone/c0", layers=[2])
    assert sorted(some.C0) == [2]
    fact = mt.Fact("The king of {} is", "Rome", "old")
    with mt.edit(model, tok, fact, "memit", layers=[2], statistics="someone/c0", steps=2) as e:
        assert e.applied
    other = tiny_model(model.config.model_type, tok, layers=3, d=16, seed=5)
    with pytest.raises(StatisticsError, match="collected from a model with other weights"):
        mt.edit(other, tok, fact, "memit", layers=[2], statistics="someone/c0", steps=2)
    with pytest.raises(StatisticsError, match=r"no folder someone/else.*hub \(no network\)"):
        mt.Statistics.load("someone/else")


def test_the_hub_refuses(case, hub, monkeypatch):
    model, tok = case
    found = mt.second_moment(model, tok, TEXTS, [1])

    def refuse(self, *args, **kwargs):
        raise PermissionError("401 you are not logged in")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(
        StatisticsError, match=r"cannot write to a/b .*401.*statistics.save\(folder"
    ):
        found.push("a/b")


def test_a_cache_of_other_weights_is_refused(case, tmp_path):
    model, tok = case
    call = dict(cache=tmp_path, tokens=500)
    mt.second_moment(model, tok, TEXTS, [1], **call)
    (folder,) = tmp_path.iterdir()
    other = tiny_model(model.config.model_type, tok, layers=3, d=16, seed=5)
    folder.rename(folder.with_name(folder.name.replace(fingerprint(model), fingerprint(other))))
    with pytest.raises(StatisticsError, match="holds a C0 of other weights or text"):
        mt.second_moment(other, tok, TEXTS, [1], **call)
