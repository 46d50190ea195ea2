"""What a run asks of the storage: reading data, writing and keeping checkpoints, starting up."""

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from jobs.estimation.advice import Advice
from jobs.estimation.columns import MASTER_BYTES, STATE_BYTES
from jobs.estimation.flops import trainable_parameters
from jobs.estimation.hardware import Machine
from jobs.estimation.run_total import compute_checkpoint_interval
from jobs.estimation.validation import check_boolean, check_integer, check_number
from jobs.estimation.workload import Workload

SMALL_FILE_BYTES: Final = 1e6
MANY_FILES: Final = 1_000_000
MANY_READERS: Final = 1024
LARGEST_STALL_SHARE: Final = 0.05
LARGEST_READ_SHARE: Final = 0.5
NOTABLE_SAVING_S: Final = 5.0

SNAPSHOT_BYTES_PER_S_PER_DEVICE: Final = 3e9
"""Copying a checkpoint to host memory, the stall of an asynchronous one. Two runs of DLRover's flash checkpoint:
GLM-65B on 1,536 H800 in 0.2 s (14 bytes a parameter: 3.0 GB/s a device), GPT-2 1.5B on 16 A100 in 0.5 s (24 GB:
3.0 GB/s)."""

_DAY_S: Final = 86_400
_MAX_BYTES: Final = 1e21


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """How checkpoints are written and which are kept.

    The last `keep_last` are kept, and every `keep_every`-th for good (0: none). `interval_s` is the time between the
    starts of two of them, None for Daly's optimum.
    """

    keep_last: int = 2
    keep_every: int = 0
    is_asynchronous: bool = False
    interval_s: float | None = None

    def __post_init__(self) -> None:
        check_integer("checkpoint_policy.keep_last", self.keep_last, minimum=1, maximum=10**6)
        check_integer("checkpoint_policy.keep_every", self.keep_every, minimum=0, maximum=10**6)
        check_boolean("checkpoint_policy.is_asynchronous", self.is_asynchronous)
        if self.interval_s is not None:
            check_number("checkpoint_policy.interval_s", self.interval_s, minimum=1.0, maximum=1e9)

    def count_kept(self, written: int) -> int:
        """Checkpoints on disk after `written` of them, old ones having been deleted."""
        permanent = max(written - self.keep_last, 0) // self.keep_every if self.keep_every else 0
        return min(written, self.keep_last) + permanent

    def count_writable(self, room: int) -> int | None:
        """Checkpoints that can be written where `room` of them fit; None if there is no end.

        One is written in full before an old one is deleted, so `room` must hold those kept and one more.
        """
        if room <= self.keep_last:
            return max(room, 0)
        if not self.keep_every:
            return None
        return self.keep_last + self.keep_every * (room - self.keep_last)


def checkpoint_bytes_per_parameter(workload: Workload) -> float:
    """Bytes a trained parameter takes in a checkpoint: weights, fp32 master copy and optimizer states.

    14 with Adam and 16-bit weights (2 + 4 + 8): BLOOM's 2,294.77 GiB for 176 B (bigscience, train/tr11-176B-ml), and
    the "13.1 bytes" of NVIDIA's and MLPerf's tables, which print GiB as GB.
    """
    if workload.precision == "fp32":
        return 4.0 + STATE_BYTES[workload.optimizer]
    return 2.0 + MASTER_BYTES + STATE_BYTES[workload.optimizer]


def count_checkpoint_bytes(workload: Workload) -> float:
    """Bytes of one checkpoint to resume from; of adapters (LoRA) only these, since the base stays what it was."""
    return trainable_parameters(workload) * checkpoint_bytes_per_parameter(workload)


@dataclass(frozen=True, kw_only=True)
class StoragePlan:
    """What the run needs of the storage and what it gets.

    `interval_s` is the work between two checkpoints; they start every interval_s + stall_s. `kept_bytes` is the most
    at any time: those kept by the policy and the one being written. `days_until_full` is None where the disk doesn't
    fill (or its size isn't known). `needed_bytes_per_s` reads the data and writes checkpoints so that training stands
    still for at most 5 % of the time (asynchronous: so that a write ends before the next begins).
    """

    dataset_bytes: float
    dataset_files: int | None
    mean_file_bytes: float | None
    read_bytes_per_s: float
    checkpoint_bytes: float
    is_asynchronous: bool
    write_s: float
    snapshot_s: float
    """What an asynchronous checkpoint would stop training."""
    stall_s: float
    interval_s: float
    stall_share: float
    checkpoints: int
    written_bytes_per_day: float
    growth_bytes_per_day: float
    kept_checkpoints: int
    kept_bytes: float
    new_files: int
    """Files that checkpoints (and a data set not yet in place) add to those on disk."""
    free_bytes: float | None
    free_inodes: int | None
    days_until_full: float | None
    storage_bytes_per_s: float
    needed_bytes_per_s: float
    concurrent_readers: int
    load_s: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_storage(
    *,
    dataset_bytes: float,
    read_bytes_per_s: float,
    checkpoint_bytes: float,
    storage_bytes_per_s: float,
    devices: int,
    mtbf_s: float,
    run_s: float,
    policy: CheckpointPolicy | None = None,
    dataset_files: int | None = None,
    free_bytes: float | None = None,
    free_inodes: int | None = None,
    is_dataset_in_place: bool = True,
    loaders_per_device: int = 0,
    snapshot_bytes_per_s_per_device: float = SNAPSHOT_BYTES_PER_S_PER_DEVICE,
) -> StoragePlan:
    """Plan the storage of a run of `run_s` seconds on `devices`; see `StoragePlan`. Raises InvalidInput.

    Each device writes a file a checkpoint and reads its part of one at the start; `loaders_per_device` data-loading
    processes beside it open data. `free_bytes` and `free_inodes` are what disk and quota leave; with
    `is_dataset_in_place` false the data set must still find room there, too.
    """
    policy = policy or CheckpointPolicy()
    bounds = {
        "dataset_bytes": (dataset_bytes, 0.0, _MAX_BYTES),
        "read_bytes_per_s": (read_bytes_per_s, 0.0, _MAX_BYTES),
        "checkpoint_bytes": (checkpoint_bytes, 0.0, _MAX_BYTES),
        "storage_bytes_per_s": (storage_bytes_per_s, 1.0, 1e18),
        "mtbf_s": (mtbf_s, 1e-3, 1e18),
        "run_s": (run_s, 0.0, 1e15),
        "free_bytes": (0.0 if free_bytes is None else free_bytes, 0.0, _MAX_BYTES),
        "snapshot_bytes_per_s_per_device": (snapshot_bytes_per_s_per_device, 1e3, 1e15),
    }
    for name, (value, low, high) in bounds.items():
        check_number(name, value, minimum=low, maximum=high)
    check_integer("devices", devices, minimum=1, maximum=10**7)
    check_integer("loaders_per_device", loaders_per_device, minimum=0, maximum=1024)
    files = 0 if dataset_files is None else check_integer("dataset_files", dataset_files, minimum=1, maximum=10**13)
    if free_inodes is not None:
        check_integer("free_inodes", free_inodes, minimum=0, maximum=10**15)

    if checkpoint_bytes < 1:
        checkpoint_bytes = 0.0
    write_s = checkpoint_bytes / storage_bytes_per_s
    snapshot_s = min(write_s, checkpoint_bytes / (devices * snapshot_bytes_per_s_per_device))
    stall_s = snapshot_s if policy.is_asynchronous else write_s
    if policy.interval_s is None:
        interval_s = compute_checkpoint_interval(write_s=write_s, stall_s=stall_s, mtbf_s=mtbf_s)
    else:
        interval_s = max(policy.interval_s - stall_s, 1e-3)
    period_s = interval_s + stall_s
    written = ceil(run_s / period_s) if checkpoint_bytes else 0
    per_day = _DAY_S / period_s
    kept = policy.count_kept(written) + (1 if written > policy.keep_last else 0)
    room = None if free_bytes is None else free_bytes - (0.0 if is_dataset_in_place else dataset_bytes)
    full_s = _find_full_s(policy, room_bytes=room, checkpoint_bytes=checkpoint_bytes, period_s=period_s)
    longest_s = interval_s if policy.is_asynchronous else LARGEST_STALL_SHARE * period_s
    return StoragePlan(
        dataset_bytes=dataset_bytes,
        dataset_files=dataset_files,
        mean_file_bytes=None if dataset_files is None else dataset_bytes / dataset_files,
        read_bytes_per_s=read_bytes_per_s,
        checkpoint_bytes=checkpoint_bytes,
        is_asynchronous=policy.is_asynchronous,
        write_s=write_s,
        snapshot_s=snapshot_s,
        stall_s=stall_s,
        interval_s=interval_s,
        stall_share=stall_s / period_s,
        checkpoints=written,
        written_bytes_per_day=checkpoint_bytes * per_day,
        growth_bytes_per_day=checkpoint_bytes * per_day / policy.keep_every if policy.keep_every else 0.0,
        kept_checkpoints=kept,
        kept_bytes=kept * checkpoint_bytes,
        new_files=kept * devices + (0 if is_dataset_in_place else files),
        free_bytes=free_bytes,
        free_inodes=free_inodes,
        days_until_full=None if full_s is None or full_s >= run_s else full_s / _DAY_S,
        storage_bytes_per_s=storage_bytes_per_s,
        needed_bytes_per_s=read_bytes_per_s + checkpoint_bytes / longest_s,
        concurrent_readers=devices * (1 + loaders_per_device),
        load_s=write_s,
    )


def _find_full_s(
    policy: CheckpointPolicy, *, room_bytes: float | None, checkpoint_bytes: float, period_s: float
) -> float | None:
    """Seconds until a checkpoint finds no room; None if that never happens or isn't known."""
    if room_bytes is None or not checkpoint_bytes:
        return None
    writable = policy.count_writable(int(room_bytes // checkpoint_bytes))
    # The next one after the last that fits finds the disk full.
    return None if writable is None else (writable + 1) * period_s


def plan_storage_of(
    workload: Workload,
    machine: Machine,
    *,
    step_s: float,
    devices: int,
    run_s: float | None = None,
    policy: CheckpointPolicy | None = None,
    dataset_files: int | None = None,
    free_bytes: float | None = None,
    free_inodes: int | None = None,
    is_dataset_in_place: bool = True,
) -> StoragePlan:
    """`plan_storage` of a workload at `step_s` seconds a step; `run_s` None is steps x step time."""
    rate = workload.tokens_per_step / check_number("step_s", step_s, minimum=1e-9, maximum=1e9)
    return plan_storage(
        dataset_bytes=workload.tokens * workload.bytes_per_token_on_disk,
        read_bytes_per_s=rate * workload.bytes_per_token_on_disk,
        checkpoint_bytes=count_checkpoint_bytes(workload),
        storage_bytes_per_s=machine.storage_rate_bytes_per_s(devices),
        devices=devices,
        mtbf_s=3600 * machine.mtbf_hours_per_device / devices,
        run_s=workload.steps * step_s if run_s is None else run_s,
        policy=policy,
        dataset_files=dataset_files,
        free_bytes=free_bytes,
        free_inodes=free_inodes,
        is_dataset_in_place=is_dataset_in_place,
    )


def review_storage(plan: StoragePlan) -> list[Advice]:
    """Remarks on reading, checkpoints and space; none is an error."""
    advice = [*_review_files(plan), *_review_checkpoints(plan)]
    if plan.read_bytes_per_s > LARGEST_READ_SHARE * plan.storage_bytes_per_s:
        parameters: dict[str, Any] = {"read_mb_per_s": plan.read_bytes_per_s / 1e6}
        advice.append(Advice(code="reading_too_fast", severity="warning", parameters=parameters))
    if plan.needed_bytes_per_s > plan.storage_bytes_per_s:
        parameters = {
            "needed_gb_per_s": plan.needed_bytes_per_s / 1e9,
            "available_gb_per_s": plan.storage_bytes_per_s / 1e9,
        }
        advice.append(Advice(code="storage_too_slow", severity="warning", parameters=parameters))
    return advice


def _review_files(plan: StoragePlan) -> list[Advice]:
    advice = []
    files, mean = plan.dataset_files, plan.mean_file_bytes
    if files is not None and mean is not None and files > MANY_FILES and mean < SMALL_FILE_BYTES:
        parameters: dict[str, Any] = {"files": float(files), "mean_kb": mean / 1e3}
        advice.append(Advice(code="small_files", severity="warning", parameters=parameters))
    if plan.free_inodes is not None and plan.new_files > plan.free_inodes:
        parameters = {"files": float(plan.new_files), "free": float(plan.free_inodes)}
        advice.append(Advice(code="inode_quota", severity="warning", parameters=parameters))
    if plan.concurrent_readers > MANY_READERS:
        parameters = {"readers": plan.concurrent_readers}
        advice.append(Advice(code="many_readers_at_start", severity="info", parameters=parameters))
    return advice


def _review_checkpoints(plan: StoragePlan) -> list[Advice]:
    advice = []
    if plan.stall_share > LARGEST_STALL_SHARE:
        parameters: dict[str, Any] = {"write_s": plan.stall_s, "interval_s": plan.interval_s}
        advice.append(Advice(code="checkpoints_costly", severity="warning", parameters=parameters))
    if not plan.is_asynchronous and plan.write_s - plan.snapshot_s > NOTABLE_SAVING_S:
        parameters = {"stall_s": plan.snapshot_s, "write_s": plan.write_s}
        advice.append(Advice(code="try_asynchronous_checkpoints", severity="info", parameters=parameters))
    if plan.days_until_full is not None:
        parameters = {"days": plan.days_until_full}
        advice.append(Advice(code="disk_full", severity="warning", parameters=parameters))
    return advice
