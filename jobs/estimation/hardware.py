"""The machine: accelerators in nodes, with links and storage."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from jobs.estimation.accelerator import (
    MAX_DEVICES_PER_NODE,
    MAX_DOMAIN_DEVICES,
    PRECISIONS,
    Accelerator,
    check_supernode,
)
from jobs.estimation.accelerator_catalog import GIB, accelerators, find_accelerator, get_accelerator
from jobs.estimation.validation import InvalidInput, check_integer, check_keys, check_mapping, check_number

__all__ = [
    "GIB",
    "MAX_DEVICES_PER_NODE",
    "PRECISIONS",
    "Accelerator",
    "Machine",
    "accelerators",
    "find_accelerator",
    "get_accelerator",
]

# Llama 3 on 16,384 H100: 419 unexpected stops in 54 days, 50,600 device-hours each (arXiv 2407.21783, 3.3.4).
DEFAULT_MTBF_HOURS_PER_DEVICE: Final = 50_600.0
# Llama 3's storage sustains 2 TB/s over 7,500 servers (arXiv 2407.21783, 3.3.1): 0.27 GB/s a node that a centre
# built for such jobs offers; a small job still sees a modest parallel file system. Sites override both.
DEFAULT_STORAGE_BYTES_PER_S: Final = 10e9
DEFAULT_STORAGE_BYTES_PER_S_PER_NODE: Final = 2e12 / 7500
# Time from a stop until training goes on: requeue, start, load (assumed; sites override it).
DEFAULT_RESTART_S: Final = 600.0
# Power of the whole centre over that of its computers (assumed; liquid cooling reaches 1.1, old halls 1.6).
DEFAULT_PUE: Final = 1.3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Accelerators in nodes, with links and storage. None means: as the accelerator's catalogue entry says.

    `measured_peak_flop_per_s` is the rate of a large matrix product measured on this very device, in the precision
    of the workload; it replaces peak and matmul_peak_fraction, and MFU is then relative to it.
    `mtbf_hours_per_device` is the device-hours between two stops of a job. `storage_bytes_per_s` is what one job
    gets from the file system; None is 10 GB/s, or 0.27 GB/s a node where that is more. `oversubscription` is by how
    much the network narrows beyond `supernode_devices` (a scale-up domain where there are no supernodes) if all devices
    talk at once. `pue` is the power of the whole centre over that of its computers.
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
    scale_up_devices: int | None = None
    host_bytes_per_s: float | None = None
    supernode_devices: int | None = None
    oversubscription: float | None = None
    pue: float = DEFAULT_PUE

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
        if self.host_bytes_per_s is not None:
            check_number("machine.host_bytes_per_s", self.host_bytes_per_s, minimum=1e3, maximum=1e15)
        check_supernode("machine", self.supernode_devices, self.oversubscription)
        check_number("machine.pue", self.pue, minimum=1.0, maximum=3.0)
        if self.scale_up_devices is not None:
            scale_up = check_integer(
                "machine.scale_up_devices", self.scale_up_devices, minimum=1, maximum=MAX_DOMAIN_DEVICES
            )
            if scale_up % per_node:
                raise InvalidInput("machine.scale_up_devices", scale_up, f"whole nodes of {per_node} devices")

    @classmethod
    def from_catalog(cls, code: str, *, devices_per_node: int | None = None, **overrides: Any) -> "Machine":
        """A machine of catalogue accelerators, by code or name; `overrides` are the other fields of `Machine`."""
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
    def scale_up_size(self) -> int:
        """Devices that reach each other at the intra-node rate: whole nodes, at least one."""
        if self.scale_up_devices is not None:
            return self.scale_up_devices
        # A site may put more or fewer devices in a node than the catalogue; a rack-scale domain stays as large.
        domain = self.accelerator.scale_up_devices
        nodes = domain // self.node_size if domain > self.accelerator.devices_per_node else 1
        return max(1, nodes) * self.node_size

    @property
    def supernode_size(self) -> int | None:
        """Devices between which the network doesn't block; None if it blocks nowhere."""
        if self.supernode_devices is not None:
            return self.supernode_devices
        if self.accelerator.supernode_devices is not None:
            return self.accelerator.supernode_devices
        return None if self.oversubscription is None else self.scale_up_size

    @property
    def oversubscription_factor(self) -> float:
        """By how much a device's rate falls beyond a supernode if all devices talk at once; 1 if it doesn't."""
        if self.oversubscription is not None:
            return self.oversubscription
        return self.accelerator.supernode_oversubscription

    @property
    def has_host_memory(self) -> bool:
        """Whether the host has memory of its own to offload to."""
        return self.host_bytes_per_s is not None or self.accelerator.host_bytes_per_s is not None

    @property
    def host_rate_bytes_per_s(self) -> float:
        """Rate between device and host memory; the memory's own rate where they are the same."""
        return self.host_bytes_per_s or self.accelerator.host_bytes_per_s or self.accelerator.memory_bytes_per_s

    @property
    def allowed_device_counts(self) -> tuple[int, ...]:
        """Devices that a job within one node may ask for; beyond a node come whole nodes."""
        size = self.node_size
        return tuple(sorted({*(count for count in self.accelerator.allowed_device_counts if count < size), size}))

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
