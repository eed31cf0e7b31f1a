"""Phrases cut out of what was said, and said again by who asks."""

import re

import numpy as np

from hierlandmark.train.forms import VERBS, Rule
from hierlandmark.train.words import EMPTY

# words of a phrase, letters of those that tell something, and the share of phrases whose context is left out
_WORDS, _TELLING, SHORT = (2, 14), 6, 0.5
_END = re.compile(
    r"[,;:?!\"“”()\[\]|]|\.(?:\s|$)|\s[-–—]|\b(?:which|because|cause|cuz|but|so|while|whereas|although|though"
    r"|if|given"
    r"|considering|since|when|where|unless|then|and (?:I|i|we|you|it|he|she|they|can|could|how|what|also|then"
    r"|the)|as I"
    r"|or (?:if|should|do)|without|who|i|I'm|I've|I|can you|like)\b|\b(?:right|please)$"
)
_CONTEXT = re.compile(
    r" (?:for|with|in|on|by|using|from|at|to ensure|to make|during|within|before|after|through|into|as|based"
    r"|via|under) "
)
_GOOD = re.compile(r"[^\W_]+(?:['’./&+-][^\W_]+)*[%+]?|[$€£]\d[\d,.]*|['’]s|&")
# where a noun phrase ends
_VERB = re.compile(
    r"\b(?:is|are|was|were|isn't|wasn't|has|have|had|will|would|can|can't|could|should|may|might|must|needs?"
    r"|needed|wants?|does"
    r"|do|did|don't|doesn't|that|it|it's|he|she|they|we|you|you're|works?|helps?|gets?|makes?|depends?"
    r"|involves?|knows?|happens?|means|shows?|looks?|seems?|even|said|says|everything|everybody|here"
    rf"|from \d|and (?:{'|'.join(VERBS)}))\b"
)
# words that a phrase whose end is lost must not end with
_OPEN = frozenset(
    "find ensure compute get calculate determine determining finding see show make use prove using got".split()
)
# words that no phrase ends or begins with, and words of a phrase that point at what only its message has
_TAIL = frozenset(
    "a an the of to in on for with by and or my your our their his her its is are was were be been that this"
    " these those"
    " at from as into about very more some any how why what not also than per it i we you he she they do does did can"
    " could would should will just too up really i'm it's each every like between both have has had don't"
    " didn't im and/or"
    " specifically especially currently already around over after before under only even there here among"
    " besides during now again anyway ago then yet still me them someone whatever".split()
)
_NO_VERB = _TAIL | frozenset(
    "me us him them one two three which who where when if out now no yes ok so get-started there's let's still always"
    " another such something anything".split()
) - {"be", "have", "do", "like"}
_NO_NOUN = frozenset(
    "it this that these those them they he she i you we to what how why if when where which who there here"
    " is are was do"
    " me him her us be of in on at by from as so not just and or the a an than then can could would will".split()
) - {"the", "a", "an"}
_NO_OBJECT = frozenset("of is are and or was were has can will".split())
_NO_ORDER = _NO_VERB | frozenset("once while since given let both all unlike despite".split())
_SAMPLE = frozenset("example sample additional detailed step-by-step summary practical".split())
# what such words point at stands elsewhere
_POINTING = frozenset("this that it its these those them they it's that's there he she his her they're someone".split())
_SOME = frozenset(("a", "an", "some"))
_POSSESSIVE = frozenset("your my our their his her its".split())
_VAGUE = EMPTY | frozenset(
    "example examples summary conclusion overview introduction step steps step-by-step detailed details key points "
    "point information additional context final setup solution note notes result results section analysis process "
    "tips stuff sense guide explanation breakdown recap next first second third part bit lot kind sort way thank "
    "thanks wants benefits pros cons day morning afternoon evening week scenario options option potential concept "
    "understanding idea definition approach correct started goes going question questions rest reason happens whole "
    "issue reasonable practical given general specific following different new good great better best sample task "
    "tasks mention mentioned spend spent total bring".split()
)
_THEIRS = {
    "i": "they", "my": "their", "me": "them", "i'm": "they're", "i've": "they've", "i'll": "they'll",
    "i'd": "they'd", "myself": "themselves", "mine": "theirs", "am": "are", "we": "they", "our": "their", "us": "them",
    "we're": "they're",
}  # fmt: skip
_MINE = {
    "your": "my", "yours": "mine", "yourself": "myself", "you're": "I'm", "you've": "I've", "you'll": "I'll",
    "my": "your", "i": "you", "me": "you",
}  # fmt: skip
_SUBJECT = re.compile(r"\byou(?= (?:can|have|need|want|will|could|should|might|may|do|don't|feel|like|use|plan|get)\b)")
_CLAUSE = re.compile(r"\b(what|as|if|when|how|where|before|after|while|until|once|that|whatever) you\b")
_PERSON = re.compile(r"\b(?:I|i|you|You|we|us|our|my|me|am|mine|myself|your|yours|yourself)(?:'\w+)?\b")


def cut_phrase(raw: str, rule: Rule, noun: bool, rng: np.random.Generator) -> str | None:
    """A phrase up to the end of its clause, or of what can be read aloud, half of them without their context."""
    raw = raw.strip().replace("**", "")
    for end in (_END, *rule.hide, *((_VERB,) if noun else ())):
        # at its very start it is part of the phrase
        if cut := end.search(raw, 1):
            raw = raw[: cut.start()]
    words = raw.split()
    good = next((i for i, word in enumerate(words) if not _GOOD.fullmatch(word.rstrip("."))), len(words))
    lost, words = good < len(words) or len(words) > _WORDS[1], words[: min(good, _WORDS[1])]
    if rng.random() < SHORT and (cut := _CONTEXT.search(phrase := " ".join(words))):
        head = phrase[: cut.start()].split()
        words = head if len(head) > 2 and tells(head) else words
    if lost and "that" in words[-3:]:
        words = words[: words.index("that")]
    while words and (
        words[-1].lower() in _TAIL or words[-1][0] in "$€£" or (len(words[-1]) == 1 and not words[-1].isdigit())
    ):
        words.pop()
    while lost and words and (words[-1].lower() in _OPEN | _TAIL or words[-2:-1] == ["to"]):
        words.pop()
    return " ".join(words).rstrip(".") if tells(words) else None


def tells(words: list[str]) -> bool:
    """Whether enough letters of a phrase tell what it is about."""
    return (
        sum(len(word) for word in words if len(word) > 2 and word.lower() not in _VAGUE and word[0].isalpha())
        >= _TELLING
    )


def fits(group: str, phrase: str) -> bool:
    words = phrase.split()
    first = words[0].lower()
    if group == "np":
        return first not in _NO_NOUN and (first not in _SOME or len(words) > 2)
    if len(words) < _WORDS[0] or words[1].lower() in _POINTING or (group == "that" and first in _POINTING):
        return False
    if group == "npt":
        return (
            not _orders(words)
            and first not in VERBS | _POSSESSIVE | _SAMPLE
            and first not in _NO_NOUN
            and not first[0].isdigit()
        )
    if group == "vpi":
        return (first in VERBS or _orders(words)) and words[1].lower() not in _NO_OBJECT
    return group == "that" or (
        words[0].isalpha() and words[0].islower() and first not in _NO_VERB and not first.endswith("ing")
    )


def _orders(words: list[str]) -> bool:
    """Whether a heading tells to do something, by a verb of no list: "Sand the boards"."""
    first = words[0].lower()
    if len(words) < 3 or first in _NO_ORDER or first.endswith(("ing", "ed", "s")) or not first.isalpha():
        return False
    return words[1].lower() in _POSSESSIVE | {"the", "a", "an"}


def small(phrase: str) -> str:
    """A heading as one says it: its capitals go, those of names in capitals stay."""
    words = phrase.split()
    titled = sum(word[0].isupper() for word in words[1:]) * 2 >= len(words) - 1
    return " ".join(word.lower() if word[1:].islower() and (titled or i == 0) else word for i, word in enumerate(words))


def turned(phrase: str, role: str, third: bool) -> str:
    """A phrase as who asks would say it: the assistant's "your" is "my", another's "my" is "their"."""
    if role == "assistant" or third:
        subject = "I" if role == "assistant" else "the assistant" if role == "user" else "they"
        phrase = _CLAUSE.sub(rf"\1 {subject}", _SUBJECT.sub(subject, phrase))
    if role == "assistant":
        return _PERSON.sub(
            lambda m: m[0] if m[0] == "I" else _MINE.get(m[0].lower(), "me" if m[0] == "you" else m[0]), phrase
        )
    if third:
        you = "the assistant" if role == "user" else "them"
        return _PERSON.sub(lambda m: _THEIRS.get(m[0].lower(), you if m[0] == "you" else m[0]), phrase)
    return phrase
