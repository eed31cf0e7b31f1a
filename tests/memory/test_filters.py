"""Filters, neighbours and times of a search on the tiny model: mechanics, not quality."""

from datetime import UTC, datetime

import pytest

from hierlandmark import Filter, Memory, Message
from hierlandmark.errors import InvalidArgument
from hierlandmark.memory.rank import rank_messages
from hierlandmark.testing import tiny_model

ISO = "an ISO 8601 date or time, such as 2026-03-31 or 2026-03-31T09:30:00+02:00"
MODES = ["hierarchical", "flat", "hybrid"]
# one of ten is from March, and they are short: many of them share a segment with others
CHAT = [
    Message(
        id=i,
        role="user" if i % 2 else "assistant",
        content=f"{i} says plain things " * (1 + i % 3),
        time=f"2025-{'03' if i % 10 == 7 else '04'}-{1 + i % 28:02d}T12:00:00",
        metadata={"topic": "tea" if i % 5 == 0 else "coal"},
    )
    for i in range(60)
]
MARCH = Filter(since="2025-03-01", until="2025-03-31")
IN_MARCH = {7, 17, 27, 37, 47, 57}


@pytest.fixture(scope="module")
def memory():
    with Memory.open(":memory:", model=tiny_model()) as memory:
        memory.add(CHAT)
        yield memory


def ids(result):
    return [hit.message_ids[0] for hit in result.hits]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 5, 6, 7, 99])
def test_exactly_k_where_k_match(memory, mode, k):
    found = memory.search("7 says", k, mode=mode, where=MARCH)
    assert len(found.hits) == len(set(ids(found))) == min(k, 6)
    assert set(ids(found)) <= IN_MARCH
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    assert all(set(block.message_ids) & IN_MARCH for block in found.trace.blocks)


@pytest.mark.parametrize("mode", MODES)
def test_every_condition_holds_and_a_mapping_will_do(memory, mode):
    where = {"roles": ["user"], "metadata": {"topic": "tea"}, "since": "2025-04-01"}
    wanted = {i for i in range(60) if i % 2 and i % 5 == 0}
    assert set(ids(memory.search("tea", 99, mode=mode, where=where))) == wanted


@pytest.mark.parametrize("mode", MODES)
def test_a_filter_that_lets_all_through_changes_nothing(memory, mode):
    plain = memory.search("plain things", 9, mode=mode)
    for where in (Filter(), Filter(roles=["user", "assistant"])):
        found = memory.search("plain things", 9, mode=mode, where=where)
        assert [(hit.message_ids, hit.block) for hit in found.hits] == [(h.message_ids, h.block) for h in plain.hits]
        assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in plain.hits], rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_matches(memory, mode):
    found = memory.search("plain", 3, mode=mode, where=Filter(metadata={"topic": "gold"}))
    assert found.hits == [] and found.cost.landmark_keys == 0


def test_segments_without_a_match_are_not_looked_at(memory):
    heads, layers = 2, 2
    recall = memory._recall(memory.model, memory._store, "hierarchical")
    held = [
        s for s in range(recall.n_segments) if any(run.message_id in IN_MARCH for run in recall.block_of(s, 0)[0].runs)
    ]
    assert 0 < len(held) < recall.n_segments / 2
    cost = memory.search("plain", 3, where=MARCH).cost
    assert cost.gate_keys == heads * layers * len(held)
    blocks = int(recall.present[held].sum())
    assert memory.search("plain", 3, mode="flat", where=MARCH).cost.landmark_keys == heads * layers * blocks


def test_the_number_of_opened_segments_counts_those_with_a_match(memory, monkeypatch):
    config = memory.config.recall.model_copy(update={"search_segments": 2})
    monkeypatch.setattr(memory, "config", memory.config.model_copy(update={"recall": config}))
    segments = {block.segment for block in memory.search("plain", 1, mode="hierarchical", where=MARCH).trace.blocks}
    assert len(segments) == 2


def test_scores_are_shares_of_the_votes(memory):
    for mode in MODES[:2]:
        hits = memory.search("plain things", 60, mode=mode).hits
        assert all(0 <= hit.score <= 1 for hit in hits)
    with Memory.open(":memory:", model=memory.model) as one:
        one.add([Message(id=1, content="the only message in its blocks")])
        found = one.search("only")
        assert sum(block.mass for block in found.trace.blocks) == pytest.approx(1)
        assert found.hits[0].score == pytest.approx(max(block.mass for block in found.trace.blocks))
        assert found.hits[0].block == found.trace.blocks[0].block


def test_equal_scores_keep_the_order_of_the_messages():
    shares = [(0.5, 9, {"late": 1.0}), (0.5, 4, {"b": 0.5, "c": 0.5}), (0.5, 3, {"a": 0.5, "b": 0.5})]
    assert [one for one, _, _ in rank_messages(shares)] == ["late", "a", "b", "c"]
    assert rank_messages(shares) == rank_messages(shares[::-1])
    assert rank_messages(shares)[2] == ("b", 0.5 * 0.5**0.5, 3)


def test_a_search_twice_is_the_same(memory):
    one, other = (memory.search("plain", 20, where=MARCH, neighbours=1) for _ in range(2))
    assert one.hits == other.hits


@pytest.mark.parametrize("mode", MODES)
def test_neighbours_come_once_and_hits_not_again(memory, mode):
    plain, found = (memory.search("plain", 8, mode=mode, neighbours=n) for n in (0, 2))
    assert ids(found) == ids(plain) and not any(hit.before or hit.after for hit in plain.hits)
    shown = set(ids(found))
    for hit in found.hits:
        (at,) = hit.message_ids
        wanted = [[i for i in side if 0 <= i < 60 and i not in shown] for side in ((at - 2, at - 1), (at + 1, at + 2))]
        assert [[one.id for one in side] for side in (hit.before, hit.after)] == wanted
        shown |= {*wanted[0], *wanted[1]}
    assert found.hits[0].before or found.hits[0].after


def test_neighbours_need_not_match_the_filter(memory):
    hits = memory.search("plain", 6, where=MARCH, neighbours=1).hits
    assert [[one.id for one in hit.before + hit.after] for hit in hits] == [
        [hit.message_ids[0] - 1, hit.message_ids[0] + 1] for hit in hits
    ]
    assert hits[0].before[0] == CHAT[hits[0].message_ids[0] - 1]


def test_a_time_in_the_query_narrows_the_search(memory):
    pytest.importorskip("dateparser")
    now = datetime(2025, 4, 20, tzinfo=UTC)
    found = memory.search("what was said in March", 99, parse_time=True, now=now)
    assert set(ids(found)) == IN_MARCH
    assert found.when.expressions == ["in March"] and found.when.since == datetime(2025, 3, 1, tzinfo=UTC)
    both = memory.search("what was said in March", 99, parse_time=True, now=now, where={"until": "2025-03-17"})
    # the earlier of both ends
    assert set(ids(both)) == {i for i in IN_MARCH if CHAT[i].time < "2025-03-18"} != IN_MARCH
    nothing = memory.search("what was said in March", parse_time=True, now=now, where={"since": "2025-04-01"})
    assert nothing.hits == []


def test_a_query_without_a_time_is_as_before(memory):
    pytest.importorskip("dateparser")
    plain, found = memory.search("what may I cook"), memory.search("what may I cook", parse_time=True)
    assert found.hits == plain.hits and found.when is None
    assert memory.search("in March 2025").when is None


async def test_async_twin(memory):
    options = {"where": MARCH, "neighbours": 1, "mode": "hybrid"}
    assert (await memory.asearch("plain", 3, **options)).hits == memory.search("plain", 3, **options).hits


def test_the_same_from_a_file(memory, tmp_path):
    with Memory.open(tmp_path / "m.db", model=memory.model) as other:
        other.add(CHAT)
        for mode in MODES[:2]:
            one, two = (each.search("7 says", 9, mode=mode, where=MARCH, neighbours=2) for each in (memory, other))
            assert [(hit.message_ids, hit.score, hit.before) for hit in one.hits] == [
                (hit.message_ids, hit.score, hit.before) for hit in two.hits
            ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"where": "user"}, "a Filter of roles, since, until, metadata, got 'user'"),
        ({"where": 7}, "a Filter of roles, since, until, metadata, got 7"),
        ({"where": {"role": "user"}}, "a Filter of roles, since, until, metadata, got 'role' in {'role': 'user'}"),
        ({"where": {"roles": "user"}}, "roles to be a list of roles, at least one, got 'user'"),
        ({"where": {"roles": []}}, "roles to be a list of roles, at least one, got []"),
        ({"where": {"roles": ["user", 7]}}, "roles to be a list of roles, at least one, got 7"),
        ({"where": {"since": "last week"}}, f"since to be {ISO}, got 'last week'"),
        ({"where": {"until": "2025-02-30"}}, f"until to be {ISO}, got '2025-02-30'"),
        ({"where": {"until": "9999-12-31"}}, "until to be a day before the last of all, got '9999-12-31'"),
        (
            {"where": {"since": "2025-02-01", "until": "2025-01-01"}},
            "since to be before until: no time is at or after 2025-02-01T00:00:00+00:00 and before "
            "2025-01-02T00:00:00+00:00",
        ),
        ({"where": {"since": 7}}, f"since to be {ISO}, got 7"),
        (
            {"where": {"metadata": {"a": [1]}}},
            "metadata to be a mapping of keys to texts, finite numbers, true, false or None, got [1]",
        ),
        ({"neighbours": -1}, "neighbours of at least 0, got -1"),
        ({"neighbours": True}, "neighbours of at least 0, a whole number, got True"),
        ({"now": "2025-01-01"}, "now to be a datetime, got '2025-01-01'"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_sentence(memory, options, said):
    with pytest.raises(InvalidArgument) as raised:
        memory.search("plain", **options)
    assert str(raised.value) == f"expected {said}"


def test_a_search_that_names_no_mode_has_that_of_the_config(memory, monkeypatch):
    found = {mode: [hit.score for hit in memory.search("plain things", 60, mode=mode).hits] for mode in MODES}
    assert found["hybrid"] not in (found["hierarchical"], found["flat"])
    assert [hit.score for hit in memory.search("plain things", 60).hits] == found["hybrid"]
    config = memory.config.recall.model_copy(update={"search_mode": "flat"})
    monkeypatch.setattr(memory, "config", memory.config.model_copy(update={"recall": config}))
    assert [hit.score for hit in memory.search("plain things", 60).hits] == found["flat"]
