"""A message, as users add it and as searches return it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# strings and integers are different ids: 1 is not "1", and both are kept as they came
MessageId = int | str


class Message(BaseModel):
    """One turn of a chat, or one document."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: MessageId
    role: str = "user"
    content: str
    # ISO 8601, kept as it came
    time: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
