"""One layer's query -> select -> read blocks -> attention over what was read."""

from hierlandmark.recall.tensors import to_array, to_tensor
from hierlandmark.recall.view import NEG, Attended, Recall, Source, Tally

__all__ = ["NEG", "Attended", "Recall", "Source", "Tally", "to_array", "to_tensor"]
