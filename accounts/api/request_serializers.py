"""What endpoints of requests read and write. Amounts are accelerator-seconds by code of resource class."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.api.fields import StrictBooleanField, StrictCharField, StrictIntegerField, UtcDateTimeField
from accounts.api.validation import StrictSerializer
from accounts.models import (
    MAX_REQUEST_S,
    AllocationRequest,
    RequestEvent,
    RequestKind,
    RequestState,
    RequestStep,
)


class AmountsField(serializers.DictField):
    """Accelerator-seconds by code of resource class."""

    def __init__(self, *, low: int, **kwargs: Any) -> None:
        super().__init__(child=StrictIntegerField(min_value=low, max_value=MAX_REQUEST_S), **kwargs)


class ClaimedEstimateSerializer(StrictSerializer):
    """Why so many hours: what the planner says of the run. POST /estimates gives the figures."""

    model = StrictCharField(max_length=200, required=False)
    tokens = StrictIntegerField(min_value=1, max_value=10**18, required=False)
    partition = StrictCharField(max_length=200, required=False)
    accelerator = StrictCharField(max_length=100, required=False)
    devices = StrictIntegerField(min_value=1, max_value=10**7, required=False)
    duration_s = StrictIntegerField(min_value=1, max_value=10**10, required=False)
    amount_s = StrictIntegerField(min_value=1, max_value=MAX_REQUEST_S, required=False)
    engine_version = StrictCharField(max_length=32, required=False)


class RequestBodySerializer(StrictSerializer):
    """A request. Which fields belong to it depends on its kind."""

    kind = serializers.ChoiceField(RequestKind.choices)
    justification = StrictCharField(max_length=8000)
    project = StrictCharField(max_length=32, required=False, help_text="Code; not for a new project.")
    institution = StrictCharField(max_length=32, required=False, help_text="Code; of a new project.")
    project_code = StrictCharField(max_length=32, required=False, help_text="Of a new project.")
    project_title = StrictCharField(max_length=200, required=False, help_text="Of a new project.")
    field_of_science = StrictCharField(max_length=100, required=False, allow_blank=True)
    new_pi = StrictCharField(max_length=150, required=False, help_text="User name; for a change of PI.")
    amounts = AmountsField(low=1, required=False, help_text="Accelerator-seconds by code of resource class.")
    start_at = UtcDateTimeField(required=False)
    end_at = UtcDateTimeField(required=False)
    estimate = ClaimedEstimateSerializer(required=False)


class DecisionBodySerializer(StrictSerializer):
    """What is granted. `amounts` and period are for requests of hours; 0 refuses a line."""

    reason = StrictCharField(max_length=500)
    amounts = AmountsField(low=0, required=False, help_text="Accelerator-seconds by code of resource class.")
    start_at = UtcDateTimeField(required=False)
    end_at = UtcDateTimeField(required=False)
    takes_rest = StrictBooleanField(
        default=False, help_text="At the end of a project: take what it has left now, instead of letting it expire."
    )


class ReasonBodySerializer(StrictSerializer):
    """Why it is rejected."""

    reason = StrictCharField(max_length=500)


class WordsBodySerializer(StrictSerializer):
    """A question, or an answer."""

    words = StrictCharField(max_length=4000)


class RequestEventSerializer(serializers.ModelSerializer[RequestEvent]):
    """A step."""

    step = serializers.ChoiceField(RequestStep.choices)
    at = UtcDateTimeField()
    actor = serializers.CharField(source="actor.username")

    class Meta:
        model = RequestEvent
        fields = ["step", "at", "actor", "words"]


class RequestLineSerializer(serializers.Serializer[Any]):
    """Hours of one resource class."""

    resource_class = serializers.CharField(source="resource_class.code")
    amount_s = serializers.IntegerField(help_text="Asked for, accelerator-seconds.")
    granted_s = serializers.IntegerField(allow_null=True, help_text="Accelerator-seconds; null until approved.")
    allocation = serializers.UUIDField(source="allocation.uuid", default=None, allow_null=True)


class RequestSerializer(serializers.ModelSerializer[AllocationRequest]):
    """A request, and what became of it."""

    kind = serializers.ChoiceField(RequestKind.choices)
    state = serializers.ChoiceField(RequestState.choices)
    requester = serializers.CharField(source="requester.username")
    project = serializers.CharField(source="project.code", default=None, allow_null=True)
    institution = serializers.CharField(source="institution.code")
    new_pi = serializers.CharField(source="new_pi.username", default=None, allow_null=True)
    start_at = UtcDateTimeField(allow_null=True)
    end_at = UtcDateTimeField(allow_null=True)
    submitted_at = UtcDateTimeField()
    decided_at = UtcDateTimeField(allow_null=True)
    decided_by = serializers.CharField(source="decided_by.username", default=None, allow_null=True)
    granted_start_at = UtcDateTimeField(allow_null=True)
    granted_end_at = UtcDateTimeField(allow_null=True)
    lines = RequestLineSerializer(many=True)

    class Meta:
        model = AllocationRequest
        fields = [
            "uuid",
            "kind",
            "state",
            "requester",
            "project",
            "institution",
            "project_code",
            "project_title",
            "field_of_science",
            "new_pi",
            "start_at",
            "end_at",
            "lines",
            "submitted_at",
            "decided_at",
            "decided_by",
            "decision_reason",
            "granted_start_at",
            "granted_end_at",
        ]


class RequestDetailSerializer(RequestSerializer):
    """A request with its reasons and steps."""

    estimate = serializers.SerializerMethodField(help_text="The attached estimate, as it was then.")
    events = RequestEventSerializer(many=True)

    class Meta(RequestSerializer.Meta):
        fields = [*RequestSerializer.Meta.fields, "justification", "estimate", "events"]

    @extend_schema_field({"type": ["object", "null"], "additionalProperties": {}})
    def get_estimate(self, request: AllocationRequest) -> Any:
        return request.estimate


class RequestQuery(StrictSerializer):
    """Which requests."""

    state = serializers.ChoiceField(RequestState.choices, required=False)
    kind = serializers.ChoiceField(RequestKind.choices, required=False)
    project = serializers.CharField(required=False, max_length=32, help_text="Code of a project.")
    open = serializers.BooleanField(required=False, help_text="Only those still to be decided, or not.")
    mine = serializers.BooleanField(required=False, help_text="Only those that you have made, or not.")
