"""The lower layers of a network with weights of their own, beside the network."""

import copy
from typing import Any

from hierlandmark.model.binding import decoder_of


def lower_layers(network: Any, count: int) -> Any:
    """A copy of a causal language model that is cut behind `count` layers; everything but these is shared with it."""
    decoder = decoder_of(network)
    own = set(map(id, decoder.layers[:count].modules()))
    # a copy finds what is to be shared among what it has copied already
    shared = {id(leaf): leaf for leaf in network.modules() if id(leaf) not in own and not list(leaf.children())}
    lower = copy.deepcopy(network, shared)
    cut = decoder_of(lower)
    cut.layers = cut.layers[:count]
    cut.config.num_hidden_layers = count
    if kinds := getattr(cut.config, "layer_types", None):
        cut.config.layer_types = list(kinds)[:count]
    return lower
