import pytest
import torch
from torch import Tensor

from hierlandmark.ops.rope import doubled, rotate, turn, turn_into, turns
from tests.ops.compare import assert_near

D = 16
INV_FREQ = 10_000.0 ** -(torch.arange(0, D, 2).float() / D)


def vectors(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_position_zero_changes_nothing() -> None:
    x = vectors(2, 3, 5)
    assert torch.equal(rotate(x, torch.zeros(5), INV_FREQ), x)


def test_each_pair_turns_by_its_own_angle() -> None:
    x = vectors(4)
    positions = torch.tensor([0, 1, 7, 4095])
    # the pairs as complex numbers, in fp64
    turned = torch.complex(x[:, : D // 2].double(), x[:, D // 2 :].double())
    turned = turned * torch.exp(1j * positions[:, None].double() * INV_FREQ.double())
    # fp32 angles of 4,095 radians are good to 2e-4
    torch.testing.assert_close(
        rotate(x, positions, INV_FREQ), torch.cat((turned.real, turned.imag), -1).float(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_length_and_dtype_are_kept(dtype: torch.dtype) -> None:
    x = vectors(2, 3, 50, dtype=dtype)
    rotated = rotate(x, torch.arange(50) * 97, INV_FREQ)
    assert rotated.dtype == dtype
    assert_near("length", rotated.float().norm(dim=-1).to(dtype), x.double().norm(dim=-1))


@pytest.mark.parametrize(("a", "b"), [(3, 1), (0, 5), (700, 12), (-4, 9)])
def test_a_product_depends_on_the_distance_only(a: int, b: int) -> None:
    q, k = vectors(1), vectors(2)[1:]

    def product(i: int, j: int) -> Tensor:
        return (rotate(q, torch.tensor([i]), INV_FREQ) * rotate(k, torch.tensor([j]), INV_FREQ)).sum()

    for shift in (1, 64, 512):
        torch.testing.assert_close(product(a + shift, b + shift), product(a, b), atol=1e-3, rtol=0)
    assert (product(a, b) - product(a, b + 1)).abs() > 1e-2


def test_a_negative_position_rotates_back() -> None:
    x, positions = vectors(2, 3, 9), torch.arange(9) * 31
    there = rotate(x, positions, INV_FREQ)
    assert not torch.allclose(there, x)
    assert_near("back", rotate(there, -positions, INV_FREQ), x)


def test_two_turns_are_one_turn_of_the_sum() -> None:
    x, positions = vectors(2, 9), torch.arange(9)
    twice = rotate(rotate(x, positions, INV_FREQ), torch.tensor([512]), INV_FREQ)
    torch.testing.assert_close(twice, rotate(x, positions + 512, INV_FREQ), atol=1e-4, rtol=0)


def test_scaling_is_a_factor() -> None:
    x, positions = vectors(2, 9), torch.arange(9)
    assert_near("scaled", rotate(x, positions, INV_FREQ, scaling=1.25), 1.25 * rotate(x, positions, INV_FREQ))


def test_positions_broadcast() -> None:
    x = vectors(2, 3, 5)
    positions = torch.arange(10).view(2, 1, 5)
    rotated = rotate(x, positions, INV_FREQ)
    for b in range(2):
        assert torch.equal(rotated[b], rotate(x[b], positions[b, 0], INV_FREQ))


def test_bf16_is_rotated_in_fp32() -> None:
    # a bf16 position would round 4,001 to 4,000, which is a radian off
    x, positions = vectors(1, dtype=torch.bfloat16), torch.tensor([4001])
    expected = rotate(x.float(), positions, INV_FREQ)
    assert torch.equal(rotate(x, positions, INV_FREQ), expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turned_into_memory_given_is_the_same_to_the_bit(dtype: torch.dtype) -> None:
    both = vectors(2, 5, 2, 7, dtype=dtype)
    before = both.clone()
    cos, sin = turns(torch.arange(5 * 7).view(5, 1, 7), INV_FREQ, scaling=1.1)
    # a part of something larger, as keys are beside their values
    turn_into(other := torch.empty_like(both[0]), both[0], doubled(cos, sin))
    assert torch.equal(other, turn(before[0], cos, sin)) and torch.equal(both, before)
    turn_into(both[0], both[0], doubled(cos, sin))
    assert torch.equal(both[0], turn(before[0], cos, sin))
    assert torch.equal(both[1], before[1])
