"""The base model read whole, which the two modes are measured against."""

import pytest
import torch

from hierlandmark.errors import ModelUnavailable
from hierlandmark.model import LandmarkModel
from hierlandmark.testing import tiny_base, tiny_model

TEXT = "it was the best of times, it was the worst of times"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_full_likelihood_is_the_base_models_own(model):
    tokens = model.tokenize(TEXT)
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        logits = tiny_base()(ids).logits[0, :-1].log_softmax(-1)
    assert model.nll(tokens, mode="full") == pytest.approx(
        (-logits.gather(1, ids[0, 1:, None])[:, 0]).tolist(), abs=1e-4
    )


@pytest.mark.parametrize("mode", ["hierarchical", "flat", "full"])
def test_one_number_for_each_token_but_the_first(model, mode):
    capacity = model.layout.segment_capacity
    for n in (0, 1, 2, 7, capacity, capacity + 1, 2 * capacity + 5):
        nats = model.nll([65 + i % 20 for i in range(n)], mode=mode)
        assert len(nats) == max(0, n - 1)
        assert all(x >= 0 for x in nats)


def test_full_answers_are_transformers_own(model):
    base = tiny_base()
    ids = torch.tensor([model.tokenize(TEXT)])
    wanted = base.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    answer = model.complete_full(TEXT, max_new_tokens=8)
    ends = [i for i, token in enumerate(wanted) if token in model.stop_tokens]
    assert answer.tokens == wanted[: ends[0] if ends else None]
    assert answer.first_token_s > 0
    assert answer.text == model.decode(answer.tokens)


def test_without_a_base_model_the_comparison_is_refused(model):
    alone = LandmarkModel(model.core, model.tokenizer, "digest")
    with pytest.raises(ModelUnavailable):
        alone.complete_full(TEXT, max_new_tokens=1)
