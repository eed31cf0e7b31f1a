"""Questions formed by rule from what a message says, of the kinds that people ask a chat about months later.

Questions about any words of a message ("What happened with private?") are none that anybody asks: a search that is
trained on them wins on them alone. Those of here take up what someone wants, did, counted, dated, uses or likes, or
what an assistant told them; where a message offers none of that, nothing is asked of it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hierlandmark.model.prompts import DOCUMENT_ROLE
from hierlandmark.train.forms import NUMBER, PAST, SPOKEN, TIME, Rule
from hierlandmark.train.phrases import SHORT, cut_phrase, fits, small, tells, turned
from hierlandmark.train.replies import BETWEEN, GIVEN, TALKED, WIDE, WIDE_MINE

_T = TypeVar("_T")
# sentences of a message that are looked at, characters of each, and offers after which no more are
_SENTENCES, _LONG, _ENOUGH = 8, 320, 8
_MOST_WORDS, _TRIES = 30, 6
# shares of wide questions, of those for replies, of third persons, of small letters, and of a missing mark
_WIDE, _REPLY, _THIRD, _LOWER, _UNMARKED = 0.15, 0.35, 1 / 3, 0.2, 0.1
_HEAVY = {"quantity": 2.0, "time": 2.0, "tool": 1.5, "personal": 1.3, "item": 0.7, "noun": 0.4}
_CODE = re.compile(r"```.*?(?:```|\Z)|\\\[.*?(?:\\\]|\Z)|https?://\S+|\{\w+\}", re.S)
_FORMULA = re.compile(r"\\\(.{0,300}?\\\)|\$[^$\d\n][^$\n]*\$")
_FILLER = re.compile(r"\b(?:uh|um|hmm|mm|you know|I mean|i mean)\b ?,? ?|\b(\w+)(?: \1\b)+")
_GAP = re.compile(r"\s+(?=[.,;:?!](?:\s|$)|['’](?:s|re|ve|ll|m|d|t)\b)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|\s[-–—]\s")
# two to five words, of which the first is no number
_TOPIC = re.compile(r"[^\d\s]\S*(?: \S+){1,4}")
_ASKS_TIME = re.compile(r"^(?:When|What date|By when|On what)\b")
_ASKS_NUMBER = re.compile(r"^How (?:many|much|long)\b")


@dataclass(frozen=True)
class Asked:
    """A question, and whether it asks what the other side answered to the message."""

    text: str
    reply: bool


@dataclass(frozen=True)
class _Offer:
    """A rule that matched, and what goes into the places of its forms."""

    rule: Rule
    slots: dict[str, str]


def ask_of(text: str, role: str, rng: np.random.Generator) -> Asked | None:
    """A question about a message of this role, drawn among those that it offers; None where it offers nothing good.

    A user is asked for as "I" or "the user", an assistant as "you" or "the assistant", anyone else by name; of a
    document it is only asked what something is.
    """
    role = role.strip() or "user"
    if role == "system":
        return None
    user, assistant, document = role == "user", role == "assistant", role == DOCUMENT_ROLE
    third = rng.random() < _THIRD or not (user or assistant)
    offers = list(_offers(text, role, third, rng))
    kinds = sorted({offer.rule.kind for offer in offers})
    for _ in range(_TRIES if kinds else 0):
        weights = np.array([_HEAVY.get(kind, 1.0) for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        offer = _one([one for one in offers if one.rule.kind == kind], rng)
        forms, reply = offer.rule.forms, False
        if rng.random() < _WIDE and "np" in offer.slots and _TOPIC.fullmatch(offer.slots["np"]):
            forms = WIDE + (WIDE_MINE if user and not third else ())
        elif user and offer.rule.replies and rng.random() < _REPLY:
            forms, reply = offer.rule.replies, True
        elif user and not third:
            forms += offer.rule.mine
        if document:
            forms = tuple(form for form in forms if not re.search(r"\{who\}|\bI\b|\b[mM]e\b|\bour\b", form))
        if forms and (question := _put(_one(forms, rng), offer, role, third)):
            return Asked(question, reply)
    return None


def typed(question: str, rng: np.random.Generator) -> str:
    """A question as people type it: a fifth in small letters, a tenth without the mark."""
    question = question.lower() if rng.random() < _LOWER else question
    return question.rstrip("?") if rng.random() < _UNMARKED else question


def _offers(text: str, role: str, third: bool, rng: np.random.Generator) -> Iterator[_Offer]:
    """What random sentences of a message match, with the phrases cut and in the person of the question."""
    rules = GIVEN if role in ("assistant", DOCUMENT_ROLE) else SPOKEN if role == "user" else SPOKEN + TALKED
    text = _FORMULA.sub(" | ", _CODE.sub("\n", text.replace("’", "'")))
    sentences = [one for one in _SENTENCE.split(text) if 2 < len(one) and not one.isspace()]
    found, dated = 0, []
    for at in rng.permutation(len(sentences))[:_SENTENCES]:
        sentence = sentences[at][:_LONG]
        if role not in ("user", "assistant"):
            sentence = _FILLER.sub(r"\1", _GAP.sub("", sentence))
        for rule in rules:
            for match in rule.pattern.finditer(sentence):
                slots = _slots(rule, match, role, third, rng)
                if slots is not None:
                    found += 1
                    if rule.kind == "time" and "np" in slots and "base" not in slots:
                        dated.append(slots["np"])
                    yield _Offer(rule, slots)
        if found >= _ENOUGH:
            break
    if len(set(dated)) > 1:
        yield _Offer(BETWEEN, {"np": dated[0], "second": next(one for one in dated if one != dated[0])})


def _slots(rule: Rule, match: re.Match[str], role: str, third: bool, rng: np.random.Generator) -> dict[str, str] | None:
    """The phrases of a match by their places in a form; None where one is not worth asking for."""
    out: dict[str, str] = {}
    for group, raw in match.groupdict(default="").items():
        if group == "done":
            out["base"], out["part"] = PAST.get(raw, (raw, raw))
            out[group] = raw
        elif group == "ctx":
            phrase = cut_phrase(raw, rule, False, rng) if raw and rng.random() > SHORT else None
            out["ctx"] = f" {turned(phrase, role, third)}" if phrase else ""
        elif group[:2] in ("vp", "np") or group == "that":
            phrase = cut_phrase(raw, rule, group[:2] == "np", rng)
            if phrase is None or not fits(group, phrase):
                return None
            if group in ("vpi", "npt"):
                phrase = small(phrase)
            out["that" if group == "that" else group[:2]] = turned(phrase, role, third)
        else:
            out[group] = raw
    return out


def _put(form: str, offer: _Offer, role: str, third: bool) -> str | None:
    """A form with its phrases, in the person of who spoke; None where it would tell its answer or has no end."""
    spoken = _voice(role, third)
    head = offer.slots.get("np", "").split(" of ")[0]
    plural = head.endswith("s") and not head.endswith(("ss", "sis", "us", "ics"))
    spoken |= {"be": "are", "does": "do"} if plural else {"be": "is", "does": "does"}
    try:
        question = form.format(**spoken, **offer.slots)
    except KeyError:
        # a group that may be missing
        return None
    question = question[0].upper() + question[1:]
    told = question.replace(spoken["who"], "", 1)
    if (
        not tells(told.rstrip("?").split())
        or len(question.split()) > _MOST_WORDS
        or any(hidden.search(told) for hidden in offer.rule.hide)
    ):
        return None
    if (_ASKS_TIME.match(question) and TIME.search(told)) or (_ASKS_NUMBER.match(question) and NUMBER.search(told)):
        return None
    return re.sub(r"((?:\b(?:my|your|the|their|its)|(?<!hat)'s)) (?:my|your|the|an?|their|our)\b", r"\1", question)


def _voice(role: str, third: bool) -> dict[str, str]:
    """Who spoke and who answered, with their verbs."""
    if third:
        known = {"user": ("the user", "the assistant"), "assistant": ("the assistant", "I")}
        who, other = known.get(role, (role, "they"))
        pronouns = {"they": "they", "my": f"{who}'s", "their": "their", "me": "them"}
        return {"who": who, "other": other, **pronouns, "have": "has", "do": "does", "am": "is", "was": "was"}
    who, other, my, am, was = ("I", "you", "my", "am", "was") if role == "user" else ("you", "I", "your", "are", "were")
    pronouns = {"they": who, "my": my, "their": my, "me": "me"}
    return {"who": who, "other": other, **pronouns, "have": "have", "do": "do", "am": am, "was": was}


def _one(choices: Sequence[_T], rng: np.random.Generator) -> _T:
    return choices[int(rng.integers(0, len(choices)))]
