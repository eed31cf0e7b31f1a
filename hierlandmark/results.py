"""What searches, answers and counts look like to a user."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hierlandmark.filters import TimeSpan
from hierlandmark.messages import Message, MessageId


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cost(_Frozen):
    """Work one query did, summed over layers and, for an answer, over the steps that made its tokens."""

    # keys scored, once per layer, KV head and step
    gate_keys: int = 0
    landmark_keys: int = 0
    # (layer, block) pairs whose keys and values were attended to, counted again at each step that did so
    blocks_read: int = 0
    # bytes of gates, landmarks, keys and values fetched from the database or its index: gates by the first query after
    # a change, the rest unless a cache held them already
    bytes_read: int = 0
    # wall time, milliseconds, the loading of the model left out
    ms: float = 0.0


class HeadMass(_Frozen):
    """One head's part of a mass: those of all heads together are the mass of the segment or block.

    For a search whose adapter ranks by "sum" they are not: there a head's is what it would give by a softmax of its own
    logits, as a share of what all heads would.
    """

    layer: int
    head: int
    mass: float


class SegmentTrace(_Frozen):
    """One segment's share, 0 to 1, of the mass that all heads gave to gates, and the heads that gave most of it.

    All heads of all layers and steps for an answer; the retrieval heads, by weight, for a search, or under "sum" what
    they give as one. In flat mode the mass of a segment is its landmarks', in mode index a share of what went to the
    opened ones.
    """

    segment: int
    mass: float
    heads: list[HeadMass] = Field(default_factory=list)


class BlockTrace(_Frozen):
    """One block's share, 0 to 1, of the mass that went to blocks, its text, and the heads that gave most of it.

    For an answer the blocks it read, for a search those of the segments it opened.
    """

    block: int
    segment: int
    mass: float
    text: str = ""
    message_ids: list[MessageId] = Field(default_factory=list)
    heads: list[HeadMass] = Field(default_factory=list)


class Trace(_Frozen):
    """Why: segments and blocks by mass, greatest first."""

    segments: list[SegmentTrace] = Field(default_factory=list)
    blocks: list[BlockTrace] = Field(default_factory=list)


class Hit(_Frozen):
    """One found message.

    Scores compare within one search only; higher is better, and equal ones keep the order of the messages.

    hierarchical, flat, index: 0 to 1. The mass that the message gets of the retriever's attention over what was looked
    at and may be found (in flat mode every block). That is one softmax over blocks, of the heads' summed logits, times
    the message's part of the one inside the block (of the block's tokens, where its keys were not read), summed over
    all blocks that hold tokens of it, over one more than the blocks that it would fill. A softmax always gives its mass
    to something: a high score is no proof that the memory knows.

    Where the adapter ranks by "votes" (`AdapterMeta.ranking`; the shipped one ranks by "sum"): the share of the
    retrieval heads' votes that went to the message's best block, of their votes on all blocks that were looked at and
    may be found, times the root of the message's part of the attention inside the block. Each head votes by a softmax
    of its own.

    hybrid: the score above times e to the power of 3 w - 3, where w is 0 for a message with none of the query's words
    and 1 for the best match: BM25, of the first 100 (or k), over the root of one more than the blocks that the message
    would fill. Segments of the best matches are opened too; what BM25 finds elsewhere has the least score of any that
    the landmarks found. Where two messages at most have any of the words, these have .3 of the landmarks' best score at
    least.
    """

    # its id, alone in a list
    message_ids: list[MessageId]
    text: str
    score: float
    # the block that gave most of the score, or all of it, and its segment
    block: int
    segment: int
    # what a hybrid score is made of; None in other modes. By landmarks alone, None where words alone found it, in a
    # segment that was not opened; and w, 0 where its words found nothing
    landmarks: float | None = None
    words: float | None = None
    # the message, alone in a list
    messages: list[Message] = Field(default_factory=list)
    # what stands before and after it in the memory, in order, where neighbours were asked for: context, not found
    before: list[Message] = Field(default_factory=list)
    after: list[Message] = Field(default_factory=list)


class SearchResult(_Frozen):
    """Hits, best first, what they cost and why."""

    hits: list[Hit]
    cost: Cost
    trace: Trace = Trace()
    # what the query's time expressions came to, where they were asked for and it has some: hits are from this span
    when: TimeSpan | None = None


class Answer(_Frozen):
    """Generated text, its token ids, what was read for it and why."""

    text: str
    tokens: list[int]
    cost: Cost
    # "stop" where it ended by itself, "length" where `max_new_tokens` cut it
    finish_reason: Literal["stop", "length"] = "stop"
    trace: Trace = Trace()
    # seconds from the call to the first generated token, and for each token after it (mean)
    first_token_s: float = 0.0
    per_token_s: float = 0.0
    # the messages that `among` found, best first; None where it was to answer from all
    among: list[MessageId] | None = None
    # the same as hits of that search, with their texts and scores
    found: list[Hit] = []


class AddReport(_Frozen):
    """What one `add` wrote."""

    messages: int
    tokens: int
    segments: int
    seconds: float


class IndexReport(_Frozen):
    """What one `build_index` made."""

    segments: int
    blocks: int
    # on disk, or in memory where the store is
    bytes: int
    seconds: float


class IndexStats(_Frozen):
    """What an index holds of a namespace as it is now."""

    # in it
    segments: int = 0
    # of them, still as they were when it was built
    current: int = 0
    # of the namespace, not in it: a search in mode "index" looks at them beside it, one by one
    behind: int = 0
    # on disk, or in memory where the store is
    bytes: int = 0
    # why it cannot be used, if it cannot: damaged, of another model or, told where one is loaded, of other heads
    problem: str | None = None


class MemoryStats(_Frozen):
    """Size of one namespace on disk."""

    namespace: str
    # of the whole database: "search" where it holds only what a search looks at
    keep: Literal["all", "search"] = "all"
    messages: int
    tokens: int
    segments: int
    blocks: int
    kv_bytes: int
    key_bytes: int
    text_bytes: int
    file_bytes: int
    # None where none was built; its files are not in file_bytes
    index: IndexStats | None = None
