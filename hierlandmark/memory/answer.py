"""One answer over what a recall can see: the prompt through a local window, blocks read in every memory layer."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from hierlandmark.memory.pieces import Pieces
from hierlandmark.memory.trace import attended_trace
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.model.generate import Choose, generate, greedy
from hierlandmark.recall import Recall, Source
from hierlandmark.results import Answer, Cost, SearchResult
from hierlandmark.store import InMemoryStore
from hierlandmark.store.protocol import MessageRun


def answer(
    model: LandmarkModel,
    recall: Recall,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    choose: Choose = greedy,
    on_token: Callable[[str], None] | None = None,
    began: float | None = None,
) -> Answer:
    """Tokens after a prompt, with what they cost and why they were made.

    Args:
        recall: begun for this query; its mode says how segments are chosen.
        prompt: token ids.
        choose: the next token, as in `generate`.
        on_token: called with each piece of text as it is made.
        began: `time.perf_counter()` where the query began; by default now.
    """
    began = time.perf_counter() if began is None else began
    # what outgrows the window is remembered for this answer only
    scratch = InMemoryStore(recall.spec)
    stored = recall.n_segments

    def keep(tokens: list[int]) -> None:
        nonlocal recall
        name = f"{len(scratch.namespaces())}"
        run = [MessageRun(0, len(tokens))]
        here = Message(id=0, role="window", content=model.decode(tokens) or " ")
        scratch.append(name, [here], model.encode(np.asarray(tokens, dtype=np.int32), run))
        window = Source(scratch, *scratch.index(name), scratch=True)
        grown = model.recall([*recall.sources, window], recall.config)
        grown.go_on_from(recall)
        recall = grown

    recall.watch(model.core.heads)
    pieces = Pieces(model.decode, on_token) if on_token else None
    # a search that chose what is recalled, among other things
    waited = time.perf_counter() - began
    made = generate(
        model.core,
        lambda: model.window(recall),
        keep,
        prompt,
        max_new_tokens=max_new_tokens,
        stop=model.stop_tokens,
        choose=choose,
        on_token=pieces.add if pieces else None,
    )
    if pieces:
        pieces.end()
    trace = attended_trace(recall, model.decode, stored)
    cost = recall.tally.cost((time.perf_counter() - began) * 1e3)
    return Answer(
        text=model.decode(made.tokens),
        tokens=made.tokens,
        cost=cost,
        finish_reason=made.finish_reason,
        trace=trace,
        first_token_s=waited + made.times[0],
        per_token_s=made.per_token_s,
    )


def answered_among(said: Answer, found: SearchResult) -> Answer:
    """The answer with the messages that it was made from, and the work of the search that found them."""
    one, other = found.cost, said.cost
    work = {name: getattr(one, name) + getattr(other, name) for name in Cost.model_fields if name != "ms"}
    ids = [message_id for hit in found.hits for message_id in hit.message_ids]
    # both began together
    return said.model_copy(update={"cost": Cost(**work, ms=other.ms), "among": ids, "found": found.hits})
