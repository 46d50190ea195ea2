"""A parallel plan, and plans as columns of NumPy arrays so that many are evaluated at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jobs.estimation.validation import (
    InvalidInput,
    check_boolean,
    check_choice,
    check_integer,
    check_keys,
    check_mapping,
)

RECOMPUTATIONS: Final = ("none", "selective", "full")
SCHEDULES: Final = ("1f1b", "zero_bubble")
OFFLOADS: Final = ("none", "optimizer", "optimizer_and_weights")
MAX_DEVICES: Final = 1_000_000

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def add_up(parts: Mapping[str, Floats]) -> Floats:
    """The sum of arrays that broadcast to each other."""
    return reduce(np.add, parts.values())


_DEGREES: Final = ("tensor_parallel", "pipeline_parallel", "data_parallel", "context_parallel", "expert_parallel")


@dataclass(frozen=True, kw_only=True)
class ParallelPlan:
    """How one training job is spread over devices.

    Device order: tensor (innermost) - context - data - pipeline (outermost). `zero_stage` shards over data and
    context ranks: 1 optimizer states, 2 also gradients, 3 also weights (FSDP full shard); `zero_group` is the number
    of ranks it shards over if not all of them (hybrid sharding: copies between groups), 0 for all. `virtual_stages`
    is the number of model chunks a device holds (interleaved 1F1B). `recomputation` "selective" recomputes the
    attention core (standard kernel) or the norms and activation functions (flash kernel) in the backward pass, "full"
    whole layers; `recomputed_layers` of a stage, 0 for all of them. `expert_parallel` ranks lie within data x context
    x tensor ranks (Megatron's folding) and do not multiply the devices. `pipeline_schedule` "zero_bubble" is ZB-H1
    (arXiv 2401.10241). `offload` keeps optimizer states, or weights, too, in host memory (ZeRO-Offload).
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    virtual_stages: int = 1
    zero_stage: int = 0
    micro_batch_size: int = 1
    recomputation: str = "none"
    recomputed_layers: int = 0
    sequence_parallel: bool = False
    zero_group: int = 0
    pipeline_schedule: str = "1f1b"
    offload: str = "none"

    def __post_init__(self) -> None:
        for name in (*_DEGREES, "virtual_stages", "micro_batch_size"):
            number = check_integer(f"plan.{name}", getattr(self, name), minimum=1, maximum=MAX_DEVICES)
            object.__setattr__(self, name, number)
        object.__setattr__(self, "zero_stage", check_integer("plan.zero_stage", self.zero_stage, minimum=0, maximum=3))
        check_choice("plan.recomputation", self.recomputation, RECOMPUTATIONS)
        check_boolean("plan.sequence_parallel", self.sequence_parallel)
        for name in ("zero_group", "recomputed_layers"):
            number = check_integer(f"plan.{name}", getattr(self, name), minimum=0, maximum=MAX_DEVICES)
            object.__setattr__(self, name, number)
        check_choice("plan.pipeline_schedule", self.pipeline_schedule, SCHEDULES)
        check_choice("plan.offload", self.offload, OFFLOADS)
        ranks = self.data_parallel * self.context_parallel
        if self.zero_group and ranks % self.zero_group:
            raise InvalidInput("plan.zero_group", self.zero_group, f"0 or a divisor of data x context ranks ({ranks})")
        if ranks * self.tensor_parallel % self.expert_parallel:
            raise InvalidInput(
                "plan.expert_parallel",
                self.expert_parallel,
                f"a divisor of data x context x tensor ranks ({ranks * self.tensor_parallel})",
            )
        if self.virtual_stages > 1 and self.pipeline_parallel == 1:
            raise InvalidInput("plan.virtual_stages", self.virtual_stages, "1 without pipeline parallelism")
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise InvalidInput("plan.sequence_parallel", True, "false without tensor parallelism")
        if self.devices > MAX_DEVICES:
            raise InvalidInput("plan", self.devices, f"at most {MAX_DEVICES} devices")

    @property
    def devices(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel * self.context_parallel

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ParallelPlan":
        mapping = check_mapping("plan", data)
        check_keys("plan", mapping, known={field.name for field in fields(cls)})
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True, eq=False, repr=False)
class PlanColumns:
    """Many plans, one array per field, all of equal length; short names as in the literature."""

    tp: Integers
    pp: Integers
    dp: Integers
    cp: Integers
    ep: Integers
    virtual: Integers
    zero: Integers
    zero_group: Integers
    """Ranks that ZeRO shards over: never 0, unlike the field of a plan."""
    micro: Integers
    recompute: Integers
    """Index into RECOMPUTATIONS."""
    recomputed_layers: Integers
    sequence: Booleans
    schedule: Integers
    """Index into SCHEDULES."""
    offload: Integers
    """Index into OFFLOADS."""

    def __len__(self) -> int:
        return len(self.tp)

    @classmethod
    def from_plans(cls, plans: Sequence[ParallelPlan]) -> "PlanColumns":
        def column(name: str) -> Integers:
            return np.array([getattr(plan, name) for plan in plans], dtype=np.int64)

        return cls(
            tp=column("tensor_parallel"),
            pp=column("pipeline_parallel"),
            dp=column("data_parallel"),
            cp=column("context_parallel"),
            ep=column("expert_parallel"),
            virtual=column("virtual_stages"),
            zero=column("zero_stage"),
            zero_group=np.array(
                [plan.zero_group or plan.data_parallel * plan.context_parallel for plan in plans], dtype=np.int64
            ),
            micro=column("micro_batch_size"),
            recompute=np.array([RECOMPUTATIONS.index(plan.recomputation) for plan in plans], dtype=np.int64),
            recomputed_layers=column("recomputed_layers"),
            sequence=np.array([plan.sequence_parallel for plan in plans], dtype=np.bool_),
            schedule=np.array([SCHEDULES.index(plan.pipeline_schedule) for plan in plans], dtype=np.int64),
            offload=np.array([OFFLOADS.index(plan.offload) for plan in plans], dtype=np.int64),
        )

    @classmethod
    def of_one(cls, plan: ParallelPlan) -> Any:
        """One plan, with numbers instead of arrays: the formulas are several times faster on them."""
        one = cls.from_plans([plan])
        return cls(**{field.name: getattr(one, field.name)[0] for field in fields(cls)})

    def select(self, index: Integers | Booleans) -> "PlanColumns":
        """The plans at `index` (positions or a mask)."""
        return PlanColumns(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def plan(self, row: int) -> ParallelPlan:
        """One plan as an object."""
        return ParallelPlan(
            tensor_parallel=int(self.tp[row]),
            pipeline_parallel=int(self.pp[row]),
            data_parallel=int(self.dp[row]),
            context_parallel=int(self.cp[row]),
            expert_parallel=int(self.ep[row]),
            virtual_stages=int(self.virtual[row]),
            zero_stage=int(self.zero[row]),
            micro_batch_size=int(self.micro[row]),
            recomputation=RECOMPUTATIONS[int(self.recompute[row])],
            recomputed_layers=int(self.recomputed_layers[row]),
            sequence_parallel=bool(self.sequence[row]),
            zero_group=0 if self.zero_group[row] == self.dp[row] * self.cp[row] else int(self.zero_group[row]),
            pipeline_schedule=SCHEDULES[int(self.schedule[row])],
            offload=OFFLOADS[int(self.offload[row])],
        )
