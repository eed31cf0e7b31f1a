"""Which messages a search may find: by role, time and metadata. No torch."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hierlandmark.messages import Message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)
# what one value of metadata is compared with
Scalar = str | int | float | bool | None


def aware(moment: datetime) -> datetime:
    """The moment itself, or in UTC where it names no zone."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def instant(text: str | None) -> int | None:
    """Microseconds since 1970 of an ISO 8601 text, UTC where it names no zone; None for anything else.

    A date alone is its first moment.

    >>> instant("1970-01-02"), instant("1970-01-01T01:00:00+01:00"), instant("yesterday")
    (86400000000, 0, None)
    """
    try:
        return None if text is None else microseconds(datetime.fromisoformat(text))
    except ValueError:
        return None


def microseconds(moment: datetime) -> int:
    """Since 1970; UTC where it names no zone."""
    return (aware(moment) - _EPOCH) // _MICROSECOND


def _as_moment(value: Any, end: bool) -> Any:
    """A date alone is a whole day: its first moment, or as an end that of the next day."""
    if isinstance(value, str):
        try:
            whole = date.fromisoformat(value)
        except ValueError:
            return datetime.fromisoformat(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        whole = value
    elif isinstance(value, datetime):
        return value
    else:
        raise ValueError(f"expected an ISO 8601 text, a datetime or a date, got {value!r}")
    try:
        return datetime.combine(whole + _DAY if end else whole, time(), tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{whole} has no next day") from error


Since = Annotated[datetime, BeforeValidator(lambda value: _as_moment(value, False)), AfterValidator(aware)]
Until = Annotated[datetime, BeforeValidator(lambda value: _as_moment(value, True)), AfterValidator(aware)]


class Filter(BaseModel):
    """Which messages count; every condition that is given must hold.

    Times are ISO 8601 texts, datetimes or dates. One without a zone is in UTC, and so is a message's. A message whose
    time is missing or not ISO 8601 matches no condition on time.

    >>> Filter(roles=["user"], since="2024-03-01", until="2024-03-31").until.isoformat()
    '2024-04-01T00:00:00+00:00'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # any of these
    roles: tuple[str, ...] | None = Field(default=None, min_length=1)
    # at or after; a date alone: from its start
    since: Since | None = None
    # before; a date alone: to its end
    until: Until | None = None
    # each key there, its value equal, or a list that holds it; 1 and 1.0 are equal, 1 and true are not
    metadata: dict[str, Scalar] = Field(default_factory=dict, strict=True)

    @model_validator(mode="after")
    def _not_empty(self) -> "Filter":
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"no time is at or after {self.since.isoformat()} and before {self.until.isoformat()}")
        return self

    @property
    def everything(self) -> bool:
        """Whether it leaves nothing out."""
        return self.roles is None and self.since is None and self.until is None and not self.metadata


class TimeSpan(BaseModel):
    """What the time expressions of a query came to: at or after `since`, before `until`, None where open."""

    model_config = ConfigDict(frozen=True)

    # as they stand in the query
    expressions: list[str]
    since: datetime | None = None
    until: datetime | None = None

    def narrow(self, where: Filter | None) -> Filter:
        """What is in both this span and the filter; where no time is, it lets nothing through."""
        where = where or Filter()
        sinces = [one for one in (self.since, where.since) if one is not None]
        untils = [one for one in (self.until, where.until) if one is not None]
        # unchecked: the filter of no time is one that nobody may ask for, and it is right here
        return where.model_copy(update={"since": max(sinces, default=None), "until": min(untils, default=None)})


def matches(where: Filter, message: Message) -> bool:
    """Whether the filter lets the message through."""
    if where.roles is not None and message.role not in where.roles:
        return False
    if where.since is not None or where.until is not None:
        at = instant(message.time)
        if at is None or (where.since is not None and at < microseconds(where.since)):
            return False
        if where.until is not None and at >= microseconds(where.until):
            return False
    return has_metadata(where, message.metadata)


def has_metadata(where: Filter, metadata: dict[str, Any]) -> bool:
    """Whether all keys are there with these values."""
    return all(key in metadata and _holds(metadata[key], value) for key, value in where.metadata.items())


def _holds(held: Any, value: Scalar) -> bool:
    return any(_equal(one, value) for one in held) if isinstance(held, list) else _equal(held, value)


def _equal(held: Any, value: Scalar) -> bool:
    # true is no 1, as in JSON
    return isinstance(held, bool) == isinstance(value, bool) and held == value
