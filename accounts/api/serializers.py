"""What endpoints of people, projects and allocations read and write."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.api.fields import HoursField, StrictCharField, UtcDateTimeField
from accounts.api.validation import StrictSerializer
from accounts.models import Allocation, Cluster, LedgerEntry, LedgerKind, Membership, Project, ProjectState, Role, User
from accounts.services.forecasts import Forecast, forecast_allocations


class CredentialsSerializer(StrictSerializer):
    """A user name (or e-mail address) and password."""

    username = StrictCharField(max_length=254)
    password = StrictCharField(max_length=1024, write_only=True)


class TokenSerializer(serializers.Serializer[Any]):
    """A new token. It is shown this once: the portal keeps only its hash."""

    token = serializers.CharField()
    expires_at = UtcDateTimeField()


class MemberProjectSerializer(serializers.Serializer[Any]):
    """A project that one is in, and as what."""

    code = serializers.CharField(source="project.code")
    title = serializers.CharField(source="project.title")
    is_active = serializers.SerializerMethodField(help_text="May it spend?")
    role = serializers.ChoiceField(Role.choices)

    def get_is_active(self, membership: Membership) -> bool:
        return membership.project.state == ProjectState.ACTIVE


class MeSerializer(serializers.ModelSerializer[User]):
    """The person who asks."""

    name = serializers.CharField(source="get_full_name")
    projects = MemberProjectSerializer(many=True, source="memberships.all")

    class Meta:
        model = User
        fields = ["username", "name", "email", "time_zone", "is_staff", "projects"]
        extra_kwargs = {
            "time_zone": {"help_text": "A name of the time zone database; empty: the centre's."},
            "is_staff": {"help_text": "May see all projects and jobs."},
        }


class ProjectSerializer(serializers.ModelSerializer[Project]):
    """A project. `role` is that of the person who asks; null for staff who aren't members."""

    institution = serializers.CharField(source="institution.code")
    institution_name = serializers.CharField(source="institution.name")
    is_active = serializers.SerializerMethodField(help_text="May it spend?")
    role = serializers.ChoiceField(Role.choices, allow_null=True)

    class Meta:
        model = Project
        fields = ["code", "title", "institution", "institution_name", "field_of_science", "is_active", "role"]

    def get_is_active(self, project: Project) -> bool:
        return project.state == ProjectState.ACTIVE


class MemberSerializer(serializers.Serializer[Any]):
    """A member of a project."""

    username = serializers.CharField(source="user.username")
    name = serializers.CharField(source="user.get_full_name")
    role = serializers.ChoiceField(Role.choices)
    joined_at = UtcDateTimeField()


class ProjectDetailSerializer(ProjectSerializer):
    """A project with its members."""

    members = MemberSerializer(many=True, source="memberships.all")

    class Meta(ProjectSerializer.Meta):
        fields = [*ProjectSerializer.Meta.fields, "members"]


class AllocationSerializer(serializers.ModelSerializer[Allocation]):
    """Accelerator time granted to a project for a period.

    Available is what is granted, less what is used and reserved; it can be spent while `is_active`.
    """

    project = serializers.CharField(source="project.code")
    resource_class = serializers.CharField(source="resource_class.code")
    start_at = UtcDateTimeField()
    end_at = UtcDateTimeField()
    is_active = serializers.SerializerMethodField(help_text="Does its period hold the present?")
    available_s = serializers.IntegerField(help_text="Accelerator-seconds.")
    granted_hours = HoursField(source="granted_s")
    used_hours = HoursField(source="used_s")
    reserved_hours = HoursField(source="reserved_s")
    available_hours = HoursField(source="available_s")

    class Meta:
        model = Allocation
        fields = [
            "uuid",
            "project",
            "resource_class",
            "start_at",
            "end_at",
            "is_active",
            "granted_s",
            "used_s",
            "reserved_s",
            "available_s",
            "granted_hours",
            "used_hours",
            "reserved_hours",
            "available_hours",
        ]
        extra_kwargs = {f"{name}_s": {"help_text": "Accelerator-seconds."} for name in ("granted", "used", "reserved")}

    def get_is_active(self, allocation: Allocation) -> bool:
        return bool(allocation.start_at <= self.context["now"] < allocation.end_at)


class ForecastSerializer(serializers.Serializer[Forecast]):
    """When an allocation runs out, if the last 30 days are a guide: a range that holds 8 of 10 ways it may go."""

    unknown = serializers.ChoiceField(
        ["", "too_new", "unused", "too_little_use"],
        help_text="Why nothing can be said; empty: something can, and the rest is filled.",
    )
    rate_s_per_day = serializers.FloatField(help_text="Charged a day, on the mean (accelerator-seconds).")
    runs_out_first = serializers.DateField(allow_null=True, help_text="P10. Null: not before the period ends.")
    runs_out_typical = serializers.DateField(allow_null=True, help_text="P50.")
    runs_out_last = serializers.DateField(allow_null=True, help_text="P90.")
    left_at_end_low_s = serializers.IntegerField(help_text="P10 of what is left when the period ends.")
    left_at_end_typical_s = serializers.IntegerField(help_text="P50.")
    left_at_end_high_s = serializers.IntegerField(help_text="P90.")


class AllocationDetailSerializer(AllocationSerializer):
    """An allocation with a forecast; null while its period doesn't hold the present."""

    forecast = serializers.SerializerMethodField()

    class Meta(AllocationSerializer.Meta):
        fields = [*AllocationSerializer.Meta.fields, "forecast"]

    @extend_schema_field(ForecastSerializer(allow_null=True))
    def get_forecast(self, allocation: Allocation) -> Any:
        if not self.get_is_active(allocation):
            return None
        (forecast,) = forecast_allocations([allocation], at=self.context["now"])
        return ForecastSerializer(forecast).data


class LedgerEntrySerializer(serializers.ModelSerializer[LedgerEntry]):
    """One line of an allocation's ledger: what it changed of granted, reserved and used."""

    kind = serializers.ChoiceField(LedgerKind.choices)
    kind_label = serializers.CharField(source="get_kind_display")
    reference = serializers.CharField(help_text="The job's id, or what else made the entry.")
    at = UtcDateTimeField()
    actor = serializers.CharField(source="actor.username", default=None, allow_null=True)

    class Meta:
        model = LedgerEntry
        fields = [
            "id",
            "kind",
            "kind_label",
            "reference",
            "granted_delta_s",
            "reserved_delta_s",
            "used_delta_s",
            "at",
            "actor",
            "reason",
        ]


class ClusterSerializer(serializers.ModelSerializer[Cluster]):
    """A machine with a scheduler."""

    is_available = serializers.BooleanField(help_text="Did its scheduler answer when last asked?")
    unavailable_since_at = UtcDateTimeField(allow_null=True)
    last_polled_at = UtcDateTimeField(allow_null=True)

    class Meta:
        model = Cluster
        fields = ["code", "title", "is_enabled", "is_available", "unavailable_since_at", "last_polled_at"]
        extra_kwargs = {"is_enabled": {"help_text": "Does it accept jobs?"}}


class AllocationQuery(StrictSerializer):
    """Which allocations."""

    project = serializers.CharField(required=False, max_length=32, help_text="Code of a project.")
    resource_class = serializers.CharField(required=False, max_length=32, help_text="Code of a resource class.")
    active = serializers.BooleanField(required=False, help_text="Only those whose period holds the present, or not.")
