"""The constants that no formula gives (catalog/efficiency.toml), and their values for each row of an evaluation.

Three groups: of an accelerator family (what share of its peaks real kernels reach), of a training framework (how its
kernels and its communication are built), and of everything. Their meanings, and what each was fitted on, stand in
docs/estimation.md; the values are written by the fit (`python -m tests.estimation.fit`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from jobs.estimation.catalog_files import load_catalog
from jobs.estimation.plan import Floats
from jobs.estimation.validation import check_keys, check_number


@dataclass(kw_only=True, eq=False, repr=False)
class FamilyConstants:
    """Of an accelerator family. Fractions are of the data sheet's dense peak; scalars or one value a row."""

    matmul_ceiling: Floats
    """Of the 16-bit peak, in a micro-benchmark; devices with a ceiling of their own are in proportion."""
    matmul_fraction: Floats
    """Of the 16-bit peak, in large matrix products of a training run."""
    fp8_matmul_fraction: Floats
    """Of the FP8 or FP4 peak, in large matrix products."""
    attention_fraction: Floats
    """Of the 16-bit peak, in the vendor's fused attention kernel with heads of 128 (cuDNN, Transformer Engine)."""
    portable_attention_fraction: Floats
    """The same with a portable kernel (FlashAttention-2, Triton), as frameworks other than Megatron and JAX use."""
    memory_fraction: Floats
    """Of the memory's rate, in element-wise kernels."""
    intra_link_fraction: Floats
    """Of the link's rate within a node or scale-up domain, in collectives of large messages."""
    inter_link_fraction: Floats
    """Of the network card's rate, in collectives of large messages."""
    launch_factor: Floats
    """Time of the host for launching a layer, relative to the framework's constant."""


@dataclass(kw_only=True, eq=False, repr=False)
class FrameworkConstants:
    """Of a training framework."""

    slowdown: Floats
    """Of matrix products and attention, beside Megatron Core's."""
    traffic_factor: Floats
    """Memory traffic of norms, activations, casts and residuals, beside fused kernels."""
    launch_s_per_layer: Floats
    """Time of the host to launch forward and backward of one layer and micro-batch."""
    gradient_traffic_bytes: Floats
    """Memory traffic a trained weight and micro-batch for adding its gradient to the accumulator."""
    tensor_overlap: Floats
    """Share of tensor-parallel traffic hidden behind products."""
    data_overlap: Floats
    """Share of the backward pass (of the whole step with ZeRO 3) that can hide gradient and weight traffic."""
    nic_sharing: Floats
    """A group with g ranks in a node drives g ** nic_sharing network cards in a ring across nodes."""
    step_overhead_s: Floats
    """Fixed time of a step: logging, norms, synchronisation, data."""
    runtime_gib: Floats
    """Memory of context, libraries and communication buffers, beside the accelerator's own."""


@dataclass(kw_only=True, eq=False, repr=False)
class GlobalConstants:
    """Of everything."""

    encoder_fill: Floats
    """Share of an encoder's tokens that are no padding, which its kernels skip."""
    gemm_traffic: Floats
    """Share of a product's operand traffic that does not overlap with its arithmetic."""
    head_size_exponent: Floats
    """The attention kernel's rate falls as (head_dim / 128) ** exponent for heads below 128."""
    narrow_expert_width: Floats
    """Grouped products of experts of width w take 1 + narrow_expert_width / w times as long as single ones."""
    unaligned_attention_slowdown: Floats
    """Of the attention core where the head size is no multiple of 8, so that matrix units can't be used."""
    moe_launch_s_per_layer: Floats
    """Extra host time of a mixture layer: routing and permutation."""
    moe_launch_s_per_expert: Floats
    """Host time of a mixture layer for each expert that a rank holds: grouped layers loop over them."""
    moe_yearly_gain: Floats
    """Mixture layers get faster by exp(gain) a year of newer software."""
    yearly_gain: Floats
    """The same for all else."""
    dispatch_overlap: Floats
    """Share of the experts' all-to-all traffic hidden behind compute."""
    dispatch_traffic_passes: Floats
    """Passes over the dispatched tokens in device memory (permute, pad, un-permute) forward."""
    pipeline_overlap: Floats
    """Share of the traffic between pipeline stages hidden behind compute."""
    collective_latency_us: Floats
    """Of one collective within a node."""
    network_latency_us: Floats
    """Of one step of a collective between nodes."""
    straggler: Floats
    """Slowdown a doubling of the nodes: 1 + straggler x log2(nodes)."""
    recompute_factor: Floats
    """Time of recomputing a forward pass, relative to the forward pass."""
    fp8_cast_passes: Floats
    """Bytes a quantised operand's element costs in casts, forward."""
    standard_launch_factor: Floats
    """Host time with unfused attention, relative to fused."""
    fragmentation: Floats
    """Share of the moving part of memory that a caching allocator loses."""


GROUPS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {"family": FamilyConstants, "framework": FrameworkConstants, "global": GlobalConstants}
)


@dataclass(frozen=True, kw_only=True)
class ConstantTable:
    """All values: `family[name][constant]`, `framework[name][constant]`, `everything[constant]`."""

    family: Mapping[str, Mapping[str, float]]
    framework: Mapping[str, Mapping[str, float]]
    everything: Mapping[str, float]

    def __post_init__(self) -> None:
        for group, tables in (("family", self.family), ("framework", self.framework)):
            for name, table in tables.items():
                _check(f"{group}.{name}", table, GROUPS[group])
        _check("global", self.everything, GlobalConstants)


def _check(path: str, table: Mapping[str, float], kind: type[Any]) -> None:
    names = [field.name for field in fields(kind)]
    check_keys(path, table, known=names, required=names)
    for name, value in table.items():
        check_number(f"{path}.{name}", value, minimum=0.0, maximum=1e6)


@cache
def load_constants() -> ConstantTable:
    """The table that ships with the library."""
    catalog = load_catalog("efficiency.toml")
    return ConstantTable(family=catalog["family"], framework=catalog["framework"], everything=catalog["global"])


def pick(kind: type[Any], rows: Sequence[Mapping[str, float]]) -> Any:
    """The constants of `rows` as one object of `kind`, each an array with a value a row (a scalar for one row)."""
    names = [field.name for field in fields(kind)]
    if len(rows) == 1:
        return kind(**{name: np.float64(rows[0][name]) for name in names})
    return kind(**{name: np.array([row[name] for row in rows]) for name in names})
