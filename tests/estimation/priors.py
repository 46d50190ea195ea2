"""Priors of the constants: what is expected before a run is looked at, and how far off it may be."""

import math
from dataclasses import dataclass
from typing import Final

from jobs.estimation.constants import ConstantTable


@dataclass(frozen=True)
class Prior:
    """A constant: `value` expected; `width` is one standard deviation of its logarithm, or of its logit for shares."""

    group: str
    member: str
    name: str
    value: float
    width: float
    is_share: bool = False

    def decode(self, theta: float) -> float:
        if self.is_share:
            return 1 / (1 + math.exp(-(math.log(self.value / (1 - self.value)) + self.width * theta)))
        return self.value * math.exp(self.width * theta)


# family: ceiling, matmul, fp8, attention, portable attention, memory, intra, inter, launch.
# The ceiling is the rate that a micro-benchmark reaches (catalog/accelerators.toml), matmul about 0.93 of it.
FAMILIES: Final = {
    "v100": (0.72, 0.66, 0.60, 0.35, 0.35, 0.80, 0.75, 0.80, 1.0),
    "a100": (0.87, 0.80, 0.60, 0.55, 0.55, 0.80, 0.76, 0.80, 1.0),
    "h100": (0.80, 0.73, 0.62, 0.52, 0.36, 0.80, 0.80, 0.80, 0.8),
    "b200": (0.776, 0.70, 0.66, 0.52, 0.22, 0.80, 0.75, 0.80, 0.7),
    "ascend910a": (0.75, 0.65, 0.60, 0.30, 0.30, 0.70, 0.75, 0.80, 1.0),
    "ascend910b": (0.81, 0.72, 0.60, 0.40, 0.40, 0.70, 0.75, 0.80, 1.0),
    "mi250": (0.75, 0.62, 0.60, 0.35, 0.35, 0.75, 0.70, 0.75, 1.0),
    "mi300": (0.51, 0.48, 0.42, 0.30, 0.30, 0.75, 0.70, 0.80, 1.0),
    "gaudi": (0.95, 0.80, 0.65, 0.45, 0.45, 0.75, 0.75, 0.80, 0.5),
    "trainium": (0.80, 0.65, 0.60, 0.40, 0.40, 0.75, 0.70, 0.80, 0.5),
    "tpu": (0.90, 0.80, 0.70, 0.45, 0.45, 0.80, 0.80, 0.80, 0.2),
    "metax": (0.80, 0.68, 0.60, 0.40, 0.40, 0.75, 0.70, 0.80, 1.0),
    "dcu": (0.75, 0.60, 0.60, 0.35, 0.35, 0.75, 0.70, 0.80, 1.0),
    "consumer": (0.85, 0.78, 0.60, 0.50, 0.50, 0.85, 0.70, 0.70, 1.0),
    "other_npu": (0.75, 0.60, 0.60, 0.35, 0.35, 0.70, 0.70, 0.80, 1.0),
    "sunway": (0.60, 0.40, 0.60, 0.25, 0.25, 0.70, 0.70, 0.70, 1.0),
    "tianhe": (0.60, 0.40, 0.60, 0.25, 0.25, 0.70, 0.70, 0.70, 1.0),
    "cpu": (1.0, 0.95, 0.60, 0.30, 0.30, 0.60, 0.75, 0.80, 0.1),
}
FITTED_FAMILIES: Final = ("v100", "a100", "h100", "b200", "ascend910a", "ascend910b")
FAMILY_WIDTHS: Final = {
    "matmul_ceiling": 0.0,
    "matmul_fraction": 0.08,
    "fp8_matmul_fraction": 0.12,
    "attention_fraction": 0.2,
    "portable_attention_fraction": 0.2,
    "memory_fraction": 0.12,
    "intra_link_fraction": 0.15,
    "inter_link_fraction": 0.7,
    "launch_factor": 0.3,
}
FAMILY_NAMES: Final = tuple(FAMILY_WIDTHS)

# framework: as FRAMEWORK_WIDTHS
FRAMEWORKS: Final = {
    "megatron": (1.0, 1.2, 2.0e-3, 8.0, 0.3, 0.6, 0.6, 0.01, 2.0),
    "deepspeed": (1.06, 1.5, 2.8e-3, 16.0, 0.1, 0.4, 0.4, 0.02, 2.0),
    "fsdp": (1.05, 2.0, 1.5e-3, 6.0, 0.1, 0.6, 0.4, 0.02, 0.0),
    "jax": (1.05, 1.2, 0.2e-3, 8.0, 0.3, 0.6, 0.6, 0.01, 1.0),
    "mindspore": (1.06, 1.5, 0.5e-3, 10.0, 0.1, 0.4, 0.5, 0.02, 1.0),
    "paddle": (1.06, 1.5, 2.0e-3, 12.0, 0.1, 0.4, 0.5, 0.02, 1.0),
    "native": (1.0, 1.0, 0.3e-3, 8.0, 0.1, 0.3, 0.5, 0.005, 0.5),
}
FRAMEWORK_WIDTHS: Final = {
    "slowdown": 0.08,
    "traffic_factor": 0.3,
    "launch_s_per_layer": 0.4,
    "gradient_traffic_bytes": 0.4,
    "tensor_overlap": 0.8,
    "data_overlap": 0.8,
    "nic_sharing": 0.8,
    "step_overhead_s": 0.6,
    "runtime_gib": 0.0,
}
SHARES: Final = (
    "inter_link_fraction",
    "tensor_overlap",
    "data_overlap",
    "nic_sharing",
    "dispatch_overlap",
    "pipeline_overlap",
)

GLOBALS: Final = {
    "encoder_fill": (0.6, 0.15),
    "gemm_traffic": (0.6, 0.4),
    "head_size_exponent": (0.35, 0.4),
    "narrow_expert_width": (500.0, 0.5),
    "unaligned_attention_slowdown": (8.0, 0.3),
    "moe_launch_s_per_layer": (0.8e-3, 0.7),
    "moe_launch_s_per_expert": (0.4e-3, 0.5),
    "moe_yearly_gain": (0.3, 0.5),
    "yearly_gain": (0.02, 0.7),
    "dispatch_overlap": (0.4, 0.8),
    "dispatch_traffic_passes": (3.0, 0.4),
    "pipeline_overlap": (0.4, 0.8),
    "collective_latency_us": (25.0, 0.5),
    "network_latency_us": (15.0, 0.5),
    "straggler": (0.004, 0.7),
    "recompute_factor": (1.0, 0.06),
    "fp8_cast_passes": (4.0, 0.4),
    "standard_launch_factor": (1.3, 0.2),
    "fragmentation": (0.1, 0.0),
}


def base_table() -> ConstantTable:
    return ConstantTable(
        family={name: dict(zip(FAMILY_NAMES, values, strict=True)) for name, values in FAMILIES.items()},
        framework={name: dict(zip(FRAMEWORK_WIDTHS, values, strict=True)) for name, values in FRAMEWORKS.items()},
        everything={name: value for name, (value, _) in GLOBALS.items()},
    )


def _list_priors() -> tuple[Prior, ...]:
    priors = []
    for member, values in FAMILIES.items():
        for (name, width), value in zip(FAMILY_WIDTHS.items(), values, strict=True):
            if width and member in FITTED_FAMILIES:
                priors.append(Prior("family", member, name, value, width, name in SHARES))
    for member, values in FRAMEWORKS.items():
        for (name, width), value in zip(FRAMEWORK_WIDTHS.items(), values, strict=True):
            if width and not (member == "megatron" and name == "slowdown"):
                priors.append(Prior("framework", member, name, value, width, name in SHARES))
    for name, (value, width) in GLOBALS.items():
        if width:
            priors.append(Prior("global", "", name, value, width, name in SHARES))
    return tuple(priors)


PRIORS: Final = _list_priors()
