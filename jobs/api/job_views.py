"""Endpoints of jobs."""

import re
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from accounts.access import may_read_job
from accounts.acting import act_of
from accounts.api.base import ApiView, ListView, first_or_404
from accounts.api.errors import InvalidParam, InvalidParams, shorten
from accounts.api.validation import EmptySerializer
from accounts.models import ActSource
from jobs.api.job_serializers import (
    JobEventSerializer,
    JobQuery,
    JobRequestSerializer,
    JobSerializer,
    JobSummarySerializer,
    LogQuery,
    LogSerializer,
    MetricsQuery,
    MetricsSerializer,
    PreparedJobSerializer,
    ScriptSerializer,
    SubmitQuery,
)
from jobs.models import Job, JobEvent, JobSegment
from jobs.services import launching
from jobs.services.cancellation import cancel_job
from jobs.services.log_text import LogText, decode_chunk
from jobs.services.output import read_log, read_metrics
from jobs.services.submission import SubmissionRequest, clone_request, preview_job, submit_job
from jobs.states import TERMINAL
from jobs.tasks import nudge_after_commit

_KEY = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
_KEY_PARAMETER = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    OpenApiParameter.HEADER,
    description="Makes a repeated request harmless: the first one's job comes back.",
)
_REPLAYED_HEADER = OpenApiParameter(
    "Idempotency-Replayed", str, OpenApiParameter.HEADER, response=[201], description="true: this job was made before."
)
_LOCATION_HEADER = OpenApiParameter("Location", str, OpenApiParameter.HEADER, response=[201])


class JobCollection(ListView):
    """Jobs: list and submit."""

    serializer_class = JobSummarySerializer
    query_serializers = {"GET": JobQuery, "POST": SubmitQuery}
    throttle_scopes = {"POST": "submissions"}
    ordering = ("-submitted_at", "-id")

    def paging_parameters(self) -> frozenset[str]:
        return frozenset() if self.request.method == "POST" else super().paging_parameters()

    def get_queryset(self) -> QuerySet[Job]:
        jobs: QuerySet[Job] = Job.objects.visible_to(self.request.user).with_names().without_contents()
        query = self.query
        columns = {
            "state": "state__in",
            "project": "project__code",
            "cluster": "partition__cluster__code",
            "partition": "partition__name",
            "user": "user__username",
            "submitted_after": "submitted_at__gte",
            "submitted_before": "submitted_at__lt",
            "q": "name__icontains",
        }
        jobs = jobs.filter(**{column: query[name] for name, column in columns.items() if name in query})
        if "unfinished" in query:
            jobs = jobs.exclude(state__in=TERMINAL) if query["unfinished"] else jobs.filter(state__in=TERMINAL)
        return jobs

    @extend_schema(operation_id="list_jobs", tags=["jobs"], summary="List jobs", parameters=[JobQuery])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Your jobs, and those of projects that you lead; newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="submit_job",
        tags=["jobs"],
        summary="Submit a job",
        parameters=[SubmitQuery, _KEY_PARAMETER, _REPLAYED_HEADER, _LOCATION_HEADER],
        request=JobRequestSerializer,
        responses={
            200: OpenApiResponse(PreparedJobSerializer, description="With validate_only: what submitting would do."),
            201: JobSerializer,
        },
    )
    def post(self, request: Request) -> Response:
        """Submit a job: it is checked at once, and estimated, reserved and handed over by workers."""
        submission = _build_request(self.read_body(JobRequestSerializer))
        if self.query.get("validate_only"):
            prepared = preview_job(user=_user(request), request=submission, at=timezone.now())
            return Response(PreparedJobSerializer(prepared).data)
        return _submit(request, submission)


class JobDetail(ApiView):
    """One job."""

    @extend_schema(operation_id="get_job", tags=["jobs"], summary="Get a job", responses=JobSerializer)
    def get(self, request: Request, job_id: Any) -> Response:
        """All that is known of a job: what was asked, its estimate, where it stands, what it used and cost."""
        return Response(_present(request, job_id))


class JobCancel(ApiView):
    """Ending a job."""

    @extend_schema(
        operation_id="cancel_job", tags=["jobs"], summary="Cancel a job", request=None, responses={202: JobSerializer}
    )
    def post(self, request: Request, job_id: Any) -> Response:
        """Ask for the end of a job. One that waits in the portal ends at once; repeating is harmless."""
        self.read_body(EmptySerializer)
        job = _visible(request, job_id)
        act = act_of(request, ActSource.API)
        if cancel_job(job=job, user=_user(request), at=act.at, source=act.source, ip_address=act.ip_address):
            nudge_after_commit(cancelled=True)
        return Response(_present(request, job_id), status=status.HTTP_202_ACCEPTED)


class JobResubmit(ApiView):
    """Running a job again."""

    throttle_scopes = {"POST": "submissions"}

    @extend_schema(
        operation_id="resubmit_job",
        tags=["jobs"],
        summary="Submit a job again",
        parameters=[_KEY_PARAMETER, _REPLAYED_HEADER, _LOCATION_HEADER],
        request=None,
        responses={201: JobSerializer},
    )
    def post(self, request: Request, job_id: Any) -> Response:
        """Submit a new job that asks for the same as this one."""
        self.read_body(EmptySerializer)
        return _submit(request, clone_request(_readable(request, job_id)))


class JobEventList(ListView):
    """The timeline of a job."""

    serializer_class = JobEventSerializer
    ordering = ("pk",)

    def get_queryset(self) -> QuerySet[JobEvent]:
        job = _visible(self.request, self.kwargs["job_id"])
        return JobEvent.objects.filter(job=job).select_related("actor")

    @extend_schema(operation_id="list_job_events", tags=["jobs"], summary="List a job's events")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What happened to a job, oldest first."""
        return super().get(request, *args, **kwargs)


class JobLog(ApiView):
    """What a job prints."""

    query_serializers = {"GET": LogQuery}

    @extend_schema(
        operation_id="read_job_log",
        tags=["jobs"],
        summary="Read a job's log",
        parameters=[LogQuery],
        responses=LogSerializer,
    )
    def get(self, request: Request, job_id: Any) -> Response:
        """A piece of standard output or error. To follow it, call again with `next_offset`."""
        job = _readable(request, job_id)
        offset = self.query["offset"]
        query = self.query
        chunk = read_log(job, offset, limit=query["limit"], file=query["file"], segment_number=query["segment"])
        if chunk is None:
            start = max(offset, 0)
            return Response(LogSerializer(LogText(text="", offset=start, next_offset=start, size=0, is_end=True)).data)
        return Response(LogSerializer(decode_chunk(chunk, is_tail=offset < 0, is_complete=job.is_terminal)).data)


class JobMetrics(ApiView):
    """What a job reports."""

    query_serializers = {"GET": MetricsQuery}

    @extend_schema(
        operation_id="read_job_metrics",
        tags=["jobs"],
        summary="Read a job's metrics",
        parameters=[MetricsQuery],
        responses=MetricsSerializer,
    )
    def get(self, request: Request, job_id: Any) -> Response:
        """Points (loss, speed) that the program wrote as JSON lines. To follow, call again with `next_offset`."""
        return Response(MetricsSerializer(read_metrics(_readable(request, job_id), self.query["offset"])).data)


class JobScript(ApiView):
    """The batch script of a job."""

    @extend_schema(
        operation_id="get_job_script", tags=["jobs"], summary="Get a job's script", responses=ScriptSerializer
    )
    def get(self, request: Request, job_id: Any) -> Response:
        """The batch script as the scheduler gets it."""
        job = _readable(request, job_id)
        script = job.rendered_script or launching.render_first(job).script
        return Response(ScriptSerializer({"script": script, "is_final": bool(job.rendered_script)}).data)


def _submit(request: Request, submission: SubmissionRequest) -> Response:
    key = _read_key(request)
    job, is_new = submit_job(user=_user(request), request=submission, at=timezone.now(), key=key)
    if is_new:
        nudge_after_commit()
    headers = {"Location": reverse("api-job", args=[job.pk], request=request)}
    if not is_new:
        headers["Idempotency-Replayed"] = "true"
    return Response(_present(request, job.pk), status=status.HTTP_201_CREATED, headers=headers)


def _build_request(body: dict[str, Any]) -> SubmissionRequest:
    entry = body.pop("entry")
    return SubmissionRequest(
        entry_kind=entry["kind"],
        script=entry.get("script", ""),
        command=tuple(entry.get("command", ())),
        launcher=entry.get("launcher", "none"),
        **body,
    )


def _read_key(request: Request) -> str | None:
    key: str | None = request.headers.get("Idempotency-Key")
    if key is None or _KEY.match(key):
        return key
    allowed = _("1 to 255 visible ASCII characters")
    reason = _("This value is not allowed here; allowed: %(allowed)s.") % {"allowed": allowed}
    param = InvalidParam(name="Idempotency-Key", code="invalid", reason=reason, value=shorten(key), allowed=allowed)
    raise InvalidParams([param])


def _visible(request: Request, job_id: Any) -> Job:
    job: Job = first_or_404(Job.objects.visible_to(request.user).with_names().filter(pk=job_id))
    return job


def _readable(request: Request, job_id: Any) -> Job:
    job: Job = first_or_404(Job.objects.readable_by(request.user).with_names().filter(pk=job_id))
    return job


def _present(request: Request, job_id: Any) -> dict[str, Any]:
    segments = JobSegment.objects.select_related("cluster", "usage").order_by("number")
    jobs = Job.objects.visible_to(request.user).with_names().filter(pk=job_id)
    job = first_or_404(jobs.prefetch_related("estimates", Prefetch("segments", queryset=segments)))
    is_readable = may_read_job(_user(request), owner_id=job.user_id, project_id=job.project_id)
    return dict(JobSerializer(job, context={"request": request, "is_readable": is_readable}).data)


def _user(request: Request) -> Any:
    return request.user
