"""Configurations: a wrong value is one sentence of the library's own."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hierlandmark.config import LayoutConfig, MemoryConfig, RecallConfig
from hierlandmark.errors import InvalidArgument

CONFIGS = {config.__name__: config for config in (LayoutConfig, RecallConfig, MemoryConfig)}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("RecallConfig", {"blocks": 0}, "expected blocks to be 1 or more, got 0"),
        ("RecallConfig", {"stride": 0}, "expected stride to be 1 or more, got 0"),
        ("RecallConfig", {"threshold": 2}, "expected threshold to be from 0 to under 1, got 2"),
        ("RecallConfig", {"threshold": float("nan")}, "expected threshold to be from 0 to under 1, got nan"),
        ("RecallConfig", {"blocks": "x"}, "expected blocks to be a valid integer, 1 or more, got 'x'"),
        ("RecallConfig", {"blocks": 1.5}, "expected blocks to be a valid integer, 1 or more, got 1.5"),
        ("RecallConfig", {"blocks": 2.0}, "expected blocks to be a valid integer, 1 or more, got 2.0"),
        ("RecallConfig", {"segments": "7"}, "expected segments to be a valid integer, 1 or more, got '7'"),
        ("RecallConfig", {"segments": True}, "expected segments to be a valid integer, 1 or more, got True"),
        ("RecallConfig", {"segments": np.int64(0)}, "expected segments to be 1 or more, got 0"),
        ("RecallConfig", {"threshold": "0.1"}, "expected threshold to be a valid number, from 0 to under 1, got '0.1'"),
        ("RecallConfig", {"threshold": False}, "expected threshold to be a valid number, from 0 to under 1, got False"),
        ("LayoutConfig", {"sink": 1}, "expected sink to be a valid boolean, got 1"),
        ("RecallConfig", {"mode": "deep"}, "expected mode to be 'hierarchical' or 'flat', got 'deep'"),
        (
            "RecallConfig",
            {"granularity": 1},
            "expected granularity to be 'head_token', 'head', 'token' or 'shared', got 1",
        ),
        ("LayoutConfig", {"block_size": 3}, "expected block_size to be 4 or more, got 3"),
        ("LayoutConfig", {"gate": 1}, "LayoutConfig has no 'gate'; it has block_size, blocks_per_segment, sink"),
        ("MemoryConfig", {"kv_budget_bytes": -1}, "expected kv_budget_bytes to be 0 or more, got -1"),
        ("MemoryConfig", {"keep": "none"}, "expected keep to be 'all' or 'search', got 'none'"),
        ("MemoryConfig", {"recall": {"blocks": 0}}, "recall: expected blocks to be 1 or more, got 0"),
        ("MemoryConfig", {"recall": 5}, "expected recall to be a valid dictionary or instance of RecallConfig, got 5"),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_sentence(name: str, given: dict[str, Any], said: str) -> None:
    # who caught what pydantic raised as a ValueError still does
    with pytest.raises(ValueError) as told:
        CONFIGS[name](**given)
    assert isinstance(told.value, InvalidArgument)
    assert str(told.value).startswith(said) and "\n" not in str(told.value)


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"segments": np.int64(7), "blocks": np.uint8(3), "threshold": np.float32(0.5), "restored_bytes": 2**70}
    config = RecallConfig(**given)
    assert config == RecallConfig(segments=7, blocks=3, threshold=0.5, restored_bytes=2**70)
    assert all(type(getattr(config, name)) is int for name in ("segments", "blocks"))
    assert json.loads(config.model_dump_json())["segments"] == 7
    assert RecallConfig(threshold=0).threshold == RecallConfig(threshold=np.int64(0)).threshold == 0


def test_a_configuration_is_read_from_json_and_copied_as_ever() -> None:
    config = MemoryConfig(recall=RecallConfig(blocks=3), keep="search")
    assert MemoryConfig.model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config.model_copy() == config
    with pytest.raises(ValidationError, match="expected blocks to be 1 or more, got 0"):
        MemoryConfig.model_validate({"recall": {"blocks": 0}})
