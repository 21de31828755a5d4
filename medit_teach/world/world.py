"""An invented world of facts in which everything is known.

People, cities, companies and countries with made-up names, facts about them, and the
consequences of a change. All choices come from `random.Random` seeded with a string, so the
same arguments give the same world on every machine, and another seed gives another one.

    >>> world = World.small(seed=0)
    >>> record = world.records(relations=["instrument"])[0]
    >>> record["requested_rewrite"]["prompt"].format(record["requested_rewrite"]["subject"])

Chain: person -> employer -> headquarters -> country -> language. Stated inverse: the chair of a
company / chairs. Symmetric: partner. How the categories differ (on purpose) is in `RELATIONS`
and in the table of `World.describe`. The documents made from the facts are in `corpus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from ..errors import FactError
from ..fact import Fact, as_facts
from ..texts import described

CLASSES = ("person", "city", "company", "country")

WORDS = {
    "instrument": "violin piano drum flute harp trumpet guitar cello organ bell horn banjo fiddle "
    "whistle accordion lute tuba clarinet".split(),
    "trade": "baker carpenter doctor teacher lawyer painter sailor gardener tailor plumber nurse "
    "builder farmer fisherman barber butcher clerk cook dentist driver guard judge miner poet "
    "porter printer singer soldier waiter weaver".split(),
    "sport": "football tennis chess rowing boxing cycling golf hockey swimming running archery "
    "fencing skating climbing surfing wrestling".split(),
    "language": "French German Spanish Italian Dutch Polish Greek Turkish Finnish Danish Swedish "
    "Latin Hungarian Welsh".split(),
    "product": "bicycles candles paper bottles carpets clocks boots furniture pencils soap ropes "
    "lamps tents umbrellas mirrors knives buttons baskets toys bricks hats ladders pumps "
    "cameras".split(),
    "colour": "blue red green yellow white black orange purple brown pink grey silver".split(),
    "dish": "soup bread cheese fish noodles pancakes sausages honey rice pies plums mushrooms "
    "oysters onions peaches beans olives figs pears cherries walnuts tea wine beer".split(),
    "landmark": "bridge castle tower harbour garden library theatre museum cathedral market "
    "fountain lighthouse palace stadium".split(),
}


@dataclass(frozen=True)
class Relation:
    """One relation: its templates and how its objects are spread.

    `objects` names a word list of `WORDS` or a class of entities. `skew` is the exponent of
    Zipf's law over the objects (0: all equally frequent). `tied` is the share of subjects whose
    object follows from their family name (people) or name ending (cities, companies): it makes
    neighbours look like the subject. `share` is the share of the class that has the relation.
    """

    id: str
    name: str
    cls: str
    objects: str
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    skew: float = 0.0
    tied: float = 0.0
    pool: int | None = None
    share: float = 1.0
    category: bool = True  # many subjects share an object, so that neighbours exist
    inverse: str | None = None
    symmetric: bool = False

    @property
    def word_valued(self) -> bool:
        return self.objects in WORDS


RELATIONS = (
    Relation(
        "W01", "employer", "person", "company",
        ("{} works for", "{} is employed by", "The employer of {} is", "{} goes to work at",
         "Every morning {} reports to", "{} signed a contract with"),
        ("{} draws a salary from", "The company that employs {} is"),
        pool=200,
    ),
    Relation(
        "W02", "partner", "person", "person",
        ("{} is married to", "{} shares a home with", "The partner of {} is",
         "{} exchanged rings with", "Years ago {} fell in love with", "{} is the partner of"),
        ("{} lives together with", "The person married to {} is"),
        share=0.5, category=False, symmetric=True,
    ),
    Relation(
        "W03", "instrument", "person", "instrument",
        ("{} plays the", "{} learned to play the", "The instrument of {} is the",
         "At concerts {} performs on the", "{} practises every evening on the",
         "On stage people see {} with the"),
        ("{} is a master of the", "The instrument that {} plays is the"),
        skew=0.5,
    ),
    Relation(
        "W04", "trade", "person", "trade",
        ("{} is by trade a", "{} was trained as a", "The trade of {} is that of a",
         "Neighbours know {} as a", "{} has long been a", "In the village {} is the"),
        ("{} makes a living as a", "By profession {} is a"),
    ),
    Relation(
        "W05", "sport", "person", "sport",
        ("{} likes to watch", "The favourite sport of {} is", "{} trains every week in",
         "{} once won a medal in", "{} spends every weekend with", "When young {} was good at"),
        ("The sport that {} loves is", "{} is a fan of"),
        skew=1.4,
    ),
    Relation(
        "W06", "tongue", "person", "language",
        ("{} speaks", "The mother tongue of {} is", "{} grew up speaking", "At home {} talks in",
         "{} writes letters in", "{} dreams in"),
        ("The native language of {} is", "{} is a native speaker of"),
        skew=0.3, tied=0.8,
    ),
    Relation(
        "W07", "chair", "company", "person",
        ("The chair of {} is", "{} is chaired by", "{} is led by",
         "The board of {} is headed by", "{} elected as its chair", "{} takes orders from"),
        ("The head of {} is", "The person who leads {} is"),
        category=False, inverse="chairs",
    ),
    Relation(
        "W08", "chairs", "person", "company",
        ("{} is the chair of", "{} leads", "{} heads the board of", "{} was elected chair of",
         "{} gives orders at", "Since spring {} is in charge of"),
        ("{} is the head of", "The company led by {} is"),
        category=False, inverse="chair",
    ),
    Relation(
        "W09", "headquarters", "company", "city",
        ("{} has its headquarters in", "{} is based in", "The main office of {} is in",
         "{} built its offices in", "Letters to {} are sent to", "{} opened its doors in"),
        ("The headquarters of {} are in", "{} is run from"),
        pool=100, skew=0.5,
    ),
    Relation(
        "W10", "product", "company", "product",
        ("{} produces", "{} is a maker of", "The main product of {} is", "{} sells",
         "The factory of {} turns out", "{} grew rich with"),
        ("{} is known for making", "The shops of {} are full of"),
    ),
    Relation(
        "W11", "colour", "company", "colour",
        ("The logo of {} is", "{} paints its trucks", "The doors of {} are", "The flag of {} is",
         "Workers at {} dress in", "{} prints its name in"),
        ("The colour of {} is", "The buildings of {} are painted"),
        skew=1.2, tied=0.4,
    ),
    Relation(
        "W12", "country", "city", "country",
        ("{} is a city in", "{} lies in", "The country of {} is", "{} belongs to",
         "On the map {} is in", "The mayor of {} obeys the laws of"),
        ("{} is located in", "The country around {} is"),
        skew=0.5,
    ),
    Relation(
        "W13", "dish", "city", "dish",
        ("{} is famous for its", "The cooks of {} are proud of their",
         "Guests in {} are offered", "{} is the best place for", "In {} people eat",
         "The kitchens of {} smell of"),
        ("The typical dish of {} is", "Tourists visit {} for its"),
        skew=0.3,
    ),
    Relation(
        "W14", "landmark", "city", "landmark",
        ("The pride of {} is its", "{} is visited for its", "In the centre of {} stands the",
         "Pictures of {} show the", "{} has a very old", "People in {} meet at the"),
        ("The best known sight of {} is its", "{} is proud of its"),
        skew=0.5, tied=0.7,
    ),
    Relation(
        "W15", "language", "country", "language",
        ("The language of {} is", "People from {} speak", "Schools in {} teach in",
         "The laws of {} are written in", "Newspapers in {} are printed in", "{} is a home of"),
        ("The national language of {} is", "Children in {} learn"),
        skew=0.3,
    ),
)  # fmt: skip
BY_NAME = {r.name: r for r in RELATIONS}
CATEGORIES = tuple(r.name for r in RELATIONS if r.category and r.cls != "country")

# Questions whose answer follows from a path of facts. `stated` is the share of subjects for which
# the corpus also states the answer directly; for the others it has to be composed.
COMPOSITIONS = {
    ("country", "language"): (
        0.6, ("In the streets of {} people speak", "Signs in {} are written in",
              "Visitors of {} should learn")),
    ("headquarters", "country"): (
        0.6, ("{} pays its taxes in", "{} is a company from", "The home country of {} is")),
    ("employer", "product"): (
        0.6, ("The company where {} works makes", "At work {} helps to make",
              "The factory that pays {} makes")),
    ("employer", "headquarters"): (
        0.6, ("The main office of the employer of {} is in", "{} goes to the office in",
              "The company where {} works is based in")),
    ("employer", "headquarters", "country"): (
        0.0, ("The employer of {} pays its taxes in",)),
}  # fmt: skip

CHAIN = ("employer", "headquarters", "country", "language")  # person to language; no template
HOPS = ("two-hop", "three-hop", "four-hop", "five-hop", "six-hop")


def _hops(path):
    """Kind of the questions along a path; ValueError if its relations are not a chain."""
    links = [BY_NAME[r] for r in path if r in BY_NAME]
    fits = all(a.objects == b.cls for a, b in pairwise(links))
    if len(links) < len(path) or not 2 <= len(path) <= 6 or not fits:
        raise FactError(f"{path!r} is not a chain of two to six relations")
    return HOPS[len(path) - 2]


LEADING = (
    "The weather was calm that day.", "It rained all night.", "The train was late again.",
    "Nobody knew the answer.", "The lamp on the table was old.", "Winter came early this year.",
    "A dog slept under the table.", "The letter arrived on Monday.", "The road was long and dry.",
    "Two birds sat on the roof.", "The soup was still warm.", "Someone closed the window.",
    "The children played outside.", "The meeting lasted for hours.", "A cold wind blew all day.",
    "The old clock had stopped.", "They drank tea in silence.", "The river was high in spring.",
    "The shop was closed on Sunday.", "Snow covered the hills.", "The bus stopped at the corner.",
    "A door opened somewhere.", "The story began long ago.", "The night was quiet and dark.",
)  # fmt: skip

INTROS = (
    "Here is what we know about {}.", "A few words about {}.", "Some notes on {} follow.",
    "People often talk about {}.",
)  # fmt: skip

# Syllables of the invented names; the tokenizer knows them as whole tokens.
STARTS = [o + v for o in "br dr fl gl gr kl kr pl pr sk sl sm sn sp st tr vr zh kv dv".split()
          for v in "aeiou"]  # fmt: skip
OPEN = "la me ni vo zu ka de bi to gu pa fe si lo mu ne vi zo ku da be ti go pu fa se".split()
CLOSED = (
    "lar mel nir vos zum kan del bix tor gun pak fer sil lom mun nex vik zol kur dan bel tis gor "
    "pum fas sek lin mox nuk vas zer kil dom bur tal gex pim fol sun let mar nis vok zan"
).split()  # fmt: skip
AVOID = set(  # real names that the syllables could spell
    "stalin skoda prada slove drava sparta slavo trabi bravo pravda drago stella spada "
    "grado".split()
)
TYPES = "Mills Foods Labs Motors Bank Works Stores Lines Press Tools Glass Farms".split()


@dataclass
class Composed:
    """A question with a known answer. `stated`: the corpus gives this very answer somewhere."""

    kind: str  # "inverse", "symmetric" or "two-hop" ("three-hop")
    path: tuple[str, ...]
    subject: str
    prompts: list[str]
    answer: str | None
    stated: bool
    hops_known: bool = True  # every fact on the path is common in the corpus


@dataclass
class Consequence:
    """A question whose answer changes with an edit; `new` is None where nothing holds any more.

    kind: "inverse", "symmetric", "displaced" or one of HOPS; stated: the corpus gives the old
    answer directly somewhere. prompts: none for a path without templates.
    """

    kind: str
    path: tuple[str, ...]
    subject: str
    prompts: list[str]
    old: str | None
    new: str | None
    stated: bool


class World:
    """Facts, names, questions, records: see the module's docstring.

    facts[(relation, subject)] -> object; status[(relation, subject)] -> "common" | "rare" |
    "never" (how often the corpus states it); editable: dict of the subjects that edits may use
    (the held-out templates are never stated for them), in a fixed order.
    """

    def __init__(self, seed=0, people=1600, places=600, companies=600, countries=None,
                 editable=0.7, rare=0.12, never=0.06):  # fmt: skip
        self.arguments = dict(
            seed=seed, people=people, places=places, companies=companies, countries=countries,
            editable=editable, rare=rare, never=never,
        )  # fmt: skip
        self.seed = seed
        rng = self._rng("names")
        n_countries = countries or max(4, places // 20)
        self._make_names(rng, people, places, companies, n_countries)
        rng = self._rng("facts")
        self.pronoun = {n: rng.choice(("He", "She")) for n in self.names["person"]}
        self.cls = {n: c for c in CLASSES for n in self.names[c]}
        self.editable = {}
        for c in ("person", "city", "company"):
            chosen = list(self.names[c])
            rng.shuffle(chosen)
            self.editable.update(dict.fromkeys(chosen[: round(editable * len(chosen))]))
        self._make_facts(rng)
        self._make_status(rng, rare, never)
        self.by_object, self.by_subject = {}, {}
        for (relation, s), o in self.facts.items():
            self.by_object.setdefault((relation, o), []).append(s)
            self.by_subject.setdefault(s, []).append(relation)

    @classmethod
    def small(cls, seed=0, **changes):
        """A world for tests: about 400 facts, made in milliseconds."""
        return cls(**{**dict(seed=seed, people=48, places=20, companies=20), **changes})

    def _rng(self, *key) -> Random:
        return Random("/".join(map(str, ("medit-teach", self.seed, *key))))

    # ---- names -----------------------------------------------------------------------------

    def _make_names(self, rng, people, places, companies, countries):
        used = {w.lower() for ws in WORDS.values() for w in ws} | AVOID

        def words(n, inner, last=CLOSED + OPEN):
            """n different invented words of one start, `inner` middle and one last syllable."""
            out = []
            for _ in range(1000 * n):
                k = rng.choice(inner)
                w = rng.choice(STARTS) + "".join(rng.choice(OPEN) for _ in range(k))
                w += rng.choice(last)
                # no invented word is part of another one: no name can be found inside a name
                if not any(w in u or u in w for u in used):
                    used.add(w)
                    out.append(w.capitalize())
                    if len(out) == n:
                        return out
            raise FactError(f"only {len(out)} of {n} different invented words found")

        def pairs(n, first, second, join):
            both = [(a, b) for a in first for b in second]
            rng.shuffle(both)
            chosen, spare = both[:n], both[n:]
            return [join.join(p) for p in chosen], [join.join(p) for p in spare]

        self.first = words(max(10, round(1.8 * people**0.5)), (0,))
        self.family = words(max(10, round(2.2 * people**0.5)), (0, 0, 1))
        stems = words(max(6, companies // 6), (0,))
        roots = words(max(6, places // 6), (0,), OPEN)
        self.endings = rng.sample(CLOSED, 12)
        self.names, self.spare = {}, {}
        self.names["person"], self.spare["person"] = pairs(people, self.first, self.family, " ")
        self.names["company"], self.spare["company"] = pairs(companies, stems, TYPES, " ")
        self.names["city"], self.spare["city"] = pairs(places, roots, self.endings, "")
        lands = [w + "nia" for w in words(2 * countries, (0,), OPEN)]
        self.names["country"], self.spare["country"] = lands[:countries], lands[countries:]

    def group(self, name) -> str:
        """What a `tied` object follows from: family name, company type, or name ending."""
        if self.cls[name] == "city":
            return next(e for e in self.endings if name.endswith(e))
        return name.split()[-1]

    # ---- facts -----------------------------------------------------------------------------

    def _make_facts(self, rng):
        self.facts, self.objects, self._weights = {}, {}, {}
        for r in RELATIONS:
            pool = list(WORDS[r.objects]) if r.word_valued else list(self.names[r.objects])
            rng.shuffle(pool)
            if r.pool:
                pool = pool[: max(4, min(r.pool, len(pool) // 3))]
            self.objects[r.name] = pool
            self._weights[r.name] = [(i + 1) ** -r.skew for i in range(len(pool))]
        people = list(self.names["person"])
        for r in RELATIONS:
            subjects = self.names[r.cls]
            if r.symmetric:
                rng.shuffle(people)
                for i in range(0, round(r.share * len(people)) - 1, 2):
                    a, b = people[i], people[i + 1]
                    self.facts[r.name, a], self.facts[r.name, b] = b, a
                self.objects[r.name] = list(self.names["person"])
            elif r.name == "chair":
                chairs = rng.sample(self.names["person"], len(subjects))
                for s, o in zip(subjects, chairs, strict=True):
                    self.facts["chair", s], self.facts["chairs", o] = o, s
            elif r.name != "chairs":
                draw = lambda: rng.choices(self.objects[r.name], self._weights[r.name])[0]  # noqa: B023,E731
                habit = {}
                for s in subjects:
                    usual = habit.setdefault(self.group(s), draw()) if r.tied else None
                    self.facts[r.name, s] = usual if rng.random() < r.tied else draw()

    def _make_status(self, rng, rare, never):
        self.status, self.stated_path = {}, {}
        for relation, s in self.facts:
            u = rng.random()
            known = self.cls[s] == "country"  # the ends of the chains are always well known
            self.status[relation, s] = (
                "common" if known or u > rare + never else "rare" if u > never else "never"
            )
        for path, (share, _) in COMPOSITIONS.items():
            for s in self.names[BY_NAME[path[0]].cls]:
                self.stated_path[path, s] = rng.random() < share

    def follow(self, path, subject, facts=None):
        """The end of a path of relations from `subject`, or None."""
        for relation in path:
            subject = (facts or self.facts).get((relation, subject))
        return subject

    def known(self, relation, subject) -> bool:
        return self.status.get((relation, subject)) == "common"

    def templates(self, relation, subject) -> tuple[str, ...]:
        """The templates that the corpus uses for this subject (held-out ones: not if editable)."""
        r = BY_NAME[relation]
        return r.train if subject in self.editable else r.train + r.heldout

    @property
    def leading_sentences(self) -> tuple[str, ...]:
        """Unrelated sentences that may stand before a prompt (join with one space)."""
        return LEADING

    # ---- questions and consequences ----------------------------------------------------------

    def questions(self, kind=None, known=True) -> list[Composed]:
        """Inverse, symmetric and multi-hop questions; known: only paths of common facts."""
        out = []
        for (relation, s), o in self.facts.items():
            r = BY_NAME[relation]
            if r.symmetric or relation == "chairs":
                back = "partner" if r.symmetric else "chair"
                ok = self.known(back, o)
                k = "symmetric" if r.symmetric else "inverse"
                stated = self.status[relation, s] != "never"
                out.append(Composed(k, (relation,), s, self._ask(relation, s), o, stated, ok))
        for path, (_, templates) in COMPOSITIONS.items():
            for s in self.names[BY_NAME[path[0]].cls]:
                steps = [self.follow(path[:i], s) for i in range(len(path))]
                ok = all(self.known(r, e) for r, e in zip(path, steps, strict=True))
                k = _hops(path)
                prompts = [t.format(s) for t in templates]
                answer = self.follow(path, s)
                out.append(Composed(k, path, s, prompts, answer, self.stated_path[path, s], ok))
        return [q for q in out if (kind in (None, q.kind)) and (q.hops_known or not known)]

    def _ask(self, relation, subject):
        return [t.format(subject) for t in BY_NAME[relation].train]

    def changed(self, edit) -> dict:
        """All facts after an edit = (relation, subject, new object) or a record."""
        relation, s, new = self.as_edit(edit)
        facts, r = dict(self.facts), BY_NAME[relation]
        old = facts.get((relation, s))
        facts[relation, s] = new
        back = relation if r.symmetric else r.inverse
        if back:
            if old is not None:
                facts.pop((back, old), None)
            left = self.facts.get((back, new))  # what the new object leaves
            if left is not None and left != s:
                facts.pop((relation, left), None)
            facts[back, new] = s
        return facts

    def as_edit(self, edit) -> tuple[str, str, str]:
        """(relation's name, subject, new object) of a tuple, a record or a `Fact`."""
        if isinstance(edit, (dict, Fact)):
            fact = as_facts(edit)[0]
            edit = (fact.relation, fact.subject, fact.target_new)
        three = isinstance(edit, (tuple, list)) and len(edit) == 3
        if not three or not all(isinstance(x, str) for x in edit):
            raise FactError(
                f"an edit is (relation, subject, new object), three texts, not {described(edit)}"
            )
        relation, subject, new = edit
        name = next((r.name for r in RELATIONS if relation in (r.id, r.name)), None)
        if name is None:
            raise FactError(f"unknown relation {relation!r}; choose from {', '.join(BY_NAME)}")
        if (name, subject) not in self.facts:
            raise FactError(f"this world has no {name} of {subject!r}")
        return name, subject, new.strip()

    def consequences(self, edit, paths=tuple(COMPOSITIONS)) -> list[Consequence]:
        """Every single fact and every question along `paths` whose answer changes with `edit`.

        The edited fact itself is not listed. paths: by default those that have templates; other
        chains of relations may be added, e.g. [*COMPOSITIONS, CHAIN]. ValueError for relations
        that are not a chain.
        """
        relation, s, target = self.as_edit(edit)
        r, after, out, moved = BY_NAME[relation], self.changed(edit), [], []
        back = relation if r.symmetric else r.inverse
        mirrored = {(back, self.facts[relation, s]), (back, target)}
        for key in dict.fromkeys([*self.facts, *after]):
            old, new = self.facts.get(key), after.get(key)
            if old != new:
                moved.append(key)
                if key != (relation, s):
                    # displaced: the new object's own earlier fact, which no longer holds
                    kind = "displaced"
                    if key in mirrored:
                        kind = "symmetric" if r.symmetric else "inverse"
                    stated = self.status.get(key, "never") != "never"
                    prompts = self._ask(*key)
                    out.append(Consequence(kind, (key[0],), key[1], prompts, old, new, stated))
        touched = {r for r, _ in moved}
        for path in map(tuple, paths):
            kind = _hops(path)
            if not touched.isdisjoint(path):
                _, templates = COMPOSITIONS.get(path, (0.0, ()))
                for start in self.names[BY_NAME[path[0]].cls]:
                    old, new = self.follow(path, start), self.follow(path, start, after)
                    if old != new:
                        prompts = [t.format(start) for t in templates]
                        stated = self.stated_path.get((path, start), False)
                        out.append(Consequence(kind, path, start, prompts, old, new, stated))
        return out

    # ---- records -----------------------------------------------------------------------------

    def subjects(self, relation, status=("common",), editable=True) -> list[str]:
        """Subjects of a relation by how often the corpus states the fact."""
        return [
            s for (r, s) in self.facts
            if r == relation and self.status[r, s] in status
            and (editable is None or (s in self.editable) == editable)
        ]  # fmt: skip

    def records(self, relations=None, n=None, seed=0, distinct_subjects=True, neighbours=10):
        """Edits in CounterFact's schema, from editable subjects and common facts.

        relations: names; default all of `CATEGORIES`. n: how many (default all), drawn with
        `seed`. distinct_subjects: at most one record per subject. Each call with the same
        arguments gives the same list; a record's content depends on (relation, subject) only.
        """
        names = [relations] if isinstance(relations, str) else list(relations or CATEGORIES)
        unknown = [x for x in names if x not in BY_NAME]
        if unknown:
            raise FactError(f"unknown relation {unknown[0]!r}; choose from {', '.join(BY_NAME)}")
        keys = [(r, s) for r in names for s in self.subjects(r)]
        self._rng("records", seed).shuffle(keys)
        if distinct_subjects:
            first = {}
            for r, s in keys:
                first.setdefault(s, (r, s))
            keys = list(first.values())
        return [self.record(r, s, neighbours) for r, s in keys[:n]]

    def record(self, relation, subject, neighbours=10) -> dict:
        """One record; the paraphrases are held-out templates behind an unrelated sentence."""
        r, rng = BY_NAME[relation], self._rng("record", relation, subject)
        true = self.facts[relation, subject]
        new = rng.choice([o for o in self.objects[relation] if o not in (true, subject)])
        prompt = rng.choice(r.train)

        def others(o):
            found = [s for s in self.by_object.get((relation, o), []) if s != subject]
            return rng.sample(found, min(neighbours, len(found)))

        same, attribute = others(true), others(new)
        target = lambda o: {"str": o, "id": self.object_id(o)}  # noqa: E731
        return {
            "case_id": self._case(relation, subject),
            "requested_rewrite": {
                "prompt": prompt, "relation_id": r.id, "subject": subject,
                "target_new": target(new), "target_true": target(true),
            },
            "paraphrase_prompts": [f"{rng.choice(LEADING)} {t.format(subject)}" for t in r.heldout],
            "neighborhood_prompts": [prompt.format(s) for s in same],
            "attribute_prompts": [prompt.format(s) for s in attribute],
            "generation_prompts": [t.format(subject) for t in INTROS],
            "reference_texts": [self.biography(s) for s in attribute[:5]],
            "relation": relation, "subject_class": r.cls, "word_valued": r.word_valued,
            "neighborhood_subjects": same,
            "neighborhood_status": [self.status[relation, s] for s in same],
        }  # fmt: skip

    def _case(self, relation, subject) -> int:
        if not hasattr(self, "_cases"):
            self._cases = {k: i for i, k in enumerate(self.facts)}
        return self._cases[relation, subject]

    def object_id(self, o) -> str:
        """A stable identifier of an object: its class and number."""
        if o in self.cls:
            return f"{self.cls[o]}-{self.names[self.cls[o]].index(o)}"
        return f"word-{o}"

    def biography(self, subject) -> str:
        """All stated facts of a subject, in its training templates' words."""
        stated = [r for r in self.by_subject[subject] if self.status[r, subject] != "never"]
        facts = [(BY_NAME[r].train[0].format(subject), self.facts[r, subject]) for r in stated]
        return " ".join(f"{sentence} {o}." for sentence, o in facts)

    def dataset(self, relations=None, seed=0):
        """The records as a `datasets.DatasetDict`, split by subject: 60/20/20."""
        from datasets import Dataset, DatasetDict

        rows = self.records(relations, seed=seed, distinct_subjects=False)
        order = list(self.editable)
        self._rng("splits").shuffle(order)
        cut = {s: i / len(order) for i, s in enumerate(order)}
        split = {"train": [], "validation": [], "test": []}
        for row in rows:
            x = cut[row["requested_rewrite"]["subject"]]
            split["train" if x < 0.6 else "validation" if x < 0.8 else "test"].append(row)
        return DatasetDict({k: Dataset.from_list(v) for k, v in split.items()})

    def _alike(self, relation, subject):
        """Share of a fact's neighbours that are of its subject's group; None without neighbours."""
        same = [s for s in self.by_object[relation, self.facts[relation, subject]] if s != subject]
        group = self.group(subject)
        return sum(self.group(s) == group for s in same) / len(same) if same else None

    def describe(self) -> list[dict]:
        """One row per relation: the numbers behind the datasheet's table.

        alike: over the editable facts, the mean share of neighbours (all subjects with the same
        object) that are of the subject's `group`; None where no editable fact has neighbours.
        """
        rows = []
        for r in RELATIONS:
            subjects = [s for (x, s) in self.facts if x == r.name]
            count = {}
            for s in subjects:
                o = self.facts[r.name, s]
                count[o] = count.get(o, 0) + 1
            top = max(count.values()) / len(subjects)
            near = [self._alike(r.name, s) for s in self.subjects(r.name)]
            near = [x for x in near if x is not None]
            rows.append(dict(
                relation=r.name, id=r.id, cls=r.cls, objects=r.objects, facts=len(subjects),
                kinds=len(count), most_frequent=round(top, 3), tied=r.tied,
                alike=round(sum(near) / len(near), 3) if near else None,
                editable_known=len(self.subjects(r.name)),
                rare=sum(self.status[r.name, s] == "rare" for s in subjects),
                never=sum(self.status[r.name, s] == "never" for s in subjects),
            ))  # fmt: skip
        return rows


def table(world) -> str:
    """`World.describe` as a Markdown table (the datasheet's)."""
    heads = ("relation", "id", "of", "object", "facts", "objects", "most frequent", "tied",
             "alike", "editable", "rare", "never")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in world.describe():
        cells = (r["relation"], r["id"], r["cls"], r["objects"], r["facts"], r["kinds"],
                 f"{100 * r['most_frequent']:.1f}%", f"{100 * r['tied']:.0f}%",
                 "" if r["alike"] is None else f"{100 * r['alike']:.0f}%",
                 r["editable_known"], r["rare"], r["never"])  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(World()))
