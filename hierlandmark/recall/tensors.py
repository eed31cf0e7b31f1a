"""Stored arrays and tensors: the same numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hierlandmark.store.protocol import KVSpec


def to_tensor(array: np.ndarray, spec: KVSpec) -> Tensor:
    """Stored numbers as a tensor: bfloat16 travels as uint16 bits."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if spec.dtype == "bfloat16" else tensor


def to_array(tensor: Tensor) -> np.ndarray:
    """The reverse of `to_tensor`."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def whole(numbers: Sequence[int]) -> Tensor:
    """As int64: torch takes three times as long to read a list."""
    return torch.from_numpy(np.array(numbers, np.int64))
