"""A tiny base model in a folder, as transformers saves it."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hierlandmark.testing import tiny_base


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<s>", "</s>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    tiny_base().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    book = folder / "book.txt"
    book.write_text("".join(f"On day {i} the {i % 7} ships of port {i % 11} left for the north. " for i in range(400)))
    chats = folder / "chats.jsonl"
    message = '{"id": %d, "role": "user", "content": "My number %d is %d."}'
    lines = ", ".join(message % (i, i, i * 37 % 101) for i in range(200))
    chats.write_text('{"id": 1, "messages": [' + lines + "]}\n")
    return book, chats
