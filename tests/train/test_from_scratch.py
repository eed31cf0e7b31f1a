"""The training loop on another base: a tiny Qwen 3 of random weights learns passkeys, and finds them four times as far.

Everything is trained: there is no pretrained base under it, so no LoRA. A minute on one quiet core.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hierlandmark import Memory
from hierlandmark.eval import passkey
from hierlandmark.eval.fillers import Grass
from hierlandmark.store import SQLiteStore
from hierlandmark.train.loop import train
from tests.train.scratch import CONFIG, LARGEST, LONGEST, Passkeys, WordTokenizer, as_model, random_core


def trained_model(family, seed, folder):
    """The model and the rows of its log."""
    tokenizer = WordTokenizer()
    core = random_core(family, tokenizer, seed)
    assert all(parameter.requires_grad for parameter in core.parameters())
    rows = train(core, Passkeys(replace(CONFIG, seed=seed), tokenizer), folder)
    return as_model(core, tokenizer), rows


def accuracy(model, length, trials, mode="hierarchical"):
    """Share of the keys that are found, each trial through a database of its own."""
    read = passkey.memory_reader(lambda path: Memory.open(path, model=model), mode)
    options = {"lengths": [length], "trials": trials, "mode": mode}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passkey, "LARGEST", LARGEST)
        return list(passkey.evaluate_passkey(read, model.tokenize, Grass(), **options))[-1]["accuracy"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    threads = torch.get_num_threads()
    # tensors this small are slower on several threads
    torch.set_num_threads(1)
    try:
        yield trained_model("qwen3", 0, tmp_path_factory.mktemp("scratch"))
    finally:
        torch.set_num_threads(threads)


def test_passkeys_are_found_at_four_times_the_training_length(trained):
    model, rows = trained
    longest = max(row["shape"][1] for row in rows) - 1
    # what it was trained on, from the batches themselves
    assert longest * model.layout.segment_capacity == LONGEST
    assert accuracy(model, 4 * LONGEST, 50) >= 0.9


def test_without_its_gates_it_does_not_find_them(trained, monkeypatch):
    model, _ = trained
    plain = SQLiteStore.index

    def misled(self, namespace):
        records, gates = plain(self, namespace)
        return records, np.roll(gates, len(gates) // 2, axis=0)

    monkeypatch.setattr(SQLiteStore, "index", misled)
    assert accuracy(model, 4 * LONGEST, 20) <= 0.4


def test_without_training_it_finds_none():
    tokenizer = WordTokenizer()
    assert accuracy(as_model(random_core("qwen3", tokenizer, 0), tokenizer), 4 * LONGEST, 5) == 0


def test_the_loop_skipped_hardly_a_step_and_learned_what_it_is_told(trained):
    _, rows = trained
    # random weights at a large step: a spike now and then depends on the order in which a machine adds
    assert sum(row["spiked"] for row in rows) <= len(rows) // 50
    assert np.mean([row["right"] for row in rows[-20:]]) > 0.95


def test_a_checkpoint_without_lora_holds_all_weights(tmp_path):
    """They are what is trained here; a run that has no step left to take has them as they were."""
    tokenizer = WordTokenizer()
    source = Passkeys(replace(CONFIG, steps=2), tokenizer)
    first, other = random_core("qwen3", tokenizer, 0), random_core("qwen3", tokenizer, 1)
    train(first, source, tmp_path)
    train(other, source, tmp_path, resume=True)
    again = dict(other.named_parameters())
    assert len(again) > 30
    for name, value in first.named_parameters():
        assert torch.equal(again[name], value)
