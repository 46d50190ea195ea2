"""What stands beside the form of a new job: the estimate of what is typed so far, and what it would reserve."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import pgettext_lazy

from accounts.models import Partition, User
from jobs.estimation import Advice, Estimate, Machine, Workload, presets
from jobs.forms import JobForm
from jobs.forms.choices import OFFLOAD_NAMES
from jobs.presentation import describe_basis
from jobs.services import estimates
from jobs.services.advice import (
    MEMORY_PART_LABELS,
    describe_advice,
    describe_assumption,
    describe_launch_warning,
)
from jobs.services.lending import cohort_of
from jobs.services.problems import FieldProblem, InvalidRequest, RefusedRequest
from jobs.services.quoting import QuoteRequest, quote_run
from jobs.services.submission import SubmissionRequest, preview_job
from jobs.views.hours_requests import request_url

STEP_PART_LABELS: Final = {
    "matmul": pgettext_lazy("step part", "Matrix products"),
    "attention": pgettext_lazy("step part", "Attention"),
    "elementwise": pgettext_lazy("step part", "Element-wise"),
    "logits": pgettext_lazy("step part", "Logits"),
    "recomputation": pgettext_lazy("step part", "Recomputation"),
    "tensor_parallel": pgettext_lazy("step part", "Tensor-parallel traffic"),
    "context_parallel": pgettext_lazy("step part", "Context-parallel traffic"),
    "expert_parallel": pgettext_lazy("step part", "Expert-parallel traffic"),
    "host_overhead": pgettext_lazy("step part", "Host overhead"),
    "pipeline_bubble": pgettext_lazy("step part", "Pipeline bubble"),
    "pipeline_transfer": pgettext_lazy("step part", "Pipeline transfers"),
    "data_parallel": pgettext_lazy("step part", "Data-parallel traffic"),
    "optimizer": pgettext_lazy("step part", "Optimizer step"),
    "offload": pgettext_lazy("step part", "Host-memory transfers"),
    "step_overhead": pgettext_lazy("step part", "Step overhead"),
}
RECOMPUTATION_LABELS: Final = {
    "none": pgettext_lazy("recomputation", "none"),
    "selective": pgettext_lazy("recomputation", "selective"),
    "full": pgettext_lazy("recomputation", "full"),
}


LOSS_LABELS: Final = {
    "checkpoints": pgettext_lazy("lost time", "writing checkpoints"),
    "rework": pgettext_lazy("lost time", "repeating lost work"),
    "restarts": pgettext_lazy("lost time", "restarting"),
    "segments": pgettext_lazy("lost time", "going on in another job"),
}
# Parts of a step below this share are shown as one: there are more of them than colours that can be told apart.
_SMALL_PART: Final = 0.005
# Below this part of the run a loss isn't worth a line.
_SMALL_LOSS: Final = 0.001


_USUAL_LEAD_S: Final = 300
"""Long enough for most checkpoints of models up to some 100B parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One piece of advice in words, and the form's fields that taking it would set."""

    severity: str
    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    button: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What the job would hold of the project's allocation."""

    devices: int
    time_limit_minutes: int
    is_from_estimate: bool
    reserved_s: int
    available_s: int
    resource: str

    @property
    def share(self) -> float | None:
        """Of what is available; None if that is nothing."""
        return self.reserved_s / self.available_s if self.available_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a partition that lends idle accelerators offers: their price, and the time to write a checkpoint."""

    is_taken: bool
    weight: Decimal
    grace_s: int
    may_overrun: bool

    @property
    def price(self) -> float:
        """Of the usual, as a share."""
        return float(self.weight)


@dataclass(slots=True, kw_only=True)
class Panel:
    """All that the panel shows. Without an estimate: for a job without a model, or while something is wrong."""

    partition: Partition
    request: SubmissionRequest
    workload: Workload | None = None
    estimate: Estimate | None = None
    reservation: Reservation | None = None
    offer: Offer | None = None
    refusal: str = ""
    problems: list[FieldProblem] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, Any] | None:
        """The estimate for `_estimate_figures.html`."""
        return None if self.estimate is None else describe_estimate(self.estimate.to_dict())

    @property
    def hours_url(self) -> str:
        """Where the hours of this run are asked for; empty without an estimate."""
        if self.estimate is None or self.workload is None:
            return ""
        known = presets().get(self.workload.preset or "")
        return request_url(
            project=self.request.project,
            partition=self.partition,
            model=estimates.preset_title(known) if known else _("Own model (config.json)"),
            workload={"tokens": self.workload.tokens},
            estimate={"duration_s": self.estimate.duration_s, "engine_version": self.estimate.engine_version},
            devices=self.estimate.devices,
        )

    @property
    def capacity_bytes(self) -> int:
        return 0 if self.estimate is None else self.estimate.memory_capacity_bytes


_GIB: Final = 2**30


def build_panel(form: JobForm, *, user: User, at: datetime) -> Panel:
    """The panel of a valid draft."""
    partition = form.chosen_partition
    if partition is None:
        raise ValueError("the form is not valid")
    request = form.to_request()
    panel = Panel(partition=partition, request=request, offer=_find_offer(partition, request))
    if request.workload is not None:
        try:
            quote = quote_run(user=user, request=_quote_request(request), at=at)
        except InvalidRequest as error:
            panel.problems.extend(error.problems)
        else:
            panel.estimate = quote.estimate
            panel.workload = estimates.parse_workload(request.workload)
            panel.remarks = _list_remarks(panel, estimates.machine_for(partition))
    if not panel.problems:
        _add_reservation(panel, user=user, at=at)
    return panel


def _find_offer(partition: Partition, request: SubmissionRequest) -> Offer | None:
    cohort = cohort_of(partition)
    if cohort is None:
        return None
    return Offer(
        is_taken=request.is_preemptible,
        weight=cohort.preemptible_weight,
        grace_s=cohort.grace_s,
        may_overrun=cohort.may_overrun,
    )


def _quote_request(request: SubmissionRequest) -> QuoteRequest:
    return QuoteRequest(
        cluster=request.cluster,
        partition=request.partition,
        nodes=request.nodes,
        devices_per_node=request.devices_per_node,
        workload=request.workload or {},
        plan=request.plan,
    )


def _add_reservation(panel: Panel, *, user: User, at: datetime) -> None:
    request = panel.request
    if panel.estimate is not None:
        # The plan is known by now: the service need not search for it again.
        request = replace(request, plan=panel.estimate.plan.to_dict())
    try:
        prepared = preview_job(user=user, request=request, at=at)
    except InvalidRequest as error:
        panel.problems.extend(error.problems)
        if any(problem.field == "time_limit_minutes" for problem in error.problems):
            panel.remarks.insert(0, _suggest_longest_time(panel.partition))
            if not request.checkpoint_lead_s:
                panel.remarks.insert(0, _suggest_chain())
    except RefusedRequest as error:
        panel.refusal = " ".join(problem.message for problem in error.problems)
    else:
        panel.reservation = Reservation(
            devices=prepared.job.devices,
            time_limit_minutes=prepared.job.time_limit_minutes,
            is_from_estimate=request.time_limit_minutes is None and panel.estimate is not None,
            reserved_s=prepared.job.reserved_s,
            available_s=prepared.available_s,
            resource=str(panel.partition.resource_class),
        )


def describe_estimate(result: Mapping[str, Any]) -> dict[str, Any]:
    """An estimate (as stored) with what charts and texts need: labels, chart data, advice and assumptions in words."""
    return {
        **result,
        "memory_chart": json.dumps(_memory_chart(result)),
        "step_chart": json.dumps(_step_chart(result["step_parts_s"], result["step_s"])),
        "recomputation": str(RECOMPUTATION_LABELS[result["plan"]["recomputation"]]),
        "offload": "" if result["plan"].get("offload", "none") == "none" else OFFLOAD_NAMES[result["plan"]["offload"]],
        "losses": _list_losses(result),
        "basis_text": describe_basis(result),
        "remarks": [Remark(severity=item["severity"], text=describe_advice(item)) for item in result["advice"]],
        "assumption_texts": [describe_assumption(code) for code in result["assumptions"]],
    }


def _list_losses(result: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What takes time without progress, with its seconds over the whole run; none in estimates stored before."""
    losses = result.get("losses_s") or {}
    least = _SMALL_LOSS * result["duration_s"]
    return [(str(label), losses[name]) for name, label in LOSS_LABELS.items() if losses.get(name, 0) > least]


def describe_warnings(warnings: tuple[Any, ...]) -> list[str]:
    """What the user should know about a rendered script."""
    return [describe_launch_warning(item) for item in warnings]


def _memory_chart(result: Mapping[str, Any]) -> dict[str, Any]:
    # Always the same parts in the same order, so that each keeps its colour while the form changes.
    parts = result["memory_parts_bytes"]
    return {
        "unit": "GiB",
        "decimals": 1,
        "categories": [_("Per card")],
        "series": [
            {"name": capfirst(str(label)), "values": [parts[name] / _GIB]}
            for name, label in MEMORY_PART_LABELS.items()
            if name in parts
        ],
        "limit": {"name": _("Card:"), "value": result["memory_capacity_bytes"] / _GIB},
    }


def _step_chart(parts: Mapping[str, float], step_s: float) -> dict[str, Any]:
    scale, unit = (1000, "ms") if step_s < 1 else (1, "s")
    shown = {name: parts[name] for name in STEP_PART_LABELS if parts.get(name, 0) >= _SMALL_PART * step_s}
    series = [{"name": str(STEP_PART_LABELS[name]), "values": [seconds * scale]} for name, seconds in shown.items()]
    rest_s = sum(parts.values()) - sum(shown.values())
    if rest_s > _SMALL_PART * step_s / 100:
        series.append({"name": _("Other"), "values": [rest_s * scale]})
    return {
        "unit": unit,
        "decimals": 1 if step_s * scale >= 10 else 2,
        "categories": [_("One step")],
        "series": series,
    }


def _list_remarks(panel: Panel, machine: Machine) -> list[Remark]:
    """Advice in words, with what a click would change where that is one simple thing."""
    estimate, request = panel.estimate, panel.request
    if estimate is None or panel.workload is None:
        return []
    is_manual = request.plan is not None
    remarks = []
    if not estimate.fits:
        remarks += _suggest_size(panel, machine)
        if is_manual:
            remarks.append(
                Remark(
                    severity="info",
                    text=_("Your own plan doesn't fit; the portal can look for one that does."),
                    changes={"plan_mode": "auto"},
                    button=_("Let the portal choose the plan"),
                )
            )
    for advice in estimate.advice:
        changes, button = _changes_for(advice, estimate) if is_manual else ({}, "")
        remarks.append(Remark(severity=advice.severity, text=describe_advice(advice), changes=changes, button=button))
    return remarks


def _changes_for(advice: Advice, estimate: Estimate) -> tuple[dict[str, Any], str]:
    plan = estimate.plan
    if advice.code == "try_recomputation":
        return {"recomputation": "full"}, _("Recompute everything")
    if advice.code == "try_smaller_micro_batch":
        size = advice.parameters["micro_batch_size"]
        return {"micro_batch_size": size}, _("Use a micro-batch of %(size)s") % {"size": size}
    if advice.code == "try_zero_stage":
        return {"zero_stage": plan.zero_stage + 1}, _("Use ZeRO stage %(stage)s") % {"stage": plan.zero_stage + 1}
    return {}, ""


def _suggest_chain() -> Remark:
    return Remark(
        severity="info",
        text=_(
            "It can run as a chain of jobs, one after the other, if it writes a checkpoint when SIGUSR1 says that its "
            "time is nearly over."
        ),
        changes={"checkpoint_lead_s": _USUAL_LEAD_S},
        button=_("Run it as a chain"),
    )


def _suggest_longest_time(partition: Partition) -> Remark:
    minutes = partition.max_time_limit_minutes
    return Remark(
        severity="info",
        text=_("With the longest time limit it can be resumed from its last checkpoint."),
        changes={"time_limit": f"{minutes} min"},
        button=_("Use %(hours)s h") % {"hours": minutes // 60},
    )


def _suggest_size(panel: Panel, machine: Machine) -> list[Remark]:
    """The smallest doubling of the size at which the best plan fits, if the partition has one."""
    partition, workload = panel.partition, panel.workload
    nodes, per_node = panel.request.nodes, panel.request.devices_per_node
    while workload is not None:
        if per_node < partition.devices_per_node:
            per_node = min(per_node * 2, partition.devices_per_node)
        elif nodes < partition.nodes:
            nodes = min(nodes * 2, partition.nodes)
        else:
            break
        try:
            larger = estimates.estimate_workload(workload, machine, devices=nodes * per_node)
        except estimates.EstimateInvalid:
            continue  # batch, heads and layers don't divide over so many
        if larger.fits:
            text = _("It fits on %(nodes)s × %(per_node)s accelerators.") % {"nodes": nodes, "per_node": per_node}
            changes = {"nodes": nodes, "devices_per_node": per_node, "plan_mode": "auto"}
            return [Remark(severity="info", text=text, changes=changes, button=_("Use this size"))]
    return [
        Remark(
            severity="warning",
            text=_("It doesn't fit on the whole of partition %(partition)s.") % {"partition": partition},
        )
    ]
