"""What people say that can be asked for months later: patterns of it, and how each is asked for."""

import re
from dataclasses import dataclass

_NUMBER = (
    r"(?:[$€£]?\d[\d,.]*\d|[$€£]?\d|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty)"
)
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|March|April|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?"
    r"|Dec(?:ember)?)"
)
_DAY = r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)"
_WHEN = (
    rf"(?:{_DAY}(?:,? )?|{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?|\d{{1,2}}(?:st|nd|rd|th)? {_MONTH}"
    rf"(?: \d{{4}})?|{_MONTH}(?: \d{{4}})?\b|\d{{4}}-\d\d(?:-\d\d)?|\d{{1,2}}(?::\d\d)? ?[AaPp]\.?[Mm]\b"
    rf"|\d{{1,2}}:\d\d)"
)
TIME = re.compile(rf"\b{_WHEN}|\b(?:19|20)\d\d\b|\b(?:today|tomorrow|yesterday|tonight)\b")
NUMBER = re.compile(rf"(?:\b|(?=[$€£])){_NUMBER}\b|\d")
_SPAN = r"(?:second|minute|hour|day|week|month|year)"
_UNIT = (
    r"(?:%|ms|[KMG]B|kg|km|[ -]?(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|meters?|miles?|words?"
    r"|pages?))?"
)
# an article or a possessive, and the few words of a thing
_OF = r"(?:[Mm]y|[Tt]he|[Oo]ur|[Aa]n?|[Tt]his)"
_W = (
    r"(?!(?:improved|dropped|increased|decreased|rose|went|and|is|was|of|to|for|with|at|by|in|on|it|that|as|are|after|be|been|has|from|so|but|or|if|which"
    r"|when|than|per|each"
    r"|before|into|will|can|i|every|because|about|a|the|my|our|now|really)\b)[a-z][a-z'-]+"
)
_THING = rf"{_W}(?: {_W}){{0,3}}"
_PAIR = rf"{_W}(?: {_W})?"
_SELF = r"\b(?:I|i|we|We)"
_HAVE = r"(?:'ve| have|'d| had)?(?: (?:also|just|already|recently|finally|successfully|only|actually|even|really))*"

# what was done: past, base and, where it differs, participle
_DONE = (
    "completed:complete fixed:fix added:add tested:test learned:learn finished:finish used:use started:start"
    " met:meet "
    "decided:decide:decided bought:buy created:create built:build implemented:implement tried:try scheduled:schedule "
    "booked:book planned:plan visited:visit received:receive made:make wrote:write:written read:read sent:send "
    "chose:choose:chosen set:set updated:update improved:improve reduced:reduce installed:install reviewed:review "
    "practiced:practice attended:attend noticed:notice discussed:discuss signed:sign solved:solve found:find "
    "calculated:calculate downloaded:download bookmarked:bookmark configured:configure changed:change got:get "
    "saw:see:seen talked:talk spoke:speak:spoken moved:move joined:join hired:hire agreed:agree switched:switch "
    "watched:watch packed:pack saved:save applied:apply submitted:submit drafted:draft paid:pay heard:hear "
    "removed:remove ordered:order declined:decline recorded:record compiled:compile resolved:resolve proved:prove"
).split()
PAST = {(parts := verb.split(":"))[0]: (parts[1], parts[-1] if len(parts) > 2 else parts[0]) for verb in _DONE}
_PAST = "|".join(PAST)
# how an imperative of an answer begins
VERBS = frozenset(
    "acknowledge add adjust adopt aim allow apply arrive ask assess assume attach avoid balance begin book break "
    "bring build calculate call capture carry change charge check choose clean clear collect combine compare "
    "complete compute configure connect consider contact create cut define derive design determine develop "
    "differentiate discuss divide document double-check download draft drink eat edit embrace enable encourage "
    "engage ensure establish evaluate expand experiment explain explore express factor find fix focus fold follow "
    "gather generate get give go handle highlight identify implement improve include incorporate increase inform "
    "initialize inspect install integrate interpret invest join keep learn leave leverage limit list listen load "
    "look maintain make manage measure minimize monitor move multiply notice offer open opt optimize order "
    "organize pack participate pay pick plan practice prepare prioritize protect prove provide purchase reach "
    "read recall recognize recommend record reduce refine reflect register rehearse remind remove replace request "
    "research reserve review rewrite roll run save schedule search seek select send separate set share show sign "
    "simplify sketch solve spend square start state stay stick stop store structure study substitute sum switch "
    "take talk test thank track train travel treat try turn type understand update upgrade use utilize validate "
    "verify view visit visualize warm wear work write".split()
)


@dataclass(frozen=True)
class Rule:
    """Where a pattern matches, a form can be asked.

    The groups `vp` and `np` are cut to a verb and a noun phrase, `vpi` to one that begins as an imperative does and
    `npt` to one that does not; `ctx` may be left out, and `done` is a past tense.

    Args:
        forms: of any speaker.
        mine: of one who talks to an assistant.
        replies: what the assistant answered to it.
        hide: what the answer is made of, and stands in no question.
    """

    kind: str
    pattern: re.Pattern[str]
    forms: tuple[str, ...]
    mine: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()
    hide: tuple[re.Pattern[str], ...] = ()


_AIMS = (
    "When did {who} say {they} wanted to {vp}?",
    "Did {who} mention wanting to {vp}?",
    "How {was} {who} going to {vp}?",
    "{have} {who} ever tried to {vp}?",
    "Why did {who} want to {vp}?",
)
_AIMS_MINE = (
    "How can {who} {vp}?",
    "How can {who} {vp}?",
    "Could you show me how to {vp}?",
    "What's the best way to {vp}?",
    "What {was} {who} using to {vp}?",
    "{who} {am} planning to {vp}, what would you suggest?",
    "Do you remember that {who} wanted to {vp}?",
)
_AIMS_REPLY = (
    "How did {other} recommend {who} {vp}?",
    "What did {other} suggest when {who} wanted to {vp}?",
    "What steps did {other} give {me} to {vp}?",
    "What did {other} tell {me} about how to {vp}?",
)
_ABOUT = ("What did {who} say about {np}?", "What did {who} ask about {np}?", "When did {who} bring up {np}?")
_ABOUT_REPLY = (
    "How did {other} explain {np}?",
    "What did {other} say about {np}?",
    "What did {other} tell {me} when {who} asked about {np}?",
)


def rule(kind: str, pattern: str, *forms: str, **more: tuple[str, ...]) -> Rule:
    hide = {"quantity": (NUMBER,), "time": (TIME, NUMBER)}.get(kind, ())
    return Rule(kind, re.compile(pattern), forms, more.get("mine", ()), more.get("replies", ()), hide)


# what one says of oneself, or asks
SPOKEN = (
    rule(
        "aim",
        r"\b(?:try|plan|hop|look|aim|go|prepar|consider|think|work)ing (?:to|on how to|of how to) (?P<vp>.+)",
        *_AIMS,
        mine=_AIMS_MINE,
        replies=_AIMS_REPLY,
    ),
    rule(
        "aim",
        _SELF
        + r"(?:'d| would)?(?: really| also| just| still| now)? (?:want(?:ed)?|need(?:ed)?|like|decided|plan|intend"
        r"|hope|tried) to (?P<vp>.+)",
        *_AIMS,
        mine=_AIMS_MINE,
        replies=_AIMS_REPLY,
    ),
    rule(
        "aim",
        r"\b(?:[Cc]an|[Cc]ould|[Ww]ould) you (?:please |also )?(?:help|show|teach|tell|guide) (?:me|us) (?:on )?"
        r"(?:through )?(?:how )?(?:to )?(?P<vp>.+)",
        *_AIMS,
        mine=_AIMS_MINE,
        replies=_AIMS_REPLY,
    ),
    rule(
        "aim",
        r"\b[Hh]ow (?:(?:do|can|could|should|would|might) (?:I|i|we|you)|to) (?P<vp>.+)",
        "Did {who} ask how to {vp}?",
        "When did {who} want to know how to {vp}?",
        mine=_AIMS_MINE[:4],
        replies=_AIMS_REPLY,
    ),
    rule(
        "aim",
        r"(?<![Ww]hat )(?<!how )(?<!which )\b[Ss]hould (?:I|i|we) (?P<vp>.+)",
        "Did {who} ask whether to {vp}?",
        "Why {was} {who} thinking about whether to {vp}?",
        mine=("Should {who} {vp}?",),
        replies=("Did {other} recommend that {who} {vp}?", "What did {other} say when {who} asked whether to {vp}?"),
    ),
    rule(
        "aim",
        r"(?:trouble|hard time|difficulty|problems?) (?P<ing>[a-z]+ing) (?P<np>.+)",
        "Why {was} {who} having trouble {ing} {np}?",
        "{have} {who} ever had trouble {ing} {np}?",
        "When did {who} have trouble {ing} {np}?",
        replies=("What did {other} suggest when {who} had trouble {ing} {np}?",),
    ),
    rule(
        "personal",
        r"\b(?P<feel>worried|concerned|excited|nervous|unsure|confused|curious|anxious|stressed|happy"
        r"|struggling|thinking)"
        r" (?P<on>about|with|by|of) (?P<np>.+)",
        "Why {was} {who} {feel} {on} {np}?",
        "{have} {who} ever been {feel} {on} {np}?",
        "When {was} {who} {feel} {on} {np}?",
        replies=("What did {other} say when {who} {was} {feel} {on} {np}?",),
    ),
    rule(
        "done",
        _SELF + _HAVE + rf" (?P<done>{_PAST}) (?P<np>.+)",
        "{have} {who} ever {part} {np}?",
        "{have} {who} {part} {np} before?",
        "When did {who} {base} {np}?",
        "Did {who} {base} {np}?",
        "Why did {who} {base} {np}?",
    ),
    rule(
        "done",
        r"\b(?:after|by|before) (?:also )?(?P<ing>[a-z]+ing) (?P<np>.+)",
        "What did {who} do about {ing} {np}?",
        "Did {who} mention {ing} {np}?",
        "When {was} {who} {ing} {np}?",
    ),
    rule(
        "quantity",
        _SELF
        + _HAVE
        + rf" (?P<done>{_PAST}) (?:about |over |around |all |only |the )?{_NUMBER} (?P<np>(?:{_W} )?{_W}s)"
        r"\b(?P<ctx> (?:for|on|in|from|of|with|about|at|to) .+)?",
        "How many {np} {have} {who} {part}{ctx}?",
        "How many {np} did {who} {base}{ctx}?",
    ),
    rule(
        "quantity",
        rf"(?<![\d.$-])\b{_NUMBER} (?P<np>(?:{_W} ){{0,2}}(?!{_SPAN}s|ounces|inches|meters"
        rf"|miles|pounds|dollars|degrees|[a-z]+ss\b)"
        r"[a-z-]{3,}s)\b(?P<ctx> (?:for|on|in|from|of|with|about|at|to|per) .+)?",
        "How many {np} did {who} mention{ctx}?",
        "How many {np} {do} {who} have in total{ctx}?",
    ),
    rule(
        "quantity",
        rf"\b(?:I|we)?(?:'ve| have)? ?(?:already )?sp(?:en[dt]|ending) (?:about |over |around )?{_NUMBER} {_SPAN}s?"
        r"(?P<ctx> (?:a day|daily|on|with|at|in|per) .+| [a-z]+ing .+)",
        "How long did {who} spend{ctx}?",
        "How much time {have} {who} spent{ctx}?",
    ),
    rule(
        "quantity",
        rf"\b(?:takes?|took|taken) (?:me |about |over |around |only )*{_NUMBER} {_SPAN}s? to (?P<vp>.+)",
        "How long did it take to {vp}?",
        "How much time did {who} need to {vp}?",
    ),
    rule(
        "quantity",
        rf"\b(?P<ing>[a-z]+ing) (?P<np>[^,;.?!]{{4,50}}?) for (?:the past |about |over |around |nearly )*"
        rf"(?:{_NUMBER}|a few|several) {_SPAN}s?",
        "How long {have} {who} been {ing} {np}?",
        "For how long {was} {who} {ing} {np}?",
    ),
    rule(
        "quantity",
        rf"(?<![\w.])\d[\d,.]*[- ]{_SPAN} (?P<np>{_PAIR})",
        "How long {be} {my} {np}?",
        "How long did {who} say the {np} is?",
        "How long {be} the {np} {who} mentioned?",
    ),
    rule(
        "quantity",
        rf"[$€£]\d[\d,.]* (?P<np>{_PAIR})",
        "How much {be} the {np}?",
        "How much {does} the {np} cost?",
        "What did {who} pay for the {np}?",
    ),
    rule(
        "quantity",
        r"[$€£]\d[\d,.]* (?:budget )?(?P<ctx>(?:for|on) .+)",
        "How much did {who} plan to spend {ctx}?",
        "How much money did {who} mention {ctx}?",
    ),
    rule(
        "quantity",
        rf"\b{_OF} (?P<np>{_THING}) (?:is |was |has |have )?(?:now )?(?P<how>improved|dropped|increased"
        rf"|decreased|rose|went"
        rf"|reduced|grew|boosted)?[a-z ]{{0,12}} ?from {_NUMBER}{_UNIT} to {_NUMBER}",
        "How much did {my} {np} change?",
        "By how much did {my} {np} improve?",
    ),
    rule(
        "quantity",
        rf"\b{_OF} (?P<np>{_THING}) (?:of|is|was|to|at|costs?) (?:about |around |only |just |under "
        rf"|over )?{_NUMBER}(?![a-z:])"
        rf"{_UNIT}(?P<ctx> (?:for|on|in|with) .+)?",
        "What {be} {my} {np}{ctx}?",
        "What was the {np} {who} mentioned{ctx}?",
        "What {np} did {who} give{ctx}?",
    ),
    rule(
        "quantity",
        rf"\b\d+(?:\.\d+)?% (?P<np>(?:{_W} )?[a-z]+(?:cy|ty|ion|ment|nce|age|ss|unt|ing|nty|ery"
        rf"|te))\b(?P<ctx> (?:on|in|for|with|by) .+)?",
        "What {np} did {who} give{ctx}?",
        "What {np} did {who} mention{ctx}?",
    ),
    rule(
        "time",
        rf"\b(?:{_OF}|[A-Z][a-z]+'s) (?P<np>{_THING}) (?:(?:is|was|of|set|scheduled|due|on|at|for|by|starts?"
        rf"|begins?|ends?"
        rf"|starting|date) )+(?:the )?{_WHEN}(?P<ctx> (?:for|to|with|in) .+)?",
        "When {be} {my} {np}{ctx}?",
        "When {be} the {np}{ctx}?",
        "What date did {who} set for the {np}{ctx}?",
        "Did {who} say when the {np} is{ctx}?",
    ),
    rule(
        "time",
        rf"\b(?:to|will|I'll) (?P<vp>[a-z]+ [^,.;:?!]{{4,70}}?) (?:by|on|at|before|until|in) {_WHEN}",
        "When {do} {who} plan to {vp}?",
        "When {was} {who} going to {vp}?",
        "By when {do} {who} want to {vp}?",
    ),
    rule(
        "time",
        _SELF + _HAVE + rf" (?P<done>{_PAST}) (?P<np>[^,.;:?!]{{4,70}}?) (?:by|on|at|before|in|since) {_WHEN}",
        "When did {who} {base} {np}?",
        "On what day did {who} {base} {np}?",
    ),
    rule(
        "time",
        rf"\b{_WHEN} (?P<np>{_PAIR})(?P<ctx> (?:for|with|at|in) .+)?",
        "When {be} {my} {np}{ctx}?",
        "What time is the {np}{ctx}?",
    ),
    rule(
        "tool",
        r"\b(?P<name>(?!Section|Chapter|Exercise|Theorem|Problem|Example|Lecture|Table|Figure|Step|Lesson"
        r"|Week|Part|Page"
        r"|Equation|The|Version|I\b)[A-Z][\w+.-]*(?: [A-Z][\w+-]*)?),? (?:[Vv]ersion )?v?\d+\.\d[\w.]*",
        "Which version of {name} {am} {who} using?",
        "What version of {name} did {who} mention?",
    ),
    rule(
        "tool",
        r"\b(?:using|use|used"
        r"|with) (?:the )?(?P<name>[A-Z][\w+#-]+(?: [A-Z][\w+-]*)*)(?: v?[\d.]+)? (?P<to>to|for) (?P<vp>.+)",
        "What {do} {who} use {to} {vp}?",
        "Which tool {do} {who} use {to} {vp}?",
        "What {was} {who} using {to} {vp}?",
        "Why {do} {who} use {name} {to} {vp}?",
    ),
    rule(
        "tool",
        r"\b(?P<name>[A-Z][a-z]{2,12}) (?P<done>suggested|recommended|told|explained|mentioned|introduced"
        r"|advised|shared"
        r"|showed|gave) (?:me |us )?(?:that |to |about |how )?(?P<np>.+)",
        "What did {name} say about {np}?",
        "Who {done} {np}?",
        "Who is {name}?",
    ),
    rule(
        "tool",
        r"\b(?P<name>[A-Z][a-z]{2,12})'s (?P<what>suggestion|advice|idea|recommendation|feedback|tips?|opinion|plan)\b",
        "What was {name}'s {what}?",
        "What {what} did {name} give {me}?",
    ),
    rule(
        "tool",
        r"\b(?P<poss>[Mm]y|[Oo]ur) (?P<np>(?:[a-z-]+ )?(?:friend|husband|wife|partner|brother|sister|mother|father"
        r"|mom|dad|son"
        r"|daughter|cousin|colleague|coworker|mentor|tutor|teacher|instructor|manager|boss|neighbor|roommate|advisor"
        r"|lawyer|doctor|coach|classmate|aunt|uncle|supervisor|director|client))(?:,| named)? (?P<name>[A-Z][a-z]+)",
        "What is the name of {my} {np}?",
        "Who is {name}?",
        "When did {who} mention {name}?",
        "What {be} {my} {np} called?",
    ),
    rule(
        "tool",
        rf"\b{_OF} (?P<np>{_THING}),? (?:named|called|titled|known as) [\"'A-Z]",
        "What is the {np} called?",
        "What is the name of the {np}?",
        "What was the name of the {np} {who} mentioned?",
    ),
    rule(
        "personal",
        r"\b[Mm]y (?P<np>[a-z-]+(?: [a-z-]+){1,3}) (?:is|are|was|were|includes?) (?!to )",
        "What {be} {my} {np}?",
        "What did {who} say about {their} {np}?",
        "How {do} {who} describe {their} {np}?",
    ),
    rule(
        "personal",
        _SELF + r" (?P<do1>prefer|like|love|enjoy|hate|always|never|usually|often|wish|think|believe|feel)"
        r"(?: like| that| to)? (?P<vp>.+)",
        "Did {who} ever say that {they} {do1} {vp}?",
        "When did {who} say that {they} {do1} {vp}?",
    ),
    rule(
        "personal",
        r"\bI(?:'m| am) an? (?P<job>(?:\w+[ -]){0,4}?[a-z]+(?:er|or|ist|ian|ant|ent|yst))\b",
        "What profession did {who} mention?",
        "What {do} {who} do for a living?",
    ),
    rule(
        "personal",
        r"\bI (?P<live>live|work|study) (?P<at>in|at|as|for|with) (?P<y>\w+)",
        "Where {do} {who} {live}?",
        "What did {who} say about where {they} {live}?",
    ),
    rule(
        "topic",
        r"\b(?:explain|understand(?:ing)?|learn(?:ing)?(?: more)? about|know(?: more)? about"
        r"|talk(?:ing)? about|concept of|"
        r"info(?:rmation)? (?:on|about)|advice on|question about|trouble with|help with|working on|impact of|role of|"
        r"importance of|significance of|thoughts on|tips (?:on|for)) (?P<np>.+)",
        *_ABOUT,
        mine=("Can you explain {np} to {me} again?", "What did {who} want to know about {np}?"),
        replies=_ABOUT_REPLY,
    ),
    rule(
        "topic",
        r"\b[Ww]hat(?:'s| are| is| were| would be) (?:(?:some|good|other|a few|key|main"
        r"|specific|more|effective)"
        r" )*(?P<np>(?:the |an? )?[a-z]+ .+)",
        "Did {who} ask about {np}?",
        "Why did {who} ask about {np}?",
        replies=(
            "What did {other} suggest when {who} asked about {np}?",
            "What did {other} say about {np}?",
        ),
    ),
    rule(
        "topic",
        r"\b(?:explain|understand|know|see|sure|wondering|learn|wonder) (?P<wh>why|how|what|if|whether) (?P<that>.+)",
        "Did {who} ask {wh} {that}?",
        "When did {who} want to know {wh} {that}?",
        replies=("What did {other} say when {who} asked {wh} {that}?",),
    ),
    rule(
        "topic",
        r"\b(?:[Mm]y|[Oo]ur) (?P<np>[a-z][a-z-]+ .+)",
        "What did {who} say about {their} {np}?",
        "When did {who} mention {their} {np}?",
        mine=("Do you remember {my} {np}?", "What did {who} tell you about {my} {np}?"),
    ),
)
