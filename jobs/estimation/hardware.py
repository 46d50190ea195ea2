"""Accelerators (catalog/accelerators.toml) and the machine they stand in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from jobs.estimation.presets import load_catalog
from jobs.estimation.validation import (
    InvalidInput,
    check_boolean,
    check_integer,
    check_keys,
    check_mapping,
    check_number,
    check_text,
)

PRECISIONS: Final = ("fp32", "fp16", "bf16")
GIB: Final = 2**30
MAX_DEVICES_PER_NODE: Final = 1024

# Llama 3 on 16,384 H100: 419 unexpected stops in 54 days, 50,600 device-hours each (arXiv 2407.21783, 3.3.4).
DEFAULT_MTBF_HOURS_PER_DEVICE: Final = 50_600.0
# Llama 3's storage sustains 2 TB/s over 7,500 servers (arXiv 2407.21783, 3.3.1): 0.27 GB/s a node that a centre
# built for such jobs offers; a small job still sees a modest parallel file system. Sites override both.
DEFAULT_STORAGE_BYTES_PER_S: Final = 10e9
DEFAULT_STORAGE_BYTES_PER_S_PER_NODE: Final = 2e12 / 7500
# Time from a stop until training goes on: requeue, start, load (assumed; sites override it).
DEFAULT_RESTART_S: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Constants that no formula gives; meanings stand at the head of catalog/accelerators.toml."""

    matmul_peak_fraction: float
    matmul_half_gflop: float
    attention_peak_fraction: float
    memory_peak_fraction: float
    sharded_elementwise_factor: float
    sharded_efficiency: float
    host_launch_s_per_layer: float
    asynchronous_launch: bool
    intra_link_fraction: float
    inter_link_fraction: float
    link_latency_us: float
    nic_sharing: float
    tensor_overlap: float
    data_overlap: float
    pipeline_overlap: float
    error_p10: float
    error_p90: float
    basis: str
    source: str

    def __post_init__(self) -> None:
        path = "accelerator.efficiency"
        for name in ("matmul_peak_fraction", "attention_peak_fraction", "memory_peak_fraction"):
            check_number(f"{path}.{name}", getattr(self, name), minimum=1e-3, maximum=1.5)
        for name in ("intra_link_fraction", "inter_link_fraction"):
            check_number(f"{path}.{name}", getattr(self, name), minimum=1e-3, maximum=1.0)
        for name in ("nic_sharing", "tensor_overlap", "data_overlap", "pipeline_overlap"):
            check_number(f"{path}.{name}", getattr(self, name), minimum=0.0, maximum=1.0)
        factor = self.sharded_elementwise_factor
        check_number(f"{path}.sharded_elementwise_factor", factor, minimum=1.0, maximum=10.0)
        check_number(f"{path}.sharded_efficiency", self.sharded_efficiency, minimum=0.05, maximum=1.0)
        check_number(f"{path}.matmul_half_gflop", self.matmul_half_gflop, minimum=0.0, maximum=1e6)
        check_number(f"{path}.host_launch_s_per_layer", self.host_launch_s_per_layer, minimum=0.0, maximum=10.0)
        check_number(f"{path}.link_latency_us", self.link_latency_us, minimum=0.0, maximum=1e6)
        check_number(f"{path}.error_p10", self.error_p10, minimum=0.01, maximum=1.0)
        check_number(f"{path}.error_p90", self.error_p90, minimum=1.0, maximum=100.0)
        check_boolean(f"{path}.asynchronous_launch", self.asynchronous_launch)
        check_text(f"{path}.basis", self.basis, maximum_length=64)
        check_text(f"{path}.source", self.source, maximum_length=2_000)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator model. Rates are dense peaks; links are per device and direction."""

    code: str
    title: str
    vendor: str
    peak_flop_per_s: Mapping[str, float]
    memory_bytes: int
    memory_bytes_per_s: float
    intra_node_bytes_per_s: float
    inter_node_bytes_per_s: float
    devices_per_node: int
    allowed_device_counts: tuple[int, ...]
    tdp_w: float
    runtime_overhead_bytes: int
    efficiency: Efficiency
    source_url: str
    source_date: str
    source_status: str = "recalled"
    notes: str = ""

    def __post_init__(self) -> None:
        for name in ("code", "title", "vendor", "source_url", "source_date", "source_status"):
            check_text(f"accelerator.{name}", getattr(self, name), maximum_length=500)
        peaks = check_mapping("accelerator.peak_flop_per_s", self.peak_flop_per_s)
        check_keys("accelerator.peak_flop_per_s", peaks, known=PRECISIONS)
        if not peaks:
            raise InvalidInput("accelerator.peak_flop_per_s", {}, "at least one of " + ", ".join(PRECISIONS))
        for precision, peak in peaks.items():
            check_number(f"accelerator.peak_flop_per_s.{precision}", peak, minimum=1e6, maximum=1e18)
        object.__setattr__(self, "peak_flop_per_s", MappingProxyType(dict(peaks)))
        check_integer("accelerator.memory_bytes", self.memory_bytes, minimum=2**20, maximum=2**50)
        check_integer("accelerator.runtime_overhead_bytes", self.runtime_overhead_bytes, minimum=0, maximum=2**40)
        for name in ("memory_bytes_per_s", "intra_node_bytes_per_s", "inter_node_bytes_per_s"):
            check_number(f"accelerator.{name}", getattr(self, name), minimum=1e3, maximum=1e15)
        check_number("accelerator.tdp_w", self.tdp_w, minimum=0.0, maximum=1e5)
        check_integer("accelerator.devices_per_node", self.devices_per_node, minimum=1, maximum=MAX_DEVICES_PER_NODE)
        counts = tuple(
            check_integer("accelerator.allowed_device_counts", count, minimum=1, maximum=MAX_DEVICES_PER_NODE)
            for count in self.allowed_device_counts
        )
        if not counts:
            raise InvalidInput("accelerator.allowed_device_counts", (), "at least one count")
        object.__setattr__(self, "allowed_device_counts", counts)

    def __hash__(self) -> int:
        return hash((self.code, self.memory_bytes, tuple(sorted(self.peak_flop_per_s.items()))))

    def to_dict(self) -> dict[str, Any]:
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        data["peak_flop_per_s"] = dict(self.peak_flop_per_s)
        data["allowed_device_counts"] = list(self.allowed_device_counts)
        data["efficiency"] = asdict(self.efficiency)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Accelerator":
        """Rebuild from `to_dict()`; raises InvalidInput."""
        mapping = dict(check_mapping("accelerator", data))
        optional = {"source_status", "notes"}
        known = {field.name for field in fields(cls)}
        check_keys("accelerator", mapping, known=known, required=known - optional)
        efficiency = check_mapping("accelerator.efficiency", mapping["efficiency"])
        names = {field.name for field in fields(Efficiency)}
        check_keys("accelerator.efficiency", efficiency, known=names, required=names)
        counts = mapping["allowed_device_counts"]
        if not isinstance(counts, list | tuple):
            raise InvalidInput("accelerator.allowed_device_counts", counts, "a list of integers")
        mapping |= {"efficiency": Efficiency(**efficiency), "allowed_device_counts": tuple(counts)}  # type: ignore[arg-type]
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__


@cache
def accelerators() -> Mapping[str, Accelerator]:
    """All accelerators of the catalogue by code."""
    catalog = load_catalog("accelerators.toml")
    constants = {name: Efficiency(**table) for name, table in catalog["efficiency"].items()}
    return MappingProxyType(
        {
            code: Accelerator(
                code=code,
                title=entry["title"],
                vendor=entry["vendor"],
                peak_flop_per_s={name: 1e12 * value for name, value in entry["peak_tflop_per_s"].items()},
                memory_bytes=round(entry["memory_gib"] * GIB),
                memory_bytes_per_s=1e9 * entry["memory_gbyte_per_s"],
                intra_node_bytes_per_s=1e9 * entry["intra_node_gbyte_per_s"],
                inter_node_bytes_per_s=1e9 * entry["inter_node_gbyte_per_s"],
                devices_per_node=entry["devices_per_node"],
                allowed_device_counts=tuple(entry["allowed_device_counts"]),
                tdp_w=entry["tdp_w"],
                runtime_overhead_bytes=round(entry["runtime_overhead_gib"] * GIB),
                efficiency=replace(constants[entry["efficiency"]], **entry.get("efficiency_override", {})),
                source_url=entry["source_url"],
                source_date=entry["source_date"],
                source_status=entry["source_status"],
                notes=entry.get("notes", ""),
            )
            for code, entry in catalog["accelerator"].items()
        }
    )


def get_accelerator(code: object, *, field_name: str = "machine.accelerator") -> Accelerator:
    """Return an accelerator of the catalogue; raise InvalidInput naming the known codes."""
    if not isinstance(code, str) or code not in accelerators():
        raise InvalidInput(field_name, code, "one of " + ", ".join(accelerators()))
    return accelerators()[code]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Accelerators in nodes, with links and storage. None means: as the accelerator's catalogue entry says.

    `measured_peak_flop_per_s` is the rate of a large matrix product measured on this very device, in the precision
    of the workload; it replaces peak and matmul_peak_fraction, and MFU is then relative to it.
    `mtbf_hours_per_device` is the device-hours between two stops of a job. `storage_bytes_per_s` is what one job
    gets from the file system; None is 10 GB/s, or 0.27 GB/s a node where that is more.
    """

    accelerator: Accelerator
    devices_per_node: int | None = None
    intra_node_bytes_per_s: float | None = None
    inter_node_bytes_per_s: float | None = None
    storage_bytes_per_s: float | None = None
    measured_peak_flop_per_s: float | None = None
    mtbf_hours_per_device: float = DEFAULT_MTBF_HOURS_PER_DEVICE
    restart_s: float = DEFAULT_RESTART_S
    price_per_device_hour: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.accelerator, Accelerator):
            raise InvalidInput("machine.accelerator", self.accelerator, "an Accelerator")
        per_node = self.accelerator.devices_per_node if self.devices_per_node is None else self.devices_per_node
        per_node = check_integer("machine.devices_per_node", per_node, minimum=1, maximum=MAX_DEVICES_PER_NODE)
        object.__setattr__(self, "devices_per_node", per_node)
        for name in ("intra_node_bytes_per_s", "inter_node_bytes_per_s"):
            value = getattr(self, name)
            value = getattr(self.accelerator, name) if value is None else value
            object.__setattr__(self, name, check_number(f"machine.{name}", value, minimum=1e3, maximum=1e15))
        if self.storage_bytes_per_s is not None:
            check_number("machine.storage_bytes_per_s", self.storage_bytes_per_s, minimum=1e3, maximum=1e15)
        if self.measured_peak_flop_per_s is not None:
            check_number("machine.measured_peak_flop_per_s", self.measured_peak_flop_per_s, minimum=1e6, maximum=1e18)
        check_number("machine.mtbf_hours_per_device", self.mtbf_hours_per_device, minimum=1.0, maximum=1e9)
        check_number("machine.restart_s", self.restart_s, minimum=0.0, maximum=1e6)
        if self.price_per_device_hour is not None:
            check_number("machine.price_per_device_hour", self.price_per_device_hour, minimum=0.0, maximum=1e9)

    @classmethod
    def from_catalog(cls, code: str, *, devices_per_node: int | None = None, **overrides: Any) -> "Machine":
        """A machine of catalogue accelerators; `overrides` are the other fields of `Machine`."""
        known = {field.name for field in fields(cls)} - {"accelerator", "devices_per_node"}
        check_keys("machine", overrides, known=known)
        return cls(accelerator=get_accelerator(code), devices_per_node=devices_per_node, **overrides)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Machine":
        """Rebuild from `to_dict()`; `accelerator` is a catalogue code or a whole Accelerator as an object."""
        mapping = dict(check_mapping("machine", data))
        check_keys("machine", mapping, known={field.name for field in fields(cls)}, required={"accelerator"})
        given = mapping.pop("accelerator")
        accelerator = Accelerator.from_dict(given) if isinstance(given, Mapping) else get_accelerator(given)
        return cls(accelerator=accelerator, **mapping)  # type: ignore[arg-type] # checked in __post_init__

    def to_dict(self) -> dict[str, Any]:
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        known = accelerators().get(self.accelerator.code)
        data["accelerator"] = known.code if known == self.accelerator else self.accelerator.to_dict()
        return data

    @property
    def node_size(self) -> int:
        """Devices in a node (never None, unlike the field as given)."""
        return self.devices_per_node or self.accelerator.devices_per_node

    @property
    def intra_bytes_per_s(self) -> float:
        return self.intra_node_bytes_per_s or self.accelerator.intra_node_bytes_per_s

    @property
    def inter_bytes_per_s(self) -> float:
        return self.inter_node_bytes_per_s or self.accelerator.inter_node_bytes_per_s

    def storage_rate_bytes_per_s(self, devices: int) -> float:
        """Rate at which a job on `devices` reads data and writes checkpoints."""
        if self.storage_bytes_per_s is not None:
            return self.storage_bytes_per_s
        nodes = -(-devices // self.node_size)
        return max(DEFAULT_STORAGE_BYTES_PER_S, nodes * DEFAULT_STORAGE_BYTES_PER_S_PER_NODE)

    def peak_flop_per_s(self, precision: str) -> float:
        """Peak rate in `precision`; raises InvalidInput for a precision the accelerator lacks."""
        peaks = self.accelerator.peak_flop_per_s
        if precision not in peaks:
            allowed = f"a precision of {self.accelerator.code}: " + ", ".join(peaks)
            raise InvalidInput("precision", precision, allowed)
        return peaks[precision] if self.measured_peak_flop_per_s is None else self.measured_peak_flop_per_s

    def matmul_flop_per_s(self, precision: str) -> float:
        """Rate of a very large matrix product in `precision`."""
        peak = self.peak_flop_per_s(precision)
        measured = self.measured_peak_flop_per_s is not None
        return peak if measured else peak * self.accelerator.efficiency.matmul_peak_fraction
