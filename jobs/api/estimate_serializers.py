"""What the estimator takes and says."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rest_framework import serializers

from accounts.api.fields import HoursField, JsonObjectField, StrictCharField, StrictIntegerField
from accounts.api.validation import StrictSerializer
from jobs.estimation import RECOMPUTATIONS, ParallelPlan, Workload
from jobs.estimation.plan import OFFLOADS, SCHEDULES
from jobs.presentation import describe_basis
from jobs.services.advice import describe_advice, describe_assumption
from jobs.spec import MAX_DEVICES_PER_NODE, MAX_NODES

MAX_WORKLOAD_BYTES = 256 * 1024
MAX_PLAN_BYTES = 16 * 1024

_OF_WORKLOAD = ", ".join(
    field.name for field in fields(Workload) if field.name not in ("architecture", "preset", "tokens")
)
_WORKLOAD_HELP = (
    "What is trained. `model` is {preset} (see /presets), {config} (a Hugging Face config.json) or {architecture}; "
    f"`tokens` is required. Optional: {_OF_WORKLOAD}."
)
_OF_PLAN = ", ".join(field.name for field in fields(ParallelPlan))
_PLAN_HELP = (
    f"A parallel plan to use instead of the best one: {_OF_PLAN}. Its tensor, pipeline, data and context degrees "
    "multiply to the accelerators asked for; expert parallelism lies within them."
)


def workload_field(**kwargs: Any) -> JsonObjectField:
    """The workload of a request."""
    return JsonObjectField(max_bytes=MAX_WORKLOAD_BYTES, help_text=_WORKLOAD_HELP, **kwargs)


def plan_field(**kwargs: Any) -> JsonObjectField:
    """The plan of a request."""
    return JsonObjectField(max_bytes=MAX_PLAN_BYTES, help_text=_PLAN_HELP, **kwargs)


class EstimateRequestSerializer(StrictSerializer):
    """A run to estimate."""

    project = StrictCharField(required=False, allow_null=True, max_length=64, help_text="For the effect on its quota.")
    cluster = StrictCharField(max_length=64)
    partition = StrictCharField(max_length=64)
    nodes = StrictIntegerField(min_value=1, max_value=MAX_NODES)
    devices_per_node = StrictIntegerField(min_value=1, max_value=MAX_DEVICES_PER_NODE)
    workload = workload_field()
    plan = plan_field(required=False, allow_null=True)


class PlanSerializer(serializers.Serializer[Any]):
    """How a run is spread over accelerators."""

    tensor_parallel = serializers.IntegerField()
    pipeline_parallel = serializers.IntegerField()
    data_parallel = serializers.IntegerField()
    context_parallel = serializers.IntegerField()
    expert_parallel = serializers.IntegerField()
    virtual_stages = serializers.IntegerField()
    zero_stage = serializers.IntegerField()
    micro_batch_size = serializers.IntegerField()
    recomputation = serializers.ChoiceField(RECOMPUTATIONS)
    sequence_parallel = serializers.BooleanField()
    # Those with a default are missing in plans that were stored before they were planned.
    zero_group = serializers.IntegerField(default=0, help_text="Ranks that ZeRO shards over; 0: all of them.")
    recomputed_layers = serializers.IntegerField(default=0, help_text="Of each stage; 0: all of them.")
    pipeline_schedule = serializers.ChoiceField(SCHEDULES, default="1f1b")
    offload = serializers.ChoiceField(OFFLOADS, default="none", help_text="What is kept in host memory.")


class AdviceSerializer(serializers.Serializer[Any]):
    """A remark. `code` and `parameters` are for programs, `text` is for people."""

    code = serializers.CharField()
    severity = serializers.ChoiceField(["info", "warning", "error"])
    parameters = serializers.DictField()
    text = serializers.SerializerMethodField()

    def get_text(self, advice: dict[str, Any]) -> str:
        return describe_advice(advice)


class AssumptionSerializer(serializers.Serializer[Any]):
    """What the estimate takes for granted."""

    code = serializers.SerializerMethodField()
    text = serializers.SerializerMethodField()

    def get_code(self, code: str) -> str:
        return code

    def get_text(self, code: str) -> str:
        return describe_assumption(code)


class CalibrationSerializer(serializers.Serializer[Any]):
    """How finished jobs of this centre corrected an estimate: its step time and memory are multiplied by the factors.

    `level` is the nearest one with finished jobs: shape, stack (accelerator and framework), accelerator, family,
    centre; none without any.
    """

    version = serializers.IntegerField(allow_null=True)
    step_time_factor = serializers.FloatField()
    memory_factor = serializers.FloatField()
    level = serializers.CharField()
    jobs_at_level = serializers.DictField(child=serializers.IntegerField())


class EstimateSerializer(serializers.Serializer[Any]):
    """What a run needs under one plan: what the engine's `Estimate.to_dict()` holds, with remarks in words.

    Memory is that of one accelerator. Of runs like this one, 80 % lie between p10 and p90. Fields that can be null, or
    empty objects, are so in estimates that an earlier engine made.
    """

    fits = serializers.BooleanField(help_text="Is there enough memory?")
    devices = serializers.IntegerField()
    plan = PlanSerializer()
    memory_bytes = serializers.FloatField()
    memory_capacity_bytes = serializers.IntegerField()
    memory_p10_bytes = serializers.FloatField(allow_null=True, default=None)
    memory_p90_bytes = serializers.FloatField(allow_null=True, default=None)
    memory_parts_bytes = serializers.DictField(child=serializers.FloatField())
    step_s = serializers.FloatField()
    step_p10_s = serializers.FloatField(allow_null=True, default=None)
    step_p90_s = serializers.FloatField(allow_null=True, default=None)
    step_parts_s = serializers.DictField(child=serializers.FloatField())
    steps = serializers.IntegerField()
    parameters = serializers.IntegerField()
    active_parameters = serializers.IntegerField(
        allow_null=True, default=None, help_text="Those that a token passes; fewer in a mixture of experts."
    )
    trainable_parameters = serializers.IntegerField()
    model_flop_per_step = serializers.FloatField()
    hardware_flop_per_step = serializers.FloatField()
    flop_6nd = serializers.FloatField()
    tokens_per_s = serializers.FloatField()
    tokens_per_s_per_device = serializers.FloatField()
    model_flop_per_s_per_device = serializers.FloatField()
    mfu = serializers.FloatField(help_text="Model FLOP/s over the accelerator's peak.")
    duration_s = serializers.FloatField()
    duration_p10_s = serializers.FloatField()
    duration_p90_s = serializers.FloatField()
    accelerator_s = serializers.FloatField()
    accelerator_hours = HoursField(source="accelerator_s")
    energy_j = serializers.FloatField()
    price = serializers.FloatField(allow_null=True)
    checkpoint_bytes = serializers.FloatField()
    checkpoint_write_s = serializers.FloatField()
    checkpoint_interval_s = serializers.FloatField()
    expected_goodput = serializers.FloatField()
    losses_s = serializers.DictField(
        child=serializers.FloatField(),
        default=dict,
        help_text="Time of the run that is not progress: checkpoints, restarts, rework, segments.",
    )
    dataset_bytes = serializers.FloatField()
    read_bytes_per_s = serializers.FloatField()
    written_bytes_per_day = serializers.FloatField(allow_null=True, default=None)
    kept_checkpoint_bytes = serializers.FloatField(allow_null=True, default=None)
    needed_storage_bytes_per_s = serializers.FloatField(allow_null=True, default=None)
    advice = AdviceSerializer(many=True)
    assumptions = AssumptionSerializer(many=True)
    basis = serializers.CharField(help_text="What the figures of this accelerator rest on, as a code.")
    basis_text = serializers.SerializerMethodField(help_text="What the estimate rests on, as a sentence.")
    rests_on = serializers.DictField(
        child=serializers.IntegerField(),
        default=dict,
        help_text="Published runs behind it: on this accelerator, on its family, and in all.",
    )
    calibration = CalibrationSerializer(allow_null=True, default=None, help_text="null if no calibration was in use.")
    engine_version = serializers.CharField()

    def get_basis_text(self, result: Mapping[str, Any]) -> str:
        return describe_basis(result)


class QuotaEffectSerializer(serializers.Serializer[Any]):
    """What a job with the suggested time limit would hold of the project's allocation."""

    resource_class = serializers.CharField(source="partition.resource_class.code")
    suggested_time_limit_minutes = serializers.IntegerField(help_text="Long enough for nearly every such run.")
    is_within_partition_limit = serializers.BooleanField(
        help_text="If false, the run is longer than the partition allows, and the hold is for the longest limit."
    )
    reserved_s = serializers.IntegerField(help_text="Accelerator-seconds that the job would hold.")
    reserved_hours = HoursField(source="reserved_s")
    available_s = serializers.IntegerField(
        allow_null=True, help_text="What the project has left; null without a project."
    )
    available_hours = HoursField(source="available_s", allow_null=True)
    share_of_available = serializers.FloatField(
        allow_null=True, help_text="Hold over available; null without a project, or if nothing is left."
    )
    is_covered = serializers.BooleanField(
        allow_null=True, help_text="Has the project enough left? null without a project."
    )


class QuoteSerializer(serializers.Serializer[Any]):
    """An estimate and its effect on the quota."""

    estimate = EstimateSerializer(source="estimate.to_dict")
    quota = QuotaEffectSerializer(source="*")
