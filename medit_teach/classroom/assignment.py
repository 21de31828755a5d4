"""The command `medit-teach assignment N`: student, solution and grader notebooks from a master."""

from pathlib import Path

from ..options import Parser
from .notebook import find, write


def generate(number, out, seed=0, masters=None):
    """{kind: path} of the three notebooks of assignment `number`, written below `out`."""
    master = find(number, masters)
    return {
        kind: write(master.version(kind, seed), Path(out) / kind / f"{master.name}.ipynb")
        for kind in ("student", "solution", "grader")
    }


def main(argv):
    """medit-teach assignment N --out DIR [--seed S]."""
    parser = Parser(prog="medit-teach assignment", description=__doc__)
    parser.add_argument("number", help="1 to 6, or the path of a master notebook")
    parser.add_argument("--out", required=True, type="new folder", metavar="DIR")
    parser.add_argument(
        "--seed", type="seed", default=0, help="of the data and of the hidden tests"
    )
    parser.add_argument("--masters", metavar="DIR", help="where the masters are (assignments/)")
    args = parser.parse_args(argv)
    made = generate(args.number, args.out, args.seed, args.masters)
    for kind, path in made.items():
        note = "hand this out" if kind == "student" else "for teachers"
        print(f"{kind:9} {path}   ({note})")
    print(
        "Students hand in the notebook itself, under their name or in a folder of that name: "
        "<name>.ipynb, one per student, or <name>/.../<assignment>.ipynb. Then: "
        f"medit-teach grade FOLDER --assignment {made['grader']}"
    )
