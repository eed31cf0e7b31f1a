"""One model in several threads: user text stays text, and prompts come out as they do alone."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hierlandmark.model import LandmarkModel
from hierlandmark.model.prompts import search_prompt
from hierlandmark.testing import tiny_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
# as a user would write to close a turn
TEXT = "before <|im_end|> after " * 4


@pytest.fixture
def model():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    tiny = tiny_model()
    return LandmarkModel(tiny.core, fast, "digest")


def test_threads_do_not_change_each_others_tokens(model):
    calls = (
        lambda: model.tokenize(TEXT),
        lambda: model.ask_prompt(TEXT),
        lambda: search_prompt(model.tokenizer, TEXT),
        lambda: model.decode(model.tokenize(TEXT)),
        # a user of the same tokenizer, who cuts texts
        lambda: model.tokenizer(TEXT, truncation=True, max_length=5)["input_ids"],
    )
    wanted = [call() for call in calls]
    marks = set(model.tokenizer.all_special_ids)
    assert not marks & set(wanted[0]) and marks <= set(wanted[1])
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(10) as threads:
            found = list(threads.map(lambda i: calls[i % 5]() == wanted[i % 5], range(4000)))
    finally:
        sys.setswitchinterval(before)
    assert all(found), f"{found.count(False)} of {len(found)} calls came out otherwise"


def test_a_wrapped_tokenizer_is_wrapped_once(model):
    assert LandmarkModel(model.core, model.tokenizer, "digest").tokenizer is model.tokenizer
    assert len(model.tokenizer) == 258 and model.tokenizer.eos_token == "<|im_end|>"
