"""A base model whose attention landmarks cannot replace is refused by name, not run to wrong answers."""

import pytest
import torch

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import UnsupportedModel
from hierlandmark.model.check import check_base
from hierlandmark.model.core import LandmarkCore
from hierlandmark.testing import SMALL, tiny_model

SHAPE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def core_of(kind: str, layout: LayoutConfig = SMALL, **options) -> LandmarkCore:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SHAPE, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LandmarkCore(AutoModelForCausalLM.from_config(config).eval(), layout, 0)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"])
def test_tested_families_pass(family):
    check_base(tiny_model(family).core)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gemma_passes_in_any_precision(dtype):
    check_base(core_of("gemma").to(dtype))


def test_scaled_positions_pass():
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    check_base(core_of("llama", rope_parameters=yarn))


REFUSED = {
    "capped logits": ("gemma2", {}),
    "layers without positions": ("smollm3", {"no_rope_layers": [1, 0], "no_rope_layer_interval": 2}),
    "neighbours rotated as pairs": ("cohere", {}),
    "part of a head rotated": ("stablelm", {}),
    "one projection for queries, keys and values": ("phi3", {}),
    "no rotation at all": ("gpt2", {}),
    "a window shorter than a segment": ("mistral", {"sliding_window": 31}),
}


@pytest.mark.parametrize(("kind", "options"), REFUSED.values(), ids=REFUSED)
def test_others_are_refused_by_name(kind, options):
    with pytest.raises(UnsupportedModel):
        check_base(core_of(kind, **options))


def test_a_window_as_long_as_a_segment_passes():
    check_base(core_of("mistral", sliding_window=32))
