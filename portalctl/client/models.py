"""What the API says, as types. `docs/openapi.yaml` is the reference; a test compares each model with it.

A field that a newer portal adds is kept, and otherwise ignored; words such as states are plain strings, so that a
new one is no error. A field that is missing is one. Units are in the names: `_s` seconds, `_bytes`, `_hours`.
"""

from datetime import date
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Row = TypeVar("Row", bound="Reply")


class Reply(BaseModel):
    """Something that the portal said."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Token(Reply):
    token: str = Field(repr=False)
    expires_at: AwareDatetime


class MemberProject(Reply):
    """A project that one is in, and as what."""

    code: str
    title: str
    is_active: bool
    role: str


class Me(Reply):
    """The person that the token belongs to."""

    username: str
    name: str
    email: str = ""
    time_zone: str = ""
    is_staff: bool
    projects: list[MemberProject]


class Project(Reply):
    code: str
    title: str
    institution: str
    institution_name: str
    field_of_science: str
    is_active: bool
    role: str | None


class Member(Reply):
    username: str
    name: str
    role: str
    joined_at: AwareDatetime


class ProjectDetail(Project):
    members: list[Member]


class Allocation(Reply):
    """Accelerator time granted for a period. Available is granted, less used and reserved."""

    uuid: UUID
    project: str
    resource_class: str
    start_at: AwareDatetime
    end_at: AwareDatetime
    is_active: bool
    granted_s: int
    used_s: int
    reserved_s: int
    available_s: int
    granted_hours: float
    used_hours: float
    reserved_hours: float
    available_hours: float


class Forecast(Reply):
    """When an allocation runs out, if the last 30 days are a guide: a range that holds 8 of 10 ways it may go."""

    unknown: str
    rate_s_per_day: float
    runs_out_first: date | None
    runs_out_typical: date | None
    runs_out_last: date | None
    left_at_end_low_s: int
    left_at_end_typical_s: int
    left_at_end_high_s: int


class AllocationDetail(Allocation):
    """An allocation with a forecast; null while its period doesn't hold the present."""

    forecast: Forecast | None


class LedgerEntry(Reply):
    """One line of an allocation's ledger."""

    id: int
    kind: str
    kind_label: str
    reference: str
    granted_delta_s: int
    reserved_delta_s: int
    used_delta_s: int
    at: AwareDatetime
    actor: str | None
    reason: str = ""


class Cluster(Reply):
    code: str
    title: str
    is_enabled: bool
    is_available: bool
    unavailable_since_at: AwareDatetime | None
    last_polled_at: AwareDatetime | None


class Reservation(Reply):
    name: str
    start_at: AwareDatetime
    end_at: AwareDatetime
    nodes: int
    is_maintenance: bool


class Wait(Reply):
    """How long jobs of one size waited lately; null of too few jobs."""

    days: int
    jobs: int
    median_s: float | None
    p90_s: float | None


class Partition(Reply):
    cluster: str
    name: str
    title: str
    resource_class: str
    accelerator: str
    accelerator_title: str
    is_simulated: bool
    is_up: bool
    nodes: int
    devices_per_node: int
    devices_total: int
    devices_in_use: int
    devices_free: int
    devices_out_of_service: int
    nodes_down: int
    typical_wait_s: dict[str, Wait]
    reservations: list[Reservation]
    jobs_pending: int
    jobs_running: int
    default_time_limit_minutes: int
    max_time_limit_minutes: int
    synced_at: AwareDatetime | None


class Preset(Reply):
    """A model that the estimator knows by name."""

    name: str
    title: str
    group: str
    parameters: int
    active_parameters: int
    architecture: dict[str, Any]
    defaults: dict[str, Any]
    source_url: str


class Accelerator(Reply):
    code: str
    title: str
    vendor: str
    peak_flop_per_s: dict[str, float]
    memory_bytes: int
    memory_bytes_per_s: float
    intra_node_bytes_per_s: float
    inter_node_bytes_per_s: float
    devices_per_node: int
    tdp_w: float
    family: str
    allowed_device_counts: list[int]
    scale_up_devices: int
    supernode_devices: int | None
    published_runs: dict[str, int]
    source_url: str
    source_status: str


class Plan(Reply):
    """How a run is spread over accelerators."""

    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    context_parallel: int
    expert_parallel: int
    virtual_stages: int
    zero_stage: int
    micro_batch_size: int
    recomputation: str
    sequence_parallel: bool
    zero_group: int
    recomputed_layers: int
    pipeline_schedule: str
    offload: str


class Advice(Reply):
    """A remark: `code` and `parameters` for programs, `text` for people."""

    code: str
    severity: str
    parameters: dict[str, Any]
    text: str


class Assumption(Reply):
    code: str
    text: str


class Calibration(Reply):
    """How finished jobs of the centre corrected an estimate."""

    version: int | None
    step_time_factor: float
    memory_factor: float
    level: str
    jobs_at_level: dict[str, int]


class Estimate(Reply):
    """What a run needs under one plan. Memory is that of one accelerator; 80 % of runs lie between p10 and p90."""

    fits: bool
    devices: int
    plan: Plan
    memory_bytes: float
    memory_capacity_bytes: int
    memory_p10_bytes: float | None
    memory_p90_bytes: float | None
    memory_parts_bytes: dict[str, float]
    step_s: float
    step_p10_s: float | None
    step_p90_s: float | None
    step_parts_s: dict[str, float]
    steps: int
    parameters: int
    active_parameters: int | None
    trainable_parameters: int
    model_flop_per_step: float
    hardware_flop_per_step: float
    flop_6nd: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    model_flop_per_s_per_device: float
    mfu: float
    duration_s: float
    duration_p10_s: float
    duration_p90_s: float
    accelerator_s: float
    accelerator_hours: float
    energy_j: float
    price: float | None
    checkpoint_bytes: float
    checkpoint_write_s: float
    checkpoint_interval_s: float
    expected_goodput: float
    losses_s: dict[str, float]
    dataset_bytes: float
    read_bytes_per_s: float
    written_bytes_per_day: float | None
    kept_checkpoint_bytes: float | None
    needed_storage_bytes_per_s: float | None
    advice: list[Advice]
    assumptions: list[Assumption]
    basis: str
    basis_text: str
    rests_on: dict[str, int]
    calibration: Calibration | None
    engine_version: str


class QuotaEffect(Reply):
    """What a job with the suggested time limit would hold; null where no project was named."""

    resource_class: str
    suggested_time_limit_minutes: int
    is_within_partition_limit: bool
    reserved_s: int
    reserved_hours: float
    available_s: int | None
    available_hours: float | None
    share_of_available: float | None
    is_covered: bool | None


class Quote(Reply):
    """An estimate and its effect on the quota."""

    estimate: Estimate
    quota: QuotaEffect


class LaunchWarning(Reply):
    code: str
    parameters: dict[str, Any]
    text: str


class PreparedJob(Reply):
    """What submitting would do. `script` is the batch script as the scheduler would get it."""

    time_limit_minutes: int
    devices: int
    reserved_s: int
    reserved_hours: float
    available_s: int
    available_hours: float
    billing_weight: float
    plan: Plan | None
    script: str
    warnings: list[LaunchWarning]
    estimate: Estimate | None


class Segment(Reply):
    """One scheduler job of a job."""

    number: int
    key: str
    native_id: str
    cluster: str
    nodes: list[str]
    time_limit_minutes: int | None
    resubmissions: int
    accepted_at: AwareDatetime | None
    started_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    end_state: str
    exit_code: int | None
    exit_signal: int | None
    last_step: int | None
    preempt_requested_at: AwareDatetime | None
    preempt_signalled_at: AwareDatetime | None


class Usage(Reply):
    """What the scheduler's accounting says a job used."""

    elapsed_s: int
    accelerator_s: int
    accelerator_hours: float
    charged_s: int
    charged_hours: float
    shortfall_s: int
    cpu_s: float | None
    max_rss_bytes: int | None
    elapsed_over_estimated: float | None


class QueuePlace(Reply):
    """Where a job stands among those that wait for the same resource class, and why. Shares and uses are fractions."""

    position: int
    total: int
    factor: float
    project_share: float
    project_use: float
    person_share: float
    person_use: float
    age_s: float
    advantage_s: float
    text: str


class JobSummary(Reply):
    """A job in a list."""

    id: UUID
    url: str
    name: str
    state: str
    state_label: str
    reason: str
    reason_text: str
    reason_advice: str
    is_terminal: bool
    user: str
    project: str
    cluster: str
    partition: str
    nodes: int
    devices_per_node: int
    devices: int
    time_limit_minutes: int | None
    reserved_s: int
    reserved_hours: float
    charged_s: int | None
    charged_hours: float | None
    submitted_at: AwareDatetime
    queued_at: AwareDatetime | None
    expected_start_at: AwareDatetime | None
    started_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    cancel_requested_at: AwareDatetime | None
    is_preemptible: bool


class Job(JobSummary):
    """All that is known of a job."""

    state_meaning: str
    reason_detail: dict[str, Any]
    settled_at: AwareDatetime | None
    exit_code: int | None
    exit_signal: int | None
    checkpoint_lead_s: int
    segment_time_limit_minutes: int | None
    cloned_from: UUID | None
    override_estimate: bool
    entry: dict[str, Any]
    environment: dict[str, str]
    workload: dict[str, Any] | None
    plan: Plan | None
    estimate: Estimate | None
    usage: Usage | None
    segments: list[Segment]
    links: dict[str, str]
    billing_weight: float
    preemptible_weight: float
    preemptions: int
    is_overrun: bool
    queue_place: QueuePlace | None


class JobEvent(Reply):
    """One line of a job's timeline."""

    id: int
    at: AwareDatetime
    kind: str
    from_state: str = ""
    to_state: str = ""
    reason: str = ""
    detail: dict[str, Any]
    text: str
    actor: str | None


class LogPiece(Reply):
    """A piece of an output file. Offsets count bytes; `next_offset` goes into the next call."""

    text: str
    offset: int
    next_offset: int
    size: int
    is_end: bool


class Metrics(Reply):
    """Points in the order they were written; each has a `step` and the numbers that the program reported."""

    points: list[dict[str, float]]
    next_offset: int
    is_end: bool


class Script(Reply):
    """A batch script; it is not final before the job is admitted."""

    script: str
    is_final: bool


class Page(Reply, Generic[Row]):
    """A page of a list."""

    next: str | None
    has_more: bool
    results: list[Row]


class Catalogue(Reply, Generic[Row]):
    """A list that comes at once."""

    results: list[Row]


class UsageFigures(Reply):
    """Sums of a group. Accelerator-seconds as billed, but `used_s`, which is not weighted."""

    jobs: int
    used_s: int
    charged_s: int
    reserved_s: int
    failed_s: int
    idle_s: int
    wasted_s: int
    shortfall_s: int
    charged_hours: float
    wasted_hours: float
    mean_wait_s: float | None
    time_error: float | None
    time_bias: float | None
    time_jobs: int
    memory_error: float | None
    memory_bias: float | None
    memory_jobs: int


class ReportRow(Reply):
    """A group."""

    key: str
    name: str
    figures: UsageFigures


class UsageReport(Reply):
    """All groups that have a use: times in their order, others by what was charged."""

    group_by: str
    first_day: date
    last_day: date
    total: UsageFigures
    results: list[ReportRow]


class RequestLine(Reply):
    """Hours of one resource class."""

    resource_class: str
    amount_s: int
    granted_s: int | None
    allocation: UUID | None


class Request(Reply):
    """A request, and what became of it."""

    uuid: UUID
    kind: str
    state: str
    requester: str
    project: str | None
    institution: str
    project_code: str
    project_title: str
    field_of_science: str
    new_pi: str | None
    start_at: AwareDatetime | None
    end_at: AwareDatetime | None
    lines: list[RequestLine]
    submitted_at: AwareDatetime
    decided_at: AwareDatetime | None
    decided_by: str | None
    decision_reason: str
    granted_start_at: AwareDatetime | None
    granted_end_at: AwareDatetime | None


class RequestEvent(Reply):
    """A step."""

    step: str
    at: AwareDatetime
    actor: str
    words: str


class RequestDetail(Request):
    """A request with its reasons and steps."""

    justification: str
    estimate: dict[str, Any] | None
    events: list[RequestEvent]


class AuditEvent(Reply):
    """One act: who, what, before, after, when, from where."""

    id: int
    at: AwareDatetime
    actor: str | None
    source: str
    ip_address: str | None
    action: str
    target_kind: str
    target: str
    institution: str
    project: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str
