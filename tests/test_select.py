"""The best are chosen: by each head and token, by each head, by each token."""

import pytest
import torch

from hierlandmark.select import block_weights, flat_weights, gate_mass, top, top_places

GRANULARITIES = ("head_token", "head", "token", "shared")
H, T, N = 3, 4, 7


def by_hand(mass, k, granularity, active):
    """The same choice, one head and one token at a time."""
    chosen = torch.zeros(mass.shape, dtype=torch.bool)
    for h in range(mass.shape[0]):
        for t in range(mass.shape[1]):
            if not active[h, t]:
                continue
            together = {
                "head_token": [(h, t)],
                "head": [(h, u) for u in range(mass.shape[1]) if active[h, u]],
                "token": [(g, t) for g in range(mass.shape[0]) if active[g, t]],
                "shared": active.nonzero().tolist(),
            }[granularity]
            best = [max(float(mass[tuple(at)][n]) for at in together) for n in range(mass.shape[2])]
            for n in sorted(range(len(best)), key=lambda n: -best[n])[:k]:
                chosen[h, t, n] = best[n] > 0
    return chosen


def masses(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(H, T, N, generator=generator), torch.rand(H, T, generator=generator) > 0.3


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("k", [1, 2, 6, 7, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_greatest_are_chosen(granularity, k, seed):
    mass, active = masses(seed)
    assert 0 < active.sum() < H * T
    chosen = top(mass, k, granularity, active)
    assert torch.equal(chosen, by_hand(mass, k, granularity, active))
    assert torch.equal(chosen.sum(-1), active * min(k, N))
    places, counted = top_places(mass, k, granularity, active)
    assert torch.equal(torch.zeros_like(chosen).scatter_(-1, places, counted), chosen)


def test_each_head_and_token_has_its_own_best():
    mass, active = masses()[0], torch.ones(H, T, dtype=torch.bool)
    chosen = top(mass, 2, "head_token", active)
    assert mass[chosen].view(H, T, 2).amin(-1).ge(mass.masked_fill(chosen, 0).amax(-1)).all()


def test_who_chooses_together_chooses_alike():
    mass, active = masses()[0], torch.ones(H, T, dtype=torch.bool)
    heads, tokens = (top(mass, 2, granularity, active) for granularity in ("head", "token"))
    assert (heads == heads[:, :1]).all() and not (heads == heads[:1]).all()
    assert (tokens == tokens[:1]).all() and not (tokens == tokens[:, :1]).all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_inactive_neither_choose_nor_are_heard(granularity):
    mass, active = masses()
    loud = torch.where(active.unsqueeze(-1), mass, 100 * (1 + torch.arange(N)).float())
    assert torch.equal(top(loud, 2, granularity, active), top(mass, 2, granularity, active))
    assert not top(loud, N, granularity, active)[~active].any()
    assert not top(loud, N, granularity, torch.zeros_like(active)).any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_no_mass_is_never_chosen(granularity):
    active = torch.ones(H, T, dtype=torch.bool)
    mass = torch.zeros(H, T, N)
    assert not top(mass, 3, granularity, active).any()
    mass[..., 5] = 0.1
    assert torch.equal(top(mass, 3, granularity, active), mass > 0)


def test_weights_of_all_blocks_are_the_plain_softmaxes():
    gates, landmarks = torch.randn(H, T, N), torch.randn(H, T, N, 2)
    chosen = torch.ones(H, T, N, 2, dtype=torch.bool)
    weights, lse = block_weights(gates, landmarks, chosen)
    torch.testing.assert_close(weights, gates.softmax(-1).unsqueeze(-1) * landmarks.softmax(-1))
    torch.testing.assert_close(lse, gates.logsumexp(-1))


def test_gates_have_their_mass_beside_the_local_window():
    generator = torch.Generator().manual_seed(0)
    gates, near = 3 * torch.randn(H, T, N, generator=generator), torch.randn(H, T, generator=generator)
    # no window beside the first head's gates; nothing but a window for the second
    near[0], gates[1] = float("-inf"), -1e30
    mass = gate_mass(gates, near)
    whole = torch.logaddexp(gates.logsumexp(-1), near)
    torch.testing.assert_close(mass, (gates - whole.unsqueeze(-1)).exp())
    torch.testing.assert_close(mass[0].sum(-1), torch.ones(T))
    assert not mass[1].any()


def test_nothing_chosen_weighs_nothing():
    none = torch.zeros(H, T, N, dtype=torch.bool)
    weights, lse = flat_weights(torch.randn(H, T, N), none)
    assert not weights.any() and (lse == float("-inf")).all()
    weights, lse = block_weights(
        torch.randn(H, T, N), torch.randn(H, T, N, 2), none.unsqueeze(-1).expand(-1, -1, -1, 2)
    )
    assert not weights.any() and (lse == float("-inf")).all()
