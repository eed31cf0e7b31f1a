"""Time expressions of a query as a span of time. dateparser is imported here only.

A grammar finds what can be nothing but a time ("on Tuesday", not "Tuesday"; "in May", not "may"), dateparser says which
day, week, month or year that is, and the whole of it is meant. English only. A missed expression costs nothing, a false
one hides messages: so the grammar is small, and leaves out what is ahead ("next week"), vague ("recently", "a few days
ago") or read differently in different places ("05/06/2024").
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hierlandmark.errors import MissingExtra
from hierlandmark.filters import TimeSpan, aware

# language of the grammar, and dateparser's for it; memories lie in the past
_LANGUAGES = ["en"]
_SETTINGS = {"PREFER_DATES_FROM": "past", "RETURN_TIME_AS_PERIOD": True}
# the hours of "last night", on its day and the next
_NIGHT = (18, 6)

_NAMES = "january february march april may june july august september october november december"
_MONTH = rf"(?:{'|'.join(_NAMES.split())})"
_SHORT = rf"(?:{_MONTH}|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
# "may 5" and "apr 5" are clear only with a capital, or a word before them that says so
_VERB = r"(?-i:may|march)\b"
_CLEAR = rf"(?:(?!{_VERB}){_MONTH}|(?-i:(?=[A-Z][a-z])){_SHORT})"
_WEEKDAY = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_THINGS = (
    r"words?|tokens?|characters?|letters?|lines?|pages?|steps?|pieces?|parts?|people|times|days|miles|dollars|euros"
)
_YEAR = r"(?:19[5-9]\d|20\d\d)(?![\d.,]*\d)"
# a year without its month may be a count
_BARE_YEAR = rf"{_YEAR}(?!\s*(?:%|{_THINGS}))"
_NTH = r"(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?(?![\d:])"
_COUNT = r"(?:\d{1,3}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|a\s+couple\s+of)"
_UNITS = r"(?:hour|day|week|month|year)s?"


def _dated(month: str) -> str:
    """A day of a month, or a month of a year."""
    return (
        rf"(?:(?:the\s+)?{_NTH}\s+(?:of\s+)?{month}(?:,?\s+{_YEAR})?"
        rf"|{month}\s+(?:the\s+)?{_NTH}(?:,?\s+{_YEAR})?|{month},?\s+(?:of\s+)?{_YEAR})"
    )


# times by themselves
_PLAIN = (
    r"(?:\d{4}-\d\d-\d\d(?![\d-])|(?:the\s+)?day\s+before\s+yesterday|yesterday|today|tonight|last\s+night"
    r"|this\s+(?:morning|afternoon|evening|week|month|year)|(?:last|previous)\s+(?:week|month|year)\b"
    rf"|last\s+{_WEEKDAY}|last\s+(?!{_VERB}){_MONTH}\b|{_COUNT}\s+{_UNITS}\s+ago|{_dated(_CLEAR)})"
)
# and after a word that says so
_PERIOD = rf"(?:{_SHORT},?\s+(?:of\s+)?{_YEAR}|{_MONTH}(?!\s+(?:of|day)\b)|{_BARE_YEAR})"
_ANY = rf"(?:{_PLAIN}|{_dated(_SHORT)}|{_PERIOD}|{_WEEKDAY})"
_RECENT = rf"(?:the\s+)?(?:(?:last|past)\s+(?:{_COUNT})\s+{_UNITS}|past\s+(?:hour|day|week|month|year))"
_GRAMMAR = re.compile(
    rf"\b(?:between\s+(?P<first>{_ANY})\s+and\s+(?P<last>{_ANY})"
    rf"|from\s+(?P<start>{_ANY})\s+(?:to|until|till|through)\s+(?P<stop>{_ANY})"
    rf"|(?P<word>since|after|before|until|till)\s+(?P<edge>{_ANY})"
    rf"|(?:in|over|during|within|for)\s+(?P<recent>{_RECENT})|(?:in|during)\s+(?P<period>{_PERIOD})"
    # a year that is not read must not turn the date before it into another's
    rf"|on\s+(?P<on>{_WEEKDAY}|{_dated(_SHORT)})|(?P<plain>{_PLAIN}))(?!\w|,?\s+(?:of\s+)?\d{{4}})",
    re.IGNORECASE,
)
# a title or a quotation is what somebody else said
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|«[^»]*»')

# a phrase and what it is relative to: the moment that dateparser finds, and how much of the calendar around it is meant
Parse = Callable[[str, datetime], tuple[datetime, str] | None]


class _Span(NamedTuple):
    """Local time without a zone, None where open."""

    since: datetime | None
    until: datetime | None


class _Whole(NamedTuple):
    """The same, of a part of the calendar."""

    since: datetime
    until: datetime


def time_span(query: str, now: datetime | None = None) -> TimeSpan | None:
    """What the time expressions of a query come to, all of them together; None when it has none.

    A day, week (from Monday), month or year counts whole: "two weeks ago" is the week that day is in. "in the last two
    weeks" ends now. Of several expressions the span reaches from the first to the last, open where one is.

    Args:
        now: what they are relative to; its zone is the one that days begin in, UTC where it names none. By default the
            current time in UTC.

    Raises:
        MissingExtra: dateparser is not installed.
    """
    parse, now = _parser(), aware(now or datetime.now(UTC))
    local = now.replace(tzinfo=None)
    spans, expressions = list[_Span](), list[str]()
    for match in _GRAMMAR.finditer(_QUOTED.sub(lambda quoted: "\0" * len(quoted[0]), query)):
        try:
            span = _read(match.groupdict(), local, parse)
        except (OverflowError, ValueError):
            # a day that no calendar has
            continue
        if span is not None:
            spans.append(span)
            expressions.append(match[0])
    if not spans:
        return None
    sinces, untils = [span.since for span in spans], [span.until for span in spans]
    since = None if None in sinces else min(one for one in sinces if one)
    until = None if None in untils else max(one for one in untils if one)
    return TimeSpan(
        expressions=expressions,
        since=since and since.replace(tzinfo=now.tzinfo),
        until=until and until.replace(tzinfo=now.tzinfo),
    )


def _parser() -> Parse:
    try:
        from dateparser.date import DateDataParser
    except ImportError as error:
        raise MissingExtra(
            "times in queries need dateparser",
            python="run: pip install 'hierlandmark[time]', or leave parse_time out",
            command="run: pip install 'hierlandmark[time]', or leave --when out",
        ) from error

    def parse(phrase: str, now: datetime) -> tuple[datetime, str] | None:
        settings: dict[str, Any] = _SETTINGS | {"RELATIVE_BASE": now}
        found = DateDataParser(languages=_LANGUAGES, settings=settings).get_date_data(phrase)
        return None if found.date_obj is None else (found.date_obj.replace(tzinfo=None), found.period)

    return parse


def _read(found: dict[str, str | None], now: datetime, parse: Parse) -> _Span | None:
    """The span of one match of the grammar; None when it is none after all."""
    first, last = found["first"] or found["start"], found["last"] or found["stop"]
    if first and last:
        year = re.search(rf"{_YEAR}$", last)
        if year and not re.search(r"\d{4}", first) and re.search(_SHORT, first, re.IGNORECASE):
            first = f"{first} {year[0]}"
        one, other = _whole(first, now, parse), _whole(last, now, parse)
        if one and other and one > other:
            # from the Friday before that Monday
            one = _whole(first, other.since, parse)
        return _Span(one.since, other.until) if one and other and one <= other else None
    if found["recent"]:
        count = re.sub(r"^(?:the\s+)?(?:last|past)\s+", "", _plain(found["recent"]))
        began = parse(f"{count if ' ' in count else f'1 {count}'} ago", now)
        return _Span(began[0], now) if began else None
    if found["edge"] and found["word"]:
        edge = _whole(found["edge"], now, parse)
        if edge is None:
            return None
        match found["word"].lower():
            case "since":
                return _Span(edge.since, None)
            case "after":
                return _Span(edge.until, None)
            case "before":
                return _Span(None, edge.since)
            case _:
                return _Span(None, edge.until)
    phrase = found["period"] or found["on"] or found["plain"]
    whole = _whole(phrase, now, parse) if phrase else None
    return whole and _Span(*whole)


def _plain(phrase: str) -> str:
    """What dateparser reads: small letters, one space, no words that it does not know."""
    phrase = " ".join(phrase.lower().split())
    for pattern, known in (
        (r"^previous ", "last "),
        (r"a couple of ", "2 "),
        (r"^this (?:morning|afternoon|evening)$|^tonight$", "today"),
        (r"^last night$", "yesterday"),
        (rf"^last (?={_MONTH}$)", ""),
    ):
        phrase = re.sub(pattern, known, phrase)
    return phrase


def _whole(phrase: str, now: datetime, parse: Parse) -> _Whole | None:
    """The hour, day, week, month or year that a phrase names, from its start to the next one's."""
    parsed = parse(_plain(phrase), now)
    if parsed is None:
        return None
    at, period = parsed
    if phrase.lower().startswith("last") and re.search(rf"{_MONTH}$", phrase.lower()) and at >= _month(now):
        at = at.replace(day=1, year=at.year - 1)
    if re.fullmatch(r"last\s+night", phrase.lower()):
        day = _day(at)
        return _Whole(day + timedelta(hours=_NIGHT[0]), day + timedelta(days=1, hours=_NIGHT[1]))
    match period:
        case "time":
            hour = at.replace(minute=0, second=0, microsecond=0)
            return _Whole(hour, hour + timedelta(hours=1))
        case "week":
            monday = _day(at) - timedelta(days=at.weekday())
            return _Whole(monday, monday + timedelta(days=7))
        case "month":
            return _Whole(_month(at), _month(_month(at) + timedelta(days=31)))
        case "year":
            january = _month(at).replace(month=1)
            return _Whole(january, january.replace(year=at.year + 1))
        case _:
            return _Whole(_day(at), _day(at) + timedelta(days=1))


def _day(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _month(at: datetime) -> datetime:
    return _day(at).replace(day=1)
