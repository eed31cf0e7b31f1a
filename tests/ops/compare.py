"""How near is near: the one table of tolerances."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Error allowed against fp64: `rms` of all errors over the expected rms, `worst` over that plus the element."""

    rms: float
    worst: float


# two to three times what the reference itself loses in fp32 and bf16 over all cases
TOLERANCES = {
    torch.float64: Tolerance(rms=1e-14, worst=1e-13),
    torch.float32: Tolerance(rms=1e-6, worst=3e-5),
    torch.bfloat16: Tolerance(rms=1e-2, worst=5e-2),
}
# as flash attention does, the kernels round P before its product with V and take Delta from the rounded output: the
# rms holds, but single elements where terms cancel are off by more (worst seen 0.15, each cause measured apart)
FUSED = {torch.float32: TOLERANCES[torch.float32], torch.bfloat16: Tolerance(rms=1e-2, worst=2e-1)}


def assert_near(
    name: str,
    actual: Tensor,
    expected: Tensor,
    dtype: torch.dtype | None = None,
    table: dict[torch.dtype, Tolerance] = TOLERANCES,
) -> None:
    """Compare within the table; `dtype` is the one computed in, by default `actual`'s."""
    allowed = table[dtype or actual.dtype]
    assert actual.shape == expected.shape, name
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    assert actual.isfinite().all(), f"{name}: not finite"
    error = (actual - expected).abs()
    size = expected.square().mean().sqrt().clamp_min(1e-30)
    relative = error / (size + expected.abs())
    rms, worst = float(error.square().mean().sqrt() / size), float(relative.max())
    where = [int(i) for i in torch.unravel_index(relative.argmax(), error.shape)]
    assert rms <= allowed.rms, f"{name}: rms error {rms:.2e}, {allowed.rms:.0e} allowed; worst {worst:.2e} at {where}"
    assert worst <= allowed.worst, f"{name}: error {worst:.2e} at {where}, {allowed.worst:.0e} allowed"


def assert_all_near(
    actual: dict[str, Tensor],
    expected: dict[str, Tensor],
    dtype: torch.dtype,
    table: dict[torch.dtype, Tolerance] = TOLERANCES,
) -> None:
    """Compare values and gradients by name."""
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert_near(name, tensor, expected[name], dtype, table)
