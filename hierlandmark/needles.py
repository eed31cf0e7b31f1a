"""Needles in the words of RULER (Hsieh et al. 2024, arXiv 2404.06654; `synthetic.yaml`, `constants.py`, `niah.py` and
`variable_tracking.py` of NVIDIA/RULER): what is hidden, what is asked, and what each part of the answer needs.

Training and evaluation build their tasks here, so that both use one wording; each brings words of its own.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from hierlandmark.errors import InvalidArgument

ValueType = Literal["numbers", "uuids", "words"]
Haystack = Literal["noise", "essay", "needle"]
# adjectives and nouns that keys are made of
Words = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True)
class Spec:
    """One of RULER's tasks."""

    haystack: Haystack
    # distinct keys, values of each, and keys asked for; of variable tracking: chains, and variables in each
    keys: int = 1
    values: int = 1
    queries: int = 1
    key_type: ValueType = "words"
    value_type: ValueType = "numbers"
    chained: bool = False


# RULER's own names and settings; a haystack of needles holds many more keys than the ones counted here
SPECS: dict[str, Spec] = {
    "niah_single_1": Spec("noise"),
    "niah_single_2": Spec("essay"),
    "niah_single_3": Spec("essay", value_type="uuids"),
    "niah_multikey_1": Spec("essay", keys=4),
    "niah_multikey_2": Spec("needle"),
    "niah_multikey_3": Spec("needle", key_type="uuids", value_type="uuids"),
    "niah_multivalue": Spec("essay", values=4),
    "niah_multiquery": Spec("essay", keys=4, queries=4),
    "vt": Spec("noise", values=5, chained=True),
}


@dataclass(frozen=True)
class Needles:
    """A task. Put the opening before the haystack and the statements into it, in their order and anywhere."""

    name: str
    spec: Spec
    opening: str
    statements: tuple[str, ...]
    question: str
    # starts with a space; in a chat the question is the user's turn, and this opens the answer
    prefix: str
    # in the order in which they are told; the score is the share of them that the answer holds (`string_match_all`)
    answers: tuple[str, ...]
    # for each answer, which statement it stands in
    sources: tuple[int, ...]
    # keys or variables in use: `distractor` makes other ones
    taken: frozenset[str]

    @property
    def prompt(self) -> str:
        """What a model that continues text is asked."""
        return self.question + self.prefix

    @property
    def parts(self) -> tuple[str, ...]:
        """The answer behind the prefix, a piece for each of `answers`, each with what stands before it."""
        last = len(self.answers) - 1
        # RULER's own example joins the variables of a chain with spaces
        joins = ["" if i == 0 or self.spec.chained else ", and" if i == last else "," for i in range(last + 1)]
        return tuple(f"{join} {value}" for join, value in zip(joins, self.answers, strict=True))

    def either(self, part: int) -> tuple[int, ...]:
        """Statements that may be read to begin a part of the answer.

        One, but for several values of one key: nothing tells which of those not yet told comes next.
        """
        if self.spec.values > 1 and not self.spec.chained:
            key = part // self.spec.values
            return self.sources[part : (key + 1) * self.spec.values]
        return (self.sources[part],)


def make_needles(
    name: str,
    rng: Random,
    *,
    words: Words | None = None,
    keys: int | None = None,
    values: int | None = None,
    queries: int | None = None,
    value_type: ValueType | None = None,
) -> Needles:
    """A task of RULER's, with its own counts unless others are given.

    Args:
        name: one of `SPECS`.
        words: adjectives and nouns for keys; by default `ADJECTIVES` and `NOUNS`.
        keys, values, queries, value_type: in place of the task's own (`Spec`).

    Raises:
        InvalidArgument: no such task, a count below 1, or more keys asked for than there are.
    """
    if name not in SPECS:
        raise InvalidArgument(f"expected a needle task of {', '.join(SPECS)}, got {name!r}")
    given = {"keys": keys, "values": values, "queries": queries, "value_type": value_type}
    spec = replace(SPECS[name], **{field: value for field, value in given.items() if value is not None})  # type: ignore[arg-type]
    if not 1 <= spec.queries <= spec.keys or spec.values < 1:
        raise InvalidArgument(f"expected keys >= queries >= 1 and values >= 1, got {spec!r}")
    return _chains(name, spec, rng) if spec.chained else _pairs(name, spec, rng, words or (ADJECTIVES, NOUNS))


def distractor(needles: Needles, rng: Random, words: Words | None = None, *, taken: Collection[str] = ()) -> str:
    """One more statement of the same kind, not asked about: a haystack of needles is made of these.

    Its key is none of these needles' and none of `taken`: those of others in the same haystack.
    """
    if needles.spec.chained:
        return f"VAR {_fresh('variables', rng, {*needles.taken, *taken})} = {rng.randint(10_000, 99_998)}"
    key = _fresh(needles.spec.key_type, rng, {*needles.taken, *taken}, words or (ADJECTIVES, NOUNS))
    return _NEEDLE.format(type=needles.spec.value_type, key=key, value=_draw(needles.spec.value_type, rng))


def found_share(needles: Needles, text: str) -> float:
    """Share of the answers that a text holds, letters' case aside (RULER's `string_match_all`)."""
    return sum(answer.lower() in text.lower() for answer in needles.answers) / len(needles.answers)


_NEEDLE = "One of the special magic {type} for {key} is: {value}."
_MANY = (
    "Some special magic {type} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {type} afterwards.",
    "What are all the special magic {type} for {query} mentioned in the provided text?",
    " The special magic {type} for {query} mentioned in the provided text are",
)
# RULER's own replacements where one value is asked for
_ONE = (
    "A special magic {type} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {type} afterwards.",
    "What is the special magic {type} for {query} mentioned in the provided text?",
    " The special magic {type} for {query} mentioned in the provided text is",
)
# the misspelling is RULER's; a space at the end is left out, since tokenizers would cut what follows unlike a text's
_TRACK = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n",
    "Question: Find all variables that are assigned the value {query} in the text above.",
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assgined the "
    "value {query}, they are:",
)


def _pairs(name: str, spec: Spec, rng: Random, words: Words) -> Needles:
    used: set[str] = set()
    keys = [_fresh(spec.key_type, rng, used, words) for _ in range(spec.keys)]
    told: set[str] = set()
    hidden = [(k, _fresh(spec.value_type, rng, told, words)) for k in range(spec.keys) for _ in range(spec.values)]
    rng.shuffle(hidden)
    asked = rng.sample(range(spec.keys), spec.queries)
    sources = tuple(i for k in asked for i, (owner, _) in enumerate(hidden) if owner == k)
    single = len(sources) == 1
    kind = spec.value_type[:-1] if single else spec.value_type
    names = [keys[k] for k in asked]
    query = f"{', '.join(names[:-1])}, and {names[-1]}" if len(names) > 1 else names[0]
    opening, question, prefix = (line.format(type=kind, query=query) for line in (_ONE if single else _MANY))
    statements = tuple(_NEEDLE.format(type=spec.value_type, key=keys[k], value=value) for k, value in hidden)
    answers = tuple(hidden[i][1] for i in sources)
    return Needles(name, spec, opening, statements, question, prefix, answers, sources, frozenset(used))


def _chains(name: str, spec: Spec, rng: Random) -> Needles:
    used: set[str] = set()
    starts: set[str] = set()
    while len(starts) < spec.keys:
        starts.add(str(rng.randint(10_000, 99_998)))
    values = sorted(starts)
    rng.shuffle(values)
    chains = [[_fresh("variables", rng, used) for _ in range(spec.values)] for _ in range(spec.keys)]
    # chains run into each other at random, each in its own order
    turns = [c for c in range(spec.keys) for _ in range(spec.values)]
    rng.shuffle(turns)
    statements: list[str] = []
    sources: list[int] = []
    done = [0] * spec.keys
    for c in turns:
        i = done[c]
        if c == 0:
            sources.append(len(statements))
        told = values[c] if i == 0 else f"VAR {chains[c][i - 1]}"
        statements.append(f"VAR {chains[c][i]} = {told}")
        done[c] += 1
    opening, question, prefix = (line.format(query=values[0], count=spec.values) for line in _TRACK)
    taken = frozenset(used)
    return Needles(name, spec, opening, tuple(statements), question, prefix, tuple(chains[0]), tuple(sources), taken)


def _fresh(kind: str, rng: Random, used: set[str], words: Words = ((), ())) -> str:
    """One that was not drawn before; it is put into `used`."""
    while (drawn := _draw(kind, rng, words)) in used:
        pass
    used.add(drawn)
    return drawn


def _draw(kind: str, rng: Random, words: Words = ((), ())) -> str:
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    if kind == "variables":
        return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5))
    return f"{rng.choice(words[0])}-{rng.choice(words[1])}"


# training makes its keys of other words (`train.words`), so that no key that is evaluated was trained on
ADJECTIVES = (
    "able actual agile airy alert alike ample artful atomic avid awful barren basic belated bland bleak blunt "
    "brief brisk brittle busy candid careful civil clumsy coarse compact complex cool costly cozy curved daily "
    "damp dense direct distant dizzy double drafty dry dull earthy elastic elegant exotic famous festive few "
    "fine fixed fluent formal frank fresh frugal full glad good grim gruff hasty helpful homely hot huge husky "
    "immense inner intact intense jovial juicy just lame lean level limp linear literal lofty loyal magical "
    "major marine massive mature minor mobile nasal native naval nervous normal oral organic outer overt "
    "pastel perfect precise prime private prompt public pure quaint raw rigid ripe rosy rural salty scenic "
    "senior serene serious shallow sheer short sleek sour spicy spry square stark strict stuffy sturdy subtle "
    "supreme swanky tacit tart tepid thick tidy timely timid tough true urgent useful velvety vital void "
    "wealthy witty wry zany"
).split()

NOUNS = (
    "abacus acorn agenda alcove almond amulet antler apricot armchair ashtray asphalt atlas avenue awning axe "
    "badge bagel baton beacon beaver belt bib blazer blossom blouse bonnet book bow bowl bread breeze buckle "
    "bumper bus butter cactus cake canal cape cardigan cargo carrot catalog cave cello cement chalk cherry "
    "chestnut chimney cliff cloud cobweb coconut coin cork cougar cousin crab crayon cucumber cup dagger dam "
    "deck diamond dragon dress eagle echo egg elk emblem faucet feather fern finch flask flower folder fork "
    "fossil fruit fudge fur garlic garment gazelle gem ginger glass glove goose grape graph gravel grove guide "
    "gull halo hamster harp hatch hawk hay hazel hearth herb hockey honey hood hoof hornet hut ink iris ivy "
    "jam jelly keg kidney kiln king knee knife koala lace lane lapel lawn lime linen lion lobby lumber mantle "
    "mask mast maze melon menu mink monkey moose moth mule muscle nail necklace nickel noodle nurse oasis "
    "ocean octopus opal opera orchid ore organ ostrich oyster pail palm pan panel paper parrot pasta path pear "
    "pearl pebble pedal pencil penguin pepper petal pickle pig pilot pin plank pocket pole poppy potato powder "
    "puzzle pyramid quail queen quilt radish rail rake ramp ribbon rice roast rock rocket rod rose rudder sail "
    "sardine sausage saw seed shadow shawl sheep sheet shell shirt shoe shovel shrimp skirt sleeve slipper "
    "snake snow sock soda spear spinach sponge spring squid stamp star stem stone stool storm straw stream "
    "string sun swan sword tape tea throne thumb tiger timber tire toe tongs tooth torch towel toy trail "
    "tripod trumpet tulip turkey urchin valley vine viper volcano vulture waffle walrus wedge weed whale "
    "willow wind wood wool yolk zebra zinc zipper"
).split()
