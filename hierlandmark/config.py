"""The one configuration object: layout, selection, recall, disk."""

from numbers import Integral
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from hierlandmark.errors import InvalidArgument

Mode = Literal["hierarchical", "flat"]
# a search may also fuse the hierarchical ranking with one by words (BM25), or find segments through an index
SearchMode = Literal["hierarchical", "flat", "hybrid", "index"]
Granularity = Literal["head_token", "head", "token", "shared"]
# what the blocks that a hierarchical query reads are ranked and weighed by in the segments that gates opened
WeighBy = Literal["gates", "landmarks"]
# what an adapter is trained under: landmarks, or as a peer to compare with plain attention to all or the last tokens
Attention = Literal["landmark", "full", "window"]
# what a query attends to token by token
LocalWindow = Literal["block", "segment"]
# each segment on its own, so that its keys are a function of its text; encoding as a stream is not built yet
Encode = Literal["segment"]
# what a database stores of its text: keys and values of the layers that read it, or only the keys that a search looks
# at
Keep = Literal["all", "search"]
# which of a memory's keys: those that attention reads, or those that a search looks at
Use = Literal["read", "search"]


class _Config(BaseModel):
    """A frozen configuration that tells a wrong value as the rest of the library does."""

    # "7" and True are no counts
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _fault(type(self), error) from error

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        # integers of numpy are integers
        return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _fault(config: type[BaseModel], error: ValidationError) -> InvalidArgument:
    """One sentence on the first fault: the field, what it may be, and what came."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"{config.__name__} has no {name!r}; it has {', '.join(config.model_fields)}")
    if first["type"] == "value_error":
        # of a configuration in this one, or of several fields together
        return InvalidArgument(f"{name}: {first['ctx']['error']}".removeprefix(": "))
    bounds = _range(config.model_fields[name])
    kind = wanted_kind(first["msg"])
    # a number that is out of bounds is told all of them
    wanted = bounds if bounds and "ctx" in first else ", ".join(filter(None, (kind, bounds)))
    return InvalidArgument.naming(lambda called: f"expected {called(name)} to be {wanted}, got {first['input']!r:.80}")


def wanted_kind(message: str) -> str:
    """What pydantic says of a wrong type, less what is wrong with this one, or of the words that a field takes.

    Empty for what it cannot read at all.
    """
    _, _, kind = message.partition("Input should be ")
    return kind.split(", got ")[0].split(", unable ")[0]


def _range(field: FieldInfo) -> str:
    """The numbers that a field takes, such as `from 0 to under 1`; empty where it has no bounds."""
    bounds = {name: getattr(one, name) for one in field.metadata for name in ("ge", "lt", "le") if hasattr(one, name)}
    match bounds:
        case {"ge": least, "lt": over}:
            return f"from {least:g} to under {over:g}"
        case {"ge": least}:
            return f"{least:g} or more"
        case {"le": most}:
            return f"{most:g} or less"
    return ""


class LayoutConfig(_Config):
    """Where landmarks and gates stand. Part of the fingerprint: keys depend on it.

    Raises:
        InvalidArgument: a value is outside its range, of another type, or of a field that there is not.
    """

    # positions in a block, its landmark included (l_block + 1 in Mohtashami & Jaggi 2023, section 3.1)
    block_size: int = Field(default=64, ge=4)
    # blocks in a segment: the unit of encoding, deletion and gating
    blocks_per_segment: int = Field(default=8, ge=1)
    # a beginning-of-sequence token at the head of every segment, in P0 of all its queries (docs/design.md, "The sink")
    sink: bool = True
    # what a query attends to token by token: its own block, and earlier ones of its segment through their landmarks (as
    # in the paper), or its whole segment up to itself (docs/design.md, "The local window")
    local_window: LocalWindow = "block"

    @model_serializer(mode="wrap")
    def _as_ever(self, to_dict: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # databases and adapters are bound to what is written here: the default stays what it was before there was one
        written: dict[str, Any] = to_dict(self)
        if self.local_window == "block":
            written.pop("local_window", None)
        return written

    @property
    def own_segment(self) -> bool:
        """Whether the local window is a query's whole segment, and no landmark of it is looked at."""
        return self.local_window == "segment"

    @property
    def segment_size(self) -> int:
        """Positions in a full segment: content, landmarks, gate and sink."""
        return self.block_size * self.blocks_per_segment

    @property
    def segment_capacity(self) -> int:
        """Content tokens in a full segment."""
        return self.segment_size - self.blocks_per_segment - 1 - int(self.sink)

    @model_validator(mode="after")
    def _one_content_token_fits(self) -> "LayoutConfig":
        if self.block_size < 3 + int(self.sink):
            raise ValueError(f"block_size {self.block_size} leaves no content token beside landmark, gate and sink")
        return self


class RecallConfig(_Config):
    """What a query may open and read; changes no stored byte.

    Raises:
        InvalidArgument: a value is outside its range, of another type, or of a field that there is not.
    """

    # of answers: two trained levels, or every landmark scored as in the paper
    mode: Mode = "hierarchical"
    # of searches that name none; "hybrid" finds most in long chats (docs/results.md)
    search_mode: SearchMode = "hybrid"
    # an answer comes from the segments of so many messages, those that a hybrid search finds best; 0: from all
    among: int = Field(default=8, ge=0)
    # segments a query opens
    segments: int = Field(default=4, ge=1)
    # segments a search opens at least, or a sixteenth of all: it ranks messages, and wants more to choose from than a
    # head that reads
    search_segments: int = Field(default=20, ge=1)
    # cells of an index whose gates a search in mode "index" looks at, of about as many as the root of its segments
    index_cells: int = Field(default=24, ge=1)
    # blocks a query reads, k of the paper's section 3.2
    blocks: int = Field(default=4, ge=1)
    # who chooses its own blocks: each head at each token, each head, each token (the paper's Table 2), or all together
    granularity: Granularity = "head_token"
    # blocks of the segments that gates opened are ranked and weighed by gates and landmarks, two trained levels, or by
    # their landmarks alone in one softmax, as in flat mode (docs/design.md, "What gates weigh")
    weigh_by: WeighBy = "gates"
    # gate mass of a head and token under which nothing is read (the paper's Appendix D)
    threshold: float = Field(default=0.01, ge=0.0, lt=1.0)
    # tokens of an answer from one choice of a layer's blocks to the next; between them it reads on those it chose last
    # (the retrieval stride of Ram et al. 2023, arXiv 2302.00083). of several things told some may be missed: of four
    # values of a key 48% were found with 1, 40.5% with 2 (docs/results.md)
    stride: int = Field(default=1, ge=1)
    # blocks kept in memory per layer, least recently used first out
    cached_blocks: int = Field(default=256, ge=1)
    # bytes of dropped segments kept in memory once a query encoded them again; one that reads more encodes some again
    # in each layer
    restored_bytes: int = Field(default=2**30, ge=0)


class MemoryConfig(_Config):
    """How a memory encodes and what it accepts.

    Raises:
        InvalidArgument: a value is outside its range, of another type, or of a field that there is not.
    """

    recall: RecallConfig = RecallConfig()
    # segments on their own
    encode: Encode = "segment"
    # "search" runs and stores the layers that search needs only, and cannot answer; None is what the database was made
    # with, "all" where it is new
    keep: Keep | None = None
    # bytes of UTF-8 in one message
    max_message_bytes: int = Field(default=1_000_000, ge=1)
    # bytes of keys and values kept on disk per namespace by what this memory writes; older segments are encoded again
    # when needed
    kv_budget_bytes: int | None = Field(default=None, ge=0)
