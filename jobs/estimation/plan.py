"""A parallel plan, and plans as columns of NumPy arrays so that many are evaluated at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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
MAX_DEVICES: Final = 1_000_000

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

_DEGREES: Final = ("tensor_parallel", "pipeline_parallel", "data_parallel", "context_parallel", "expert_parallel")


@dataclass(frozen=True, kw_only=True)
class ParallelPlan:
    """How one training job is spread over devices.

    Device order: tensor (innermost) - context - data - pipeline (outermost). `zero_stage` shards over data and
    context ranks: 1 optimizer states, 2 also gradients, 3 also weights (FSDP full shard). `virtual_stages` is the
    number of model chunks a device holds (interleaved 1F1B). `recomputation` "selective" recomputes the attention
    core (standard kernel) or the norms (flash kernel) in the backward pass, "full" whole layers.
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
    sequence_parallel: bool = False

    def __post_init__(self) -> None:
        for name in (*_DEGREES, "virtual_stages", "micro_batch_size"):
            number = check_integer(f"plan.{name}", getattr(self, name), minimum=1, maximum=MAX_DEVICES)
            object.__setattr__(self, name, number)
        object.__setattr__(self, "zero_stage", check_integer("plan.zero_stage", self.zero_stage, minimum=0, maximum=3))
        check_choice("plan.recomputation", self.recomputation, RECOMPUTATIONS)
        check_boolean("plan.sequence_parallel", self.sequence_parallel)
        if self.expert_parallel != 1:
            raise InvalidInput("plan.expert_parallel", self.expert_parallel, "1 (dense models only in this version)")
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


@dataclass(frozen=True, kw_only=True)
class PlanColumns:
    """Many plans, one array per field, all of equal length; short names as in the literature."""

    tp: Integers
    pp: Integers
    dp: Integers
    cp: Integers
    virtual: Integers
    zero: Integers
    micro: Integers
    recompute: Integers
    """Index into RECOMPUTATIONS."""
    sequence: Booleans

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
            virtual=column("virtual_stages"),
            zero=column("zero_stage"),
            micro=column("micro_batch_size"),
            recompute=np.array([RECOMPUTATIONS.index(plan.recomputation) for plan in plans], dtype=np.int64),
            sequence=np.array([plan.sequence_parallel for plan in plans], dtype=np.bool_),
        )

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
            virtual_stages=int(self.virtual[row]),
            zero_stage=int(self.zero[row]),
            micro_batch_size=int(self.micro[row]),
            recomputation=RECOMPUTATIONS[int(self.recompute[row])],
            sequence_parallel=bool(self.sequence[row]),
        )
