"""Named errors. Each says what was expected, what came, and what to do."""

from collections.abc import Callable, Mapping
from typing import Self


class HierLandmarkError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: what was expected and what came, and what to do where that is the same for everyone.
        python: what to do in the names of the Python API; put behind the message.
        command: what to do in the names of the command line, which shows this instead; as `python` if not given.
    """

    def __init__(self, message: str = "", *, python: str = "", command: str = "") -> None:
        super().__init__(f"{message}; {python}" if python else message)
        self.on_command_line = f"{message}; {command}" if command else str(self)

    @classmethod
    def naming(
        cls,
        tell: Callable[[Callable[[str], str]], str],
        *,
        options: Mapping[str, str] | None = None,
        python: str = "",
        command: str = "",
    ) -> Self:
        """An error whose message names arguments; the command line calls them as its options.

        Args:
            tell: makes the message, given what turns an argument's name into what it is called there.
            options: of arguments that the command line calls otherwise than by their name with dashes.
            python: as for the error itself.
            command: as for the error itself.

        >>> error = InvalidArgument.naming(lambda name: f"expected {name('gate_queue')} of 0 or more, got -1")
        >>> str(error), error.on_command_line
        ('expected gate_queue of 0 or more, got -1', 'expected --gate-queue of 0 or more, got -1')
        """
        called = options or {}
        error = cls(tell(str), python=python)
        shown = tell(lambda name: called.get(name, f"--{name.replace('_', '-')}"))
        error.on_command_line = cls(shown, python=command or python).on_command_line
        return error


class ModelMismatch(HierLandmarkError):
    """The database was written by another base model, adapter or layout."""


class ModelUnavailable(HierLandmarkError):
    """The default model, or the one asked for, is not on this machine."""


class AdapterInvalid(HierLandmarkError):
    """An adapter folder lacks a file or does not fit the base model."""


class KeepMismatch(HierLandmarkError):
    """The database was made for search only and is asked to answer, or is opened with another `keep`."""


class StoreCorrupt(HierLandmarkError):
    """The database cannot be read, is truncated, or a checksum fails."""


class StoreTooNew(HierLandmarkError):
    """A later version of hierlandmark wrote this database."""


class StoreNotWritable(HierLandmarkError):
    """The folder is read-only, the disk is full, or the database is locked."""


class NamespaceNotFound(HierLandmarkError):
    """No message is remembered under this namespace: none was added, all were forgotten, or there is no file."""


class IndexNotFound(HierLandmarkError):
    """A search is to use an index, and none was built."""


class MessageNotFound(HierLandmarkError):
    """A message id is not in this namespace."""


class DuplicateMessageId(HierLandmarkError):
    """A message id stands twice in one add, or is in the namespace already."""


class InvalidMessage(HierLandmarkError):
    """Empty, too large, or not encodable text, or a field of the wrong type."""


class InvalidChatFile(HierLandmarkError):
    """A chat file holds a line that is not a conversation; the line number is given."""


class InvalidArgument(HierLandmarkError, ValueError):
    """A parameter is outside its range, k = 0 among them."""


class MissingExtra(HierLandmarkError, ImportError):
    """An optional library is not installed; the message names the extra."""


class UnsupportedModel(HierLandmarkError):
    """The base model has a kind of attention that landmarks cannot replace."""


class TrainingDiverged(HierLandmarkError):
    """The gradient norm spiked again and again; the last good checkpoint is kept."""
