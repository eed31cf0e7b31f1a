"""What an assistant tells its user, and people in a room each other, and how each is asked for."""

from hierlandmark.train.forms import rule

# what people say to each other in a room
TALKED = (
    rule(
        "advice",
        r"\b[Yy]ou (?:can|should|could|need to|have to|must|might|may want to|'d) (?:also |just "
        r"|probably )*(?P<vp>.+)",
        "Did {who} say how to {vp}?",
        "Who said to {vp}?",
        "What did {who} say about how to {vp}?",
    ),
    rule(
        "advice",
        r"^(?:\S{1,24}[:,] )?(?:[Yy]es,? |[Nn]o,? |ok,? |just |then |so |please )?(?P<vpi>[a-zA-Z]+ .+)",
        "Did {who} suggest to {vp}?",
        "Who suggested to {vp}?",
        "Why did {who} say to {vp}?",
    ),
    rule(
        "topic",
        r"\b(?P<np>(?:the|an?|your|my|our|some|this) (?!little|bit|lot|couple|matter|way\b|while|few|others"
        r"|guy|people)[a-zA-Z][\w-]+ [\w-]{2,}.*)",
        "What did {who} say about {np}?",
        "What did {who} think about {np}?",
        "Did {who} mention {np}?",
        "Who talked about {np}?",
    ),
    rule(
        "noun",
        r"\b(?:the|your|my|this|that|our) (?P<np>(?!therefore|former|latter|happened|others|moment|other\b"
        r"|bottom|thing|stuff"
        r"|problem|people|whole|middle|[a-z]+(?:ed|ing|ly|al|ic)\b)[a-zA-Z][\w-]{4,})(?=[,.?!:]|$| (?:is|was"
        r"|on|in|for|with|to|of|that|and|but|has|does"
        r"|will|can|from|at|so|i|you)\b)",
        "What did {who} say about the {np}?",
        "What did {who} think of the {np}?",
        "Who brought up the {np}?",
    ),
    rule(
        "topic",
        r"\b(?:anyone|anybody|someone|you) (?:know|tell me|have|got|use|using|tried|try|using) (?P<np>[a-z]+ .+)",
        "Why did {who} ask about {np}?",
        "Who asked about {np}?",
        "Did {who} ask about {np}?",
    ),
)
_TOLD = (
    "How did {who} recommend I {vp}?",
    "Why should I {vp}?",
    "What did {who} tell me about how to {vp}?",
    "How do I {vp}?",
    "Did {who} suggest that I {vp}?",
)
_TERM = (
    "What did {who} tell me about {np}?",
    "What did {who} say about {np}?",
    "What {be} {np}?",
    "How did {who} explain {np}?",
    "What did {who} suggest for {np}?",
    "What did {who} list under {np}?",
    "Why {does} {np} matter?",
)

_GOAL = (
    r"(?:help (?:you|me)|steps (?:to|for)|how to|guide to|ways? to|tips to|strategies to|let's|want to) (?:also )?"
    r"(?P<vp>(?!help|go|move|know|see|get|come|consider|be |do |break|take)[a-z]+ .+)"
)
# what an assistant answers, with its headings, bold terms and lists
GIVEN = (
    rule(
        "heading",
        r"^#{1,6} +(?:(?:Step )?\d+[.:)]* *)?\**(?P<npt>[^*:#\n]+)",
        *_TERM,
        "What steps did {who} list for {np}?",
    ),
    rule("heading", r"^#{1,6} +(?:(?:Step )?\d+[.:)]* *)?\**(?P<vpi>[^*:#\n]+)", *_TOLD),
    rule("term", r"^\s*(?:[-*]|\d+\.)? *\*\*(?P<npt>[^*\n:]{4,60}):?\*\*", *_TERM),
    rule("term", r"^\s*(?:[-*]|\d+\.)? *\*\*(?P<vpi>[^*\n:]{4,60}):?\*\*", *_TOLD),
    rule("item", r"^\s*(?:[-*]|\d+\.) +(?:\*\*[^*]+\*\*:? *)?(?P<vpi>[A-Z][a-z]+ .+)", *_TOLD),
    rule("item", r"^(?P<vpi>[A-Z][a-z]+ .+)", *_TOLD),
    rule(
        "advice", r"\b[Yy]ou (?:can|should|could|need to|may want to|might want to|might) (?:also )?(?P<vp>.+)", *_TOLD
    ),
    rule(
        "goal",
        r"\b(?i:" + _GOAL + ")",
        "How did {who} recommend I {vp}?",
        "What steps did {who} list to {vp}?",
        "What did {who} suggest to {vp}?",
        "What tips did {who} give me to {vp}?",
        "Which ways to {vp} did {who} mention?",
    ),
    rule(
        "goal",
        r"^(?:\s*(?:[-*]|\d+\.) +)?(?:\*\*[^*]+\*\*:? *)?To (?P<vp>[a-z]+ .+)",
        "What did {who} suggest to {vp}?",
        "How did {who} say I can {vp}?",
        "How do I {vp}?",
    ),
    rule(
        "meaning",
        r"^(?:\s*[-*] +)?(?:The |An? )?(?P<npt>[A-Z][\w-]+(?: [\w-]+){0,3}) (?:is|refers to|means|helps"
        r"|allows|provides|ensures)\b",
        "What {be} {np}?",
        "What {does} {np} do?",
        "What {be} {np} for?",
        "How did {who} explain {np}?",
    ),
    rule(
        "noun",
        r"\b(?P<np>(?:your|the|a) [a-z][a-z-]+ [a-z-]{3,}.*)",
        *_TERM[:2],
        "What did {who} suggest for {np}?",
        "What did {who} mention about {np}?",
    ),
)
BETWEEN = rule(
    "time",
    "$^",
    "How many days are there between the {np} and the {second}?",
    "How long is it from the {np} to the {second}?",
)
# of all that was said about a topic
WIDE = (
    "Can you summarize what {who} said about {np}?",
    "In what order did {who} bring up different aspects of {np}?",
    "How did {np} develop over time?",
    "Give me an overview of our conversations about {np}",
    "Summarize everything about {np}",
)
WIDE_MINE = ("Can you summarize what {who} learned about {np}?", "How did {my} {np} develop over time?")
