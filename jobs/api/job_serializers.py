"""What the endpoints of jobs read and write."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.reverse import reverse

from accounts.api.fields import (
    HoursField,
    StrictBooleanField,
    StrictCharField,
    StrictIntegerField,
    UtcDateTimeField,
)
from accounts.api.validation import StrictSerializer, VariantField
from jobs.api.estimate_serializers import EstimateSerializer, PlanSerializer, plan_field, workload_field
from jobs.models import JOB_STATE_CHOICES, EntryKind, EventKind, Job, JobEvent, JobSegment, Launcher
from jobs.presentation import (
    STATE_LABELS,
    describe_advice,
    describe_event,
    describe_place,
    describe_reason,
    describe_state,
)
from jobs.services.advice import describe_launch_warning
from jobs.services.fair_share import place_of
from jobs.services.lending import count_preemptions
from jobs.services.log_text import SMALLEST_LIMIT
from jobs.services.output import MAX_CHUNK_BYTES
from jobs.spec import MAX_DEVICES_PER_NODE, MAX_NODES, MAX_TIME_LIMIT_MINUTES
from jobs.states import JobState

MAX_LEAD_S = 65_535
MAX_OFFSET = 2**50
_MAX_SCRIPT_CHARACTERS = 512 * 1024


class ScriptEntrySerializer(StrictSerializer):
    """A batch script of one's own. Its #SBATCH lines have no effect: the portal writes the resources."""

    kind = serializers.ChoiceField(["script"])
    script = StrictCharField(max_length=_MAX_SCRIPT_CHARACTERS, help_text="Starts with #!, such as #!/bin/bash.")


class CommandEntrySerializer(StrictSerializer):
    """A command, as a list of words: no shell reads it."""

    kind = serializers.ChoiceField(["command"])
    command = serializers.ListField(
        child=StrictCharField(allow_blank=True, max_length=32 * 1024), min_length=1, max_length=4096
    )
    launcher = serializers.ChoiceField(
        Launcher.values, required=False, default="none", help_text="torchrun starts it on every accelerator."
    )


_ENTRY_SERIALIZERS: dict[str, Any] = {"script": ScriptEntrySerializer, "command": CommandEntrySerializer}
_EntrySchema = PolymorphicProxySerializer(
    component_name="Entry", serializers=_ENTRY_SERIALIZERS, resource_type_field_name="kind"
)


@extend_schema_field(_EntrySchema)
class EntryField(VariantField):
    """What to run: a script, or a command."""

    default_error_messages = {"invalid": _("This must be an object with the field kind.")}

    def serializer_for(self, value: Any) -> serializers.Serializer[Any] | None:
        kind = value.get("kind") if isinstance(value, Mapping) else None
        chosen = _ENTRY_SERIALIZERS.get(kind) if isinstance(kind, str) else None
        return chosen() if chosen else None

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.fail("invalid")
        kind = data.get("kind")
        chosen = _ENTRY_SERIALIZERS.get(kind) if isinstance(kind, str) else None
        if chosen is None:
            allowed = ", ".join(EntryKind.values)
            reason = _("The kind of entry must be one of: %(allowed)s.") % {"allowed": allowed}
            raise ValidationError({"kind": [ErrorDetail(reason, code="invalid_choice")]})
        serializer = chosen(data=data)
        if not serializer.is_valid():
            raise ValidationError(serializer.errors)
        validated: dict[str, Any] = serializer.validated_data
        return validated

    def to_representation(self, value: Any) -> Any:
        return value


class JobRequestSerializer(StrictSerializer):
    """A job to submit."""

    project = StrictCharField(max_length=64)
    cluster = StrictCharField(max_length=64)
    partition = StrictCharField(max_length=64)
    name = StrictCharField(max_length=128, help_text="Letters, digits and _.+-, starting with a letter or digit.")
    nodes = StrictIntegerField(min_value=1, max_value=MAX_NODES)
    devices_per_node = StrictIntegerField(min_value=1, max_value=MAX_DEVICES_PER_NODE)
    entry = EntryField()
    time_limit_minutes = StrictIntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_TIME_LIMIT_MINUTES,
        help_text="Default: from the estimate if there is a workload, else the partition's.",
    )
    checkpoint_lead_s = StrictIntegerField(
        required=False,
        default=0,
        min_value=0,
        max_value=MAX_LEAD_S,
        help_text="SIGUSR1 is sent this long before the time limit; 0: never.",
    )
    environment = serializers.DictField(
        child=StrictCharField(allow_blank=True, max_length=4096), required=False, default=dict
    )
    workload = workload_field(required=False, allow_null=True)
    plan = plan_field(required=False, allow_null=True)
    override_estimate = StrictBooleanField(
        required=False, default=False, help_text="Run even if the estimate says that it doesn't fit."
    )
    is_preemptible = StrictBooleanField(
        required=False,
        default=False,
        help_text="Run at a discount on accelerators that others leave idle; their owners may take them back at any "
        "time. The job is then signalled (SIGUSR1) and goes on from its checkpoint later. Where a partition lends.",
    )


class JobSummarySerializer(serializers.ModelSerializer[Job]):
    """A job in a list."""

    url = serializers.SerializerMethodField()
    state = serializers.ChoiceField(JOB_STATE_CHOICES)
    state_label = serializers.SerializerMethodField(help_text="The state in words.")
    reason = serializers.CharField(source="state_reason", help_text="Why it waits or ended, as a code; may be empty.")
    reason_text = serializers.SerializerMethodField(help_text="The reason in words.")
    reason_advice = serializers.SerializerMethodField(help_text="What can be done about it; may be empty.")
    is_terminal = serializers.BooleanField(help_text="Has it ended?")
    user = serializers.CharField(source="user.username")
    project = serializers.CharField(source="project.code")
    cluster = serializers.CharField(source="partition.cluster.code")
    partition = serializers.CharField(source="partition.name")
    devices = serializers.IntegerField(help_text="Accelerators in all.")
    reserved_hours = HoursField(source="reserved_s")
    charged_hours = HoursField(source="charged_s", allow_null=True)
    submitted_at = UtcDateTimeField()
    queued_at = UtcDateTimeField(allow_null=True)
    expected_start_at = UtcDateTimeField(allow_null=True)
    started_at = UtcDateTimeField(allow_null=True)
    ended_at = UtcDateTimeField(allow_null=True)
    cancel_requested_at = UtcDateTimeField(allow_null=True)

    class Meta:
        model = Job
        fields = [
            "id",
            "url",
            "name",
            "state",
            "state_label",
            "reason",
            "reason_text",
            "reason_advice",
            "is_terminal",
            "user",
            "project",
            "cluster",
            "partition",
            "nodes",
            "devices_per_node",
            "devices",
            "time_limit_minutes",
            "is_preemptible",
            "reserved_s",
            "reserved_hours",
            "charged_s",
            "charged_hours",
            "submitted_at",
            "queued_at",
            "expected_start_at",
            "started_at",
            "ended_at",
            "cancel_requested_at",
        ]
        extra_kwargs = {
            "is_preemptible": {"help_text": "May its accelerators be taken back by their owners?"},
            "reserved_s": {"help_text": "Accelerator-seconds held, or to be held, for it."},
            "charged_s": {"help_text": "Accelerator-seconds charged; null until it is settled."},
        }

    def get_url(self, job: Job) -> str:
        return reverse("api-job", args=[job.pk], request=self.context["request"])

    def get_state_label(self, job: Job) -> str:
        return str(STATE_LABELS[JobState(job.state)])

    def get_reason_text(self, job: Job) -> str:
        return describe_reason(job.state_reason, job.state_detail)

    def get_reason_advice(self, job: Job) -> str:
        return describe_advice(job.state_reason)


class SegmentSerializer(serializers.ModelSerializer[JobSegment]):
    """One scheduler job of a job."""

    cluster = serializers.CharField(source="cluster.code")
    native_id = serializers.CharField(help_text="The scheduler's id; empty until it has the job.")
    nodes = serializers.ListField(child=serializers.CharField(), help_text="Names of the nodes it ran on.")
    accepted_at = UtcDateTimeField(allow_null=True)
    started_at = UtcDateTimeField(allow_null=True)
    ended_at = UtcDateTimeField(allow_null=True)
    end_state = serializers.CharField(help_text="How it ended; empty until then.")
    preempt_requested_at = UtcDateTimeField(
        allow_null=True, help_text="When the owners of its accelerators asked for them back."
    )
    preempt_signalled_at = UtcDateTimeField(allow_null=True, help_text="When it was told to write a checkpoint.")
    last_step = serializers.IntegerField(
        allow_null=True, help_text="Of a chain: the highest step in the job's metrics when it ended."
    )

    class Meta:
        model = JobSegment
        fields = [
            *("number", "key", "native_id", "cluster", "nodes", "time_limit_minutes", "resubmissions"),
            *("accepted_at", "started_at", "ended_at", "end_state", "exit_code", "exit_signal", "last_step"),
            *("preempt_requested_at", "preempt_signalled_at"),
        ]


class UsageSerializer(serializers.Serializer[Any]):
    """What the scheduler's accounting says the job used, over all segments."""

    elapsed_s = serializers.IntegerField()
    accelerator_s = serializers.IntegerField()
    accelerator_hours = HoursField(source="accelerator_s")
    charged_s = serializers.IntegerField()
    charged_hours = HoursField(source="charged_s")
    shortfall_s = serializers.IntegerField(help_text="Used, and not covered by any allocation.")
    cpu_s = serializers.FloatField(allow_null=True)
    max_rss_bytes = serializers.IntegerField(allow_null=True)
    elapsed_over_estimated = serializers.FloatField(
        allow_null=True, help_text="Elapsed time over the estimated duration; null without an estimate."
    )


class JobLinksSerializer(serializers.Serializer[Any]):
    """Where to go from a job."""

    events = serializers.URLField()
    log = serializers.URLField()
    metrics = serializers.URLField()
    script = serializers.URLField()
    cancel = serializers.URLField()
    resubmit = serializers.URLField()


class QueuePlaceSerializer(serializers.Serializer[Any]):
    """Where a job stands among those that wait for the same resource class, and why. Shares and uses are fractions."""

    position = serializers.IntegerField()
    total = serializers.IntegerField()
    factor = serializers.FloatField(help_text="Fair factor, 0 to 1.")
    project_share = serializers.FloatField()
    project_use = serializers.FloatField()
    person_share = serializers.FloatField()
    person_use = serializers.FloatField()
    age_s = serializers.FloatField()
    advantage_s = serializers.FloatField(help_text="It goes before jobs that are older by up to this, at factor 0.")
    text = serializers.CharField(help_text="The same in words.")


class JobSerializer(JobSummarySerializer):
    """All that is known of a job."""

    state_meaning = serializers.SerializerMethodField(help_text="What the state means, as a sentence.")
    queue_place = serializers.SerializerMethodField(help_text="Its place among waiting jobs; null unless it waits.")
    reason_detail = serializers.DictField(source="state_detail", help_text="Figures of the reason.")
    settled_at = UtcDateTimeField(allow_null=True)
    cloned_from = serializers.UUIDField(source="cloned_from_id", allow_null=True)
    override_estimate = serializers.BooleanField(source="is_estimate_overridden")
    entry = serializers.SerializerMethodField()
    environment = serializers.SerializerMethodField(help_text="Empty for auditors.")
    workload = serializers.DictField(allow_null=True)
    plan = PlanSerializer(allow_null=True)
    estimate = serializers.SerializerMethodField()
    usage = serializers.SerializerMethodField()
    billing_weight = serializers.FloatField(help_text="What an accelerator-second costs, with the discount.")
    preemptible_weight = serializers.FloatField(help_text="The discount of a preemptible job: 0.5 is half; 1: none.")
    is_overrun = serializers.BooleanField(help_text="Runs beyond the project's allocation, and is not charged?")
    preemptions = serializers.SerializerMethodField(help_text="How often its accelerators were taken back.")
    segments = SegmentSerializer(many=True, source="segments.all")
    links = serializers.SerializerMethodField()

    class Meta(JobSummarySerializer.Meta):
        fields = [
            *JobSummarySerializer.Meta.fields,
            "state_meaning",
            "queue_place",
            "reason_detail",
            "settled_at",
            "exit_code",
            "exit_signal",
            "checkpoint_lead_s",
            "segment_time_limit_minutes",
            "billing_weight",
            "preemptible_weight",
            "is_overrun",
            "preemptions",
            "cloned_from",
            "override_estimate",
            "entry",
            "environment",
            "workload",
            "plan",
            "estimate",
            "usage",
            "segments",
            "links",
        ]

    def get_state_meaning(self, job: Job) -> str:
        return describe_state(job)

    @extend_schema_field(QueuePlaceSerializer(allow_null=True))
    def get_queue_place(self, job: Job) -> dict[str, Any] | None:
        place = place_of(job, at=timezone.now())
        return {**asdict(place), "text": describe_place(place)} if place else None

    def get_preemptions(self, job: Job) -> int:
        return count_preemptions(job.segments.all())

    @extend_schema_field(serializers.DictField(child=serializers.CharField()))
    def get_environment(self, job: Job) -> dict[str, str]:
        return dict(job.environment) if self.context["is_readable"] else {}

    @extend_schema_field(_EntrySchema)
    def get_entry(self, job: Job) -> dict[str, Any]:
        if not self.context["is_readable"]:
            # What it ran is not for auditors: the kind alone says that it was asked for rightly.
            contents = {"script": ""} if job.entry_kind == EntryKind.SCRIPT else {"command": [], "launcher": "none"}
            return {"kind": job.entry_kind, **contents}
        if job.entry_kind == EntryKind.SCRIPT:
            return {"kind": "script", "script": job.script}
        return {"kind": "command", "command": job.command, "launcher": job.launcher}

    @extend_schema_field(EstimateSerializer(allow_null=True))
    def get_estimate(self, job: Job) -> dict[str, Any] | None:
        estimates = sorted(job.estimates.all(), key=lambda estimate: estimate.pk)
        return dict(EstimateSerializer(estimates[-1].result).data) if estimates else None

    @extend_schema_field(UsageSerializer(allow_null=True))
    def get_usage(self, job: Job) -> dict[str, Any] | None:
        records = [segment.usage for segment in job.segments.all() if hasattr(segment, "usage")]
        if not records:
            return None
        elapsed_s = sum(record.elapsed_s for record in records)
        estimates = sorted(job.estimates.all(), key=lambda estimate: estimate.pk)
        cpu_s = [record.cpu_s for record in records if record.cpu_s is not None]
        rss = [record.max_rss_bytes for record in records if record.max_rss_bytes is not None]
        estimated_s = estimates[-1].duration_s if estimates else 0
        usage = {
            "elapsed_s": elapsed_s,
            "accelerator_s": sum(record.devices * record.elapsed_s for record in records),
            "charged_s": sum(record.charged_s for record in records),
            "shortfall_s": sum(record.shortfall_s for record in records),
            "cpu_s": sum(cpu_s) if cpu_s else None,
            "max_rss_bytes": max(rss, default=None),
            "elapsed_over_estimated": elapsed_s / estimated_s if estimated_s else None,
        }
        return dict(UsageSerializer(usage).data)

    @extend_schema_field(JobLinksSerializer)
    def get_links(self, job: Job) -> dict[str, str]:
        names = ("events", "log", "metrics", "script", "cancel", "resubmit")
        return {name: reverse(f"api-job-{name}", args=[job.pk], request=self.context["request"]) for name in names}


class LaunchWarningSerializer(serializers.Serializer[Any]):
    """A remark on the script."""

    code = serializers.CharField()
    parameters = serializers.DictField()
    text = serializers.SerializerMethodField()

    def get_text(self, warning: Any) -> str:
        return describe_launch_warning(warning)


class PreparedJobSerializer(serializers.Serializer[Any]):
    """What submitting would do."""

    time_limit_minutes = serializers.IntegerField(source="job.time_limit_minutes")
    devices = serializers.IntegerField(source="job.devices")
    reserved_s = serializers.IntegerField(source="job.reserved_s", help_text="Accelerator-seconds it would hold.")
    reserved_hours = HoursField(source="job.reserved_s")
    billing_weight = serializers.FloatField(
        source="job.billing_weight", help_text="What an accelerator-second costs, with the discount."
    )
    available_s = serializers.IntegerField(help_text="Accelerator-seconds that the project has left.")
    available_hours = HoursField(source="available_s")
    plan = PlanSerializer(source="job.plan", allow_null=True)
    script = serializers.CharField(help_text="The batch script as the scheduler would get it.")
    warnings = LaunchWarningSerializer(many=True)
    estimate = serializers.SerializerMethodField()

    @extend_schema_field(EstimateSerializer(allow_null=True))
    def get_estimate(self, prepared: Any) -> dict[str, Any] | None:
        estimate = prepared.estimate
        return None if estimate is None else dict(EstimateSerializer(estimate.to_dict()).data)


class JobEventSerializer(serializers.ModelSerializer[JobEvent]):
    """One line of a job's timeline."""

    at = UtcDateTimeField()
    kind = serializers.ChoiceField(EventKind.choices)
    text = serializers.SerializerMethodField(help_text="What happened, in words.")
    detail = serializers.DictField(help_text="Figures of what happened.")
    actor = serializers.CharField(source="actor.username", default=None, allow_null=True)

    class Meta:
        model = JobEvent
        fields = ["id", "at", "kind", "from_state", "to_state", "reason", "detail", "text", "actor"]

    def get_text(self, event: JobEvent) -> str:
        return describe_event(event)


class LogSerializer(serializers.Serializer[Any]):
    """A piece of an output file as text. Bytes that aren't UTF-8 are replaced; no character is cut."""

    text = serializers.CharField()
    offset = serializers.IntegerField(help_text="Byte at which the text starts.")
    next_offset = serializers.IntegerField(help_text="Goes into the next call.")
    size = serializers.IntegerField(help_text="Bytes that the file has now.")
    is_end = serializers.BooleanField(help_text="Was all read that there is?")


class MetricsSerializer(serializers.Serializer[Any]):
    """Points in the order they were written; each has a `step` and the numbers that the program reported."""

    points = serializers.ListField(child=serializers.DictField(child=serializers.FloatField()))
    next_offset = serializers.IntegerField(help_text="Goes into the next call.")
    is_end = serializers.BooleanField(help_text="Was all read that there is?")


class ScriptSerializer(serializers.Serializer[Any]):
    """The batch script."""

    script = serializers.CharField()
    is_final = serializers.BooleanField(help_text="False until the job is admitted: the estimate may still add a plan.")


class JobQuery(StrictSerializer):
    """Which jobs."""

    state = serializers.ListField(
        child=serializers.ChoiceField(JOB_STATE_CHOICES), required=False, help_text="May be given several times."
    )
    project = serializers.CharField(required=False, max_length=32, help_text="Code of a project.")
    cluster = serializers.CharField(required=False, max_length=32, help_text="Code of a cluster.")
    partition = serializers.CharField(required=False, max_length=64, help_text="Name of a partition.")
    user = serializers.CharField(required=False, max_length=150, help_text="User name of the owner.")
    submitted_after = UtcDateTimeField(required=False, help_text="At or after this time.")
    submitted_before = UtcDateTimeField(required=False, help_text="Before this time.")
    q = serializers.CharField(required=False, max_length=128, help_text="Part of the name.")
    unfinished = serializers.BooleanField(required=False, help_text="Only jobs that have not ended, or that have.")


class SubmitQuery(StrictSerializer):
    """How to submit."""

    validate_only = serializers.BooleanField(required=False, help_text="Check and price; write nothing.")


class LogQuery(StrictSerializer):
    """Which piece of which file."""

    offset = serializers.IntegerField(
        required=False, default=0, min_value=-MAX_OFFSET, max_value=MAX_OFFSET, help_text="Negative: from the end."
    )
    limit = serializers.IntegerField(
        required=False, default=65_536, min_value=SMALLEST_LIMIT, max_value=MAX_CHUNK_BYTES, help_text="Bytes."
    )
    file = serializers.ChoiceField(["stdout", "stderr"], required=False, default="stdout")
    segment = serializers.IntegerField(
        required=False, default=None, min_value=1, help_text="Number of a segment of the job; the newest unless given."
    )


class MetricsQuery(StrictSerializer):
    """From where."""

    offset = serializers.IntegerField(required=False, default=0, min_value=0, max_value=MAX_OFFSET)
