"""One accelerator model: what is known of it, checked."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from jobs.estimation.validation import (
    InvalidInput,
    check_boolean,
    check_integer,
    check_keys,
    check_mapping,
    check_number,
    check_text,
)

PRECISIONS: Final = ("fp32", "fp16", "bf16", "fp8", "fp4")
MAX_DEVICES_PER_NODE: Final = 1024
MAX_DOMAIN_DEVICES: Final = 1_000_000
DEFAULT_FAMILY: Final = "other_npu"
"""Of an accelerator that was stored before families were known."""


def check_supernode(path: str, devices: int | None, oversubscription: float | None) -> None:
    """Raise InvalidInput for a supernode size or a narrowing between supernodes that makes no sense."""
    if devices is not None:
        check_integer(f"{path}.supernode_devices", devices, minimum=1, maximum=MAX_DOMAIN_DEVICES)
    if oversubscription is not None:
        check_number(f"{path}.oversubscription", oversubscription, minimum=1.0, maximum=1000.0)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator model. Rates are dense peaks; links are per device and direction.

    `constants` are fitted constants in which it differs from its `family`. The optional fractions
    (`matmul_peak_fraction` and the like) are the best that was measured on it. catalog/accelerators.toml explains all.
    """

    code: str
    title: str
    vendor: str
    family: str
    peak_flop_per_s: Mapping[str, float]
    memory_bytes: int
    memory_bytes_per_s: float
    intra_node_bytes_per_s: float
    inter_node_bytes_per_s: float
    devices_per_node: int
    allowed_device_counts: tuple[int, ...]
    scale_up_devices: int
    """Devices that reach each other at the intra-node rate: a node, or a rack-scale NVLink, HCCS or ICI domain."""
    tdp_w: float
    runtime_overhead_bytes: int
    source_url: str
    source_date: str
    source_status: str = "recalled"
    notes: str = ""
    peer_bytes_per_s: float | None = None
    """To a single peer, where links run from card to card; None behind a switch: the whole rate to any peer."""
    host_bytes_per_s: float | None = None
    """To the host's memory; None where the device's memory is the host's, so that nothing can be offloaded."""
    supernode_devices: int | None = None
    supernode_oversubscription: float = 1.0
    cores: int | None = None
    is_asynchronous: bool = True
    """Whether the host runs ahead of the device (plain NumPy doesn't)."""
    matmul_peak_fraction: float | None = None
    fp8_matmul_peak_fraction: float | None = None
    memory_peak_fraction: float | None = None
    intra_link_fraction: float | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    gres_name: str | None = None
    gres_type: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("code", "title", "vendor", "family", "source_url", "source_date", "source_status"):
            check_text(f"accelerator.{name}", getattr(self, name), maximum_length=500)
        for name in ("gres_name", "gres_type"):
            if getattr(self, name) is not None:
                check_text(f"accelerator.{name}", getattr(self, name))
        self._check_peaks()
        self._check_memory_and_links()
        self._check_counts()
        for name in ("constants", "sources"):
            values = check_mapping(f"accelerator.{name}", getattr(self, name))
            object.__setattr__(self, name, MappingProxyType(dict(values)))
        for name, value in self.constants.items():
            check_number(f"accelerator.constants.{name}", value, minimum=0.0, maximum=1e6)
        for name, text in self.sources.items():
            check_text(f"accelerator.sources.{name}", text, maximum_length=500)
        aliases = tuple(check_text("accelerator.aliases", alias) for alias in self.aliases)
        object.__setattr__(self, "aliases", aliases)

    def _check_peaks(self) -> None:
        peaks = check_mapping("accelerator.peak_flop_per_s", self.peak_flop_per_s)
        check_keys("accelerator.peak_flop_per_s", peaks, known=PRECISIONS)
        if not peaks:
            raise InvalidInput("accelerator.peak_flop_per_s", {}, "at least one of " + ", ".join(PRECISIONS))
        for precision, peak in peaks.items():
            check_number(f"accelerator.peak_flop_per_s.{precision}", peak, minimum=1e6, maximum=1e18)
        object.__setattr__(self, "peak_flop_per_s", MappingProxyType(dict(peaks)))

    def _check_memory_and_links(self) -> None:
        check_integer("accelerator.memory_bytes", self.memory_bytes, minimum=2**20, maximum=2**50)
        check_integer("accelerator.runtime_overhead_bytes", self.runtime_overhead_bytes, minimum=0, maximum=2**40)
        for name in ("memory_bytes_per_s", "intra_node_bytes_per_s", "inter_node_bytes_per_s"):
            check_number(f"accelerator.{name}", getattr(self, name), minimum=1e3, maximum=1e15)
        for name in ("peer_bytes_per_s", "host_bytes_per_s"):
            if getattr(self, name) is not None:
                check_number(f"accelerator.{name}", getattr(self, name), minimum=1e3, maximum=1e15)
        for name in ("matmul_peak_fraction", "fp8_matmul_peak_fraction", "memory_peak_fraction", "intra_link_fraction"):
            if getattr(self, name) is not None:
                check_number(f"accelerator.{name}", getattr(self, name), minimum=1e-3, maximum=1.0)
        check_number("accelerator.tdp_w", self.tdp_w, minimum=0.0, maximum=1e5)
        check_boolean("accelerator.is_asynchronous", self.is_asynchronous)

    def _check_counts(self) -> None:
        check_integer("accelerator.devices_per_node", self.devices_per_node, minimum=1, maximum=MAX_DEVICES_PER_NODE)
        counts = tuple(
            check_integer("accelerator.allowed_device_counts", count, minimum=1, maximum=MAX_DEVICES_PER_NODE)
            for count in self.allowed_device_counts
        )
        if not counts:
            raise InvalidInput("accelerator.allowed_device_counts", (), "at least one count")
        object.__setattr__(self, "allowed_device_counts", counts)
        check_integer("accelerator.scale_up_devices", self.scale_up_devices, minimum=1, maximum=MAX_DOMAIN_DEVICES)
        check_supernode("accelerator", self.supernode_devices, self.supernode_oversubscription)
        if self.cores is not None:
            check_integer("accelerator.cores", self.cores, minimum=1, maximum=10**6)

    def __hash__(self) -> int:
        return hash((self.code, self.memory_bytes, tuple(sorted(self.peak_flop_per_s.items()))))

    def to_dict(self) -> dict[str, Any]:
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("peak_flop_per_s", "constants", "sources"):
            data[name] = dict(data[name])
        for name in ("allowed_device_counts", "aliases"):
            data[name] = list(data[name])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Accelerator":
        """Rebuild from `to_dict()`, also of an earlier version; raises InvalidInput."""
        mapping = dict(check_mapping("accelerator", data))
        mapping.pop("efficiency", None)  # of engine 2026.11.1; the family's constants took its place
        optional = {
            item.name for item in fields(cls) if item.default is not MISSING or item.default_factory is not MISSING
        }
        known = {item.name for item in fields(cls)}
        check_keys("accelerator", mapping, known=known, required=known - optional - {"family", "scale_up_devices"})
        mapping.setdefault("family", DEFAULT_FAMILY)
        mapping.setdefault("scale_up_devices", mapping["devices_per_node"])
        for name in ("allowed_device_counts", "aliases"):
            given = mapping.get(name, ())
            if not isinstance(given, list | tuple):
                raise InvalidInput(f"accelerator.{name}", given, "a list")
            mapping[name] = tuple(given)
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__
