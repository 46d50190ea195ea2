"""Endpoints of what there is to run on and to train, and of estimates."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import access
from accounts.api.base import ApiView, ListView
from accounts.api.fields import UtcDateTimeField
from accounts.models import Partition, Reservation
from jobs.api.estimate_serializers import EstimateRequestSerializer, QuoteSerializer
from jobs.estimation import Accelerator, Machine, Preset, accelerators, presets
from jobs.estimation.uncertainty import count_evidence, load_evidence
from jobs.services.estimates import accelerator_title, preset_title
from jobs.services.quoting import QuoteRequest, quote_run
from jobs.services.waiting import Wait, best_known_waits


class ReservationSerializer(serializers.ModelSerializer[Reservation]):
    """Nodes of a partition that are kept for some people, or for maintenance."""

    start_at = UtcDateTimeField()
    end_at = UtcDateTimeField()

    class Meta:
        model = Reservation
        fields = ["name", "start_at", "end_at", "nodes", "is_maintenance"]


class WaitSerializer(serializers.Serializer[Wait]):
    """How long jobs of one size waited from admission to their start."""

    days = serializers.IntegerField(help_text="The last so many days.")
    jobs = serializers.IntegerField(help_text="How many jobs that were.")
    median_s = serializers.FloatField(allow_null=True, help_text="Null of too few jobs.")
    p90_s = serializers.FloatField(allow_null=True, help_text="Nine of ten waited no longer. Null of too few jobs.")


class PartitionSerializer(serializers.ModelSerializer[Partition]):
    """A set of alike nodes. What is in use is as the scheduler said at `synced_at`."""

    cluster = serializers.CharField(source="cluster.code")
    title = serializers.CharField(source="__str__")
    resource_class = serializers.CharField(source="resource_class.code")
    accelerator_title = serializers.SerializerMethodField()
    devices_total = serializers.IntegerField(source="devices")
    devices_free = serializers.IntegerField(help_text="Neither in use nor out of service.")
    nodes_down = serializers.IntegerField(
        source="nodes_out_of_service", help_text="Nodes that take no new job: down, drained or under maintenance."
    )
    typical_wait_s = serializers.SerializerMethodField(help_text="By size of job in nodes: 1, 2-4, 5-16, 17+.")
    reservations = ReservationSerializer(many=True, source="coming_reservations", help_text="Present and coming.")
    synced_at = UtcDateTimeField(allow_null=True)

    class Meta:
        model = Partition
        fields = [
            "cluster",
            "name",
            "title",
            "resource_class",
            "accelerator",
            "accelerator_title",
            "is_simulated",
            "is_up",
            "nodes",
            "devices_per_node",
            "devices_total",
            "devices_in_use",
            "devices_free",
            "devices_out_of_service",
            "nodes_down",
            "typical_wait_s",
            "reservations",
            "jobs_pending",
            "jobs_running",
            "default_time_limit_minutes",
            "max_time_limit_minutes",
            "synced_at",
        ]

    def get_accelerator_title(self, partition: Partition) -> str:
        return accelerator_title(partition.accelerator)

    @extend_schema_field(serializers.DictField(child=WaitSerializer()))
    def get_typical_wait_s(self, partition: Partition) -> dict[str, Any]:
        return {wait.size: WaitSerializer(wait).data for wait in best_known_waits(partition)}


class PresetSerializer(serializers.Serializer[Any]):
    """A model that the estimator knows by name."""

    name = serializers.CharField()
    title = serializers.SerializerMethodField()
    group = serializers.CharField()
    parameters = serializers.IntegerField(source="architecture.parameters")
    active_parameters = serializers.IntegerField(
        source="architecture.active_parameters", help_text="Those that a token passes; fewer in a mixture of experts."
    )
    architecture = serializers.DictField(source="architecture.to_dict")
    defaults = serializers.DictField(help_text="Fields of a workload that it sets.")
    source_url = serializers.CharField()

    def get_title(self, preset: Preset) -> str:
        return preset_title(preset)


class AcceleratorSerializer(serializers.Serializer[Any]):
    """An accelerator that the estimator knows. Rates are dense peaks; links are per accelerator and direction."""

    code = serializers.CharField()
    title = serializers.CharField()
    vendor = serializers.CharField()
    peak_flop_per_s = serializers.DictField(child=serializers.FloatField(), help_text="By precision.")
    memory_bytes = serializers.IntegerField()
    memory_bytes_per_s = serializers.FloatField()
    intra_node_bytes_per_s = serializers.FloatField()
    inter_node_bytes_per_s = serializers.FloatField()
    devices_per_node = serializers.IntegerField()
    tdp_w = serializers.FloatField()
    family = serializers.CharField(help_text="Accelerators of one family share what published runs taught.")
    allowed_device_counts = serializers.ListField(
        child=serializers.IntegerField(), help_text="Accelerators that a job within one node may have."
    )
    scale_up_devices = serializers.IntegerField(help_text="Accelerators that reach each other at the intra-node rate.")
    supernode_devices = serializers.IntegerField(
        allow_null=True, help_text="Accelerators between which the network doesn't block; null where it blocks nowhere."
    )
    published_runs = serializers.SerializerMethodField(
        help_text="Published runs behind its estimates: on this accelerator, on its family, and in all."
    )
    source_url = serializers.CharField()
    source_status = serializers.CharField()

    def get_published_runs(self, accelerator: Accelerator) -> dict[str, int]:
        return dict(count_evidence(load_evidence(), Machine(accelerator=accelerator)))


class PartitionList(ListView):
    """Partitions."""

    serializer_class = PartitionSerializer
    ordering = ("pk",)

    def get_queryset(self) -> QuerySet[Partition]:
        coming = Reservation.objects.filter(end_at__gt=timezone.now()).order_by("start_at", "name")
        return access.usable_partitions(self.request.user).prefetch_related(
            Prefetch("reservations", coming, to_attr="coming_reservations")
        )

    @extend_schema(operation_id="list_partitions", tags=["inventory"], summary="List partitions")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Partitions that you may submit to, with what is free."""
        return super().get(request, *args, **kwargs)


class PresetList(ApiView):
    """Model presets."""

    @extend_schema(
        operation_id="list_presets",
        tags=["estimates"],
        summary="List model presets",
        responses=inline_serializer("Presets", {"results": PresetSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        """Models that the estimator knows by name, all at once."""
        return _catalogue(PresetSerializer, presets())


class AcceleratorList(ApiView):
    """Accelerators."""

    @extend_schema(
        operation_id="list_accelerators",
        tags=["estimates"],
        summary="List accelerators",
        responses=inline_serializer("Accelerators", {"results": AcceleratorSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        """Accelerators that the estimator knows, all at once."""
        return _catalogue(AcceleratorSerializer, accelerators())


class EstimateView(ApiView):
    """Estimates."""

    throttle_scopes = {"POST": "estimates"}

    @extend_schema(
        operation_id="estimate_run",
        tags=["estimates"],
        summary="Estimate a run",
        request=EstimateRequestSerializer,
        responses={200: QuoteSerializer},
    )
    def post(self, request: Request) -> Response:
        """What a run needs on so many accelerators, and what it would take of the quota. Nothing is stored."""
        body = self.read_body(EstimateRequestSerializer)
        user: Any = request.user
        quote = quote_run(user=user, request=QuoteRequest(**body), at=timezone.now())
        return Response(QuoteSerializer(quote).data)


def _catalogue(
    serializer_class: type[serializers.Serializer[Any]], entries: Mapping[str, Preset] | Mapping[str, Accelerator]
) -> Response:
    return Response({"results": serializer_class(list(entries.values()), many=True).data})
