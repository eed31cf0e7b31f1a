"""Time expressions: what is one, what is none, and what each comes to."""

import sys
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from hierlandmark.errors import MissingExtra
from hierlandmark.filters import Filter, TimeSpan
from hierlandmark.when import time_span

# a Wednesday
NOW = datetime(2026, 3, 18, 15, 30, tzinfo=UTC)

FOUND = [
    ("what did I say last week", "last week", "2026-03-09", "2026-03-16"),
    ("Yesterday's call", "Yesterday", "2026-03-17", "2026-03-18"),
    ("what did I say today?", "today", "2026-03-18", "2026-03-19"),
    ("the day before yesterday", "the day before yesterday", "2026-03-16", "2026-03-17"),
    ("this  morning", "this  morning", "2026-03-18", "2026-03-19"),
    ("who rang last night", "last night", "2026-03-17T18", "2026-03-18T06"),
    ("what happened in March 2025", "in March 2025", "2025-03-01", "2025-04-01"),
    ("in march of 2025", "in march of 2025", "2025-03-01", "2025-04-01"),
    ("in December", "in December", "2025-12-01", "2026-01-01"),
    ("in may", "in may", "2025-05-01", "2025-06-01"),
    ("last March", "last March", "2025-03-01", "2025-04-01"),
    ("the last month", "last month", "2026-02-01", "2026-03-01"),
    ("this year", "this year", "2026-01-01", "2027-01-01"),
    ("In 2023 I moved", "In 2023", "2023-01-01", "2024-01-01"),
    ("what did she say on Tuesday about tea", "on Tuesday", "2026-03-17", "2026-03-18"),
    ("last Friday", "last Friday", "2026-03-13", "2026-03-14"),
    ("the key I lost on 3 May 2024", "on 3 May 2024", "2024-05-03", "2024-05-04"),
    ("the 3rd of May 2024", "the 3rd of May 2024", "2024-05-03", "2024-05-04"),
    ("on may 3", "on may 3", "2025-05-03", "2025-05-04"),
    ("Dec 12 call", "Dec 12", "2025-12-12", "2025-12-13"),
    ("call of 2024-06-01", "2024-06-01", "2024-06-01", "2024-06-02"),
    ("two weeks ago we met", "two weeks ago", "2026-03-02", "2026-03-09"),
    ("3 days ago", "3 days ago", "2026-03-15", "2026-03-16"),
    ("an hour ago", "an hour ago", "2026-03-18T14", "2026-03-18T15"),
    ("in the last 3 days", "in the last 3 days", "2026-03-15T15:30", "2026-03-18T15:30"),
    ("over the past week", "over the past week", "2026-03-11T15:30", "2026-03-18T15:30"),
    ("since Monday", "since Monday", "2026-03-16", None),
    ("after March 2025", "after March 2025", "2025-04-01", None),
    ("before 2024-06-01", "before 2024-06-01", None, "2024-06-01"),
    ("until last week", "until last week", None, "2026-03-16"),
    ("between March and May 2025", "between March and May 2025", "2025-03-01", "2025-06-01"),
    ("from Monday to Wednesday", "from Monday to Wednesday", "2026-03-09", "2026-03-12"),
    ("between Friday and Monday", "between Friday and Monday", "2026-03-13", "2026-03-17"),
    ("from November to February", "from November to February", "2025-11-01", "2026-03-01"),
]

NONE = [
    "what may I cook", "3 may be wrong", "he may 5 times", "the last may be first", "who is May", "I will march on",
    "March of the penguins", "in March of the Penguins", "second breakfast", "wait a second", "Sunday roast recipe",
    "on Black Friday", "Tuesdays are busy", "on Tuesdays", "the sun, the sea and what we do", "Julian and Augustine",
    "the last time we spoke", "her last day at work", "a week in Paris", "the year of the cat", "at the end of the day",
    "what do we plan for next week", "in two weeks", "tomorrow", "an essay in 2000 words", "room 2024", "in 2024.5",
    "apr 5 percent", "a few days ago", "recently", "on the 5th", "on 05/06/2024", "on 30 February", "2024-02-30",
    "on May 5, 1800", "between now and then", "since we met", "before lunch", '"Yesterday" by the Beatles',
    "the film “In March 2025”", "\0", "last", "",
]  # fmt: skip


@pytest.fixture(autouse=True)
def dateparser():
    pytest.importorskip("dateparser")


def moment(text):
    return text and datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(("query", "expression", "since", "until"), FOUND, ids=[row[0] for row in FOUND])
def test_a_time_is_the_whole_of_what_it_names(query, expression, since, until):
    assert time_span(query, NOW) == TimeSpan(expressions=[expression], since=moment(since), until=moment(until))


@pytest.mark.parametrize("query", NONE)
def test_what_only_looks_like_a_time_is_none(query):
    assert time_span(query, NOW) is None


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ("what I said last week about the trip in March 2025", "2025-03-01", "2026-03-16"),
        ("yesterday and since 2024", "2024-01-01", None),
        ("before 2024 and today", None, "2026-03-19"),
    ],
)
def test_several_times_reach_from_the_first_to_the_last(query, since, until):
    found = time_span(query, NOW)
    assert (found.since, found.until) == (moment(since), moment(until))
    assert len(found.expressions) == 2


def test_days_begin_in_the_zone_of_now():
    # two in the morning in Tokyo is still the day before in UTC
    now = datetime(2026, 3, 18, 2, tzinfo=timezone(timedelta(hours=9)))
    found = time_span("yesterday", now)
    assert found.since == datetime(2026, 3, 16, 15, tzinfo=UTC) and found.until - found.since == timedelta(days=1)
    assert time_span("yesterday", datetime(2026, 3, 18, 2)).since == datetime(2026, 3, 17, tzinfo=UTC)


def test_a_day_of_23_hours():
    now = datetime(2026, 3, 30, 12, tzinfo=ZoneInfo("Europe/Paris"))
    found = time_span("yesterday", now)
    assert found.until.astimezone(UTC) - found.since.astimezone(UTC) == timedelta(hours=23)


def test_without_now_it_is_the_current_time():
    found = time_span("today")
    assert found.since <= datetime.now(UTC) + timedelta(minutes=1) < found.until + timedelta(minutes=1)
    assert found.since.utcoffset() == timedelta(0)


@pytest.mark.parametrize("now", [datetime.max, datetime.min], ids=["max", "min"])
def test_the_ends_of_the_calendar_are_no_fault(now):
    for query in ("this year", "last year", "yesterday", "last night", "in the last 12 months"):
        time_span(query, now)


def test_a_span_and_a_filter_leave_what_is_in_both():
    span = time_span("last week", NOW)
    both = span.narrow(Filter(roles=["user"], since="2026-03-10", until="2026-12-31"))
    assert both == Filter(roles=["user"], since="2026-03-10", until=datetime(2026, 3, 16))
    assert span.narrow(None) == Filter(since=span.since, until=span.until)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dateparser.date", None)
    with pytest.raises(MissingExtra, match=r"hierlandmark\[time\]', or leave parse_time out"):
        time_span("last week")
