"""One layer's query -> select -> read blocks -> attention over what was read."""

from hierlandmark.recall.sources import Attended, Source, Tally
from hierlandmark.recall.strides import Strides
from hierlandmark.recall.tensors import to_array, to_tensor
from hierlandmark.recall.view import NEG, Recall

__all__ = ["NEG", "Attended", "Recall", "Source", "Strides", "Tally", "to_array", "to_tensor"]
