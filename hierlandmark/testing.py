"""Public fakes: a tiny random model and a byte tokenizer, so that the whole life of a message runs in seconds.

They prove mechanics only: what such a model finds and answers is noise. For your own tests:

    from hierlandmark import Memory
    from hierlandmark.testing import tiny_model

    memory = Memory.open(":memory:", model=tiny_model())
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from hierlandmark.config import LayoutConfig
from hierlandmark.model import LandmarkModel
from hierlandmark.model.core import LandmarkCore

Family = Literal["llama", "mistral", "qwen2", "qwen3", "gemma3_text"]
SMALL = LayoutConfig(block_size=8, blocks_per_segment=4)


class ByteTokenizer:
    """Text as UTF-8 bytes, one id each; ids 256 and 257 begin and end a text."""

    bos_token_id, eos_token_id = 256, 257
    chat_template = None
    all_special_ids = (256, 257)

    def __len__(self) -> int:
        return 258

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Bytes back to text; what is no UTF-8 becomes a replacement mark."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")


def tiny_base(family: Family = "llama", *, seed: int = 0) -> Any:
    """A random causal language model of two layers, four query heads in two groups, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 257,
        "tie_word_embeddings": True,
    }
    config = AutoConfig.for_model(family, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # the usual small start makes all attention nearly even; larger weights tell keys apart
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_tiny(folder: Path, family: Family = "llama", *, seed: int = 0) -> Path:
    """`tiny_base` and a fast tokenizer of bytes in a folder, as transformers saves them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<s>", "</s>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    tiny_base(family, seed=seed).save_pretrained(folder)
    return folder


def tiny_model(
    family: Family = "llama", *, layout: LayoutConfig = SMALL, seed: int = 0, memory_layers: Sequence[int] = ()
) -> LandmarkModel:
    """A `LandmarkModel` over `tiny_base`, with random landmark and gate rows; keys and values kept in float32.

    Args:
        memory_layers: those of its layers that look into a memory; none named: all of them.
    """
    base = tiny_base(family, seed=seed)
    core = LandmarkCore(base, layout, ByteTokenizer.bos_token_id, memory_layers=memory_layers)
    with torch.no_grad():
        core.rows.copy_(torch.randn(core.rows.shape, generator=torch.Generator().manual_seed(seed)) * 0.3)
    digest = f"tiny-{family}-{seed}-{layout.model_dump_json()}"
    return LandmarkModel(
        core, ByteTokenizer(), digest, kv_dtype=torch.float32, load_base=lambda: tiny_base(family, seed=seed)
    )
