"""The form of a new job, the live estimate beside it, and a look at the script that it makes."""

import uuid
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from accounts.models import User
from jobs.forms import JobForm
from jobs.forms.submission import initial_from_request
from jobs.models import Job
from jobs.services.estimates import precisions_of
from jobs.services.problems import IdempotencyConflict, InvalidRequest, RefusedRequest
from jobs.services.submission import clone_request, preview_job, submit_job
from jobs.services.waiting import best_known_waits
from jobs.tasks import nudge_after_commit
from jobs.views.estimate_panel import build_panel, describe_warnings

_EXAMPLE_SCRIPT = """#!/bin/bash
cd "$PORTAL_EXAMPLES/char_transformer"
exec "$PORTAL_PYTHON" train.py --config config.json
"""
"""Trains a small language model on CPU cores; the embedded scheduler sets both variables."""


@login_required
@require_http_methods(["GET", "POST"])
def new_job(request: HttpRequest) -> HttpResponse:
    """Show the form, or take what was filled in."""
    user = cast(User, request.user)
    if request.method == "GET":
        return _render_form(request, JobForm(user=user, initial=_initial(request, user)))
    form = JobForm(request.POST, request.FILES, user=user)
    if form.is_valid():
        job = _submit(request, form, user)
        if job is not None:
            return redirect(job)
    form.focus_first_error()
    return _render_form(request, form)


@login_required
@require_POST
def live_estimate(request: HttpRequest) -> HttpResponse:
    """The panel beside the form, for what is typed so far."""
    user = cast(User, request.user)
    form = JobForm(request.POST, user=user, is_draft=True)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        context["panel"] = build_panel(form, user=user, at=timezone.now())
    return render(request, "jobs/_estimate_panel.html", context)


@login_required
@require_POST
def script_preview(request: HttpRequest) -> HttpResponse:
    """The batch script that the form would make, in the dialog of the page."""
    user = cast(User, request.user)
    form = JobForm(request.POST, request.FILES, user=user)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        try:
            prepared = preview_job(user=user, request=form.to_request(), at=timezone.now())
        except (InvalidRequest, RefusedRequest) as error:
            form.add_problems(error.problems)
        else:
            context |= {"script": prepared.script, "warnings": describe_warnings(prepared.warnings)}
    return render(request, "jobs/_script_preview.html", context)


def _submit(request: HttpRequest, form: JobForm, user: User) -> Job | None:
    """The job that the form made, now or before; None if something is wrong, which the form then shows."""
    wanted = form.to_request()
    key = form.cleaned_data["form_key"]
    if wanted.workload is not None and not wanted.override_estimate:
        panel = build_panel(form, user=user, at=timezone.now())
        if panel.estimate is not None and not panel.estimate.fits:
            form.add_error("override_estimate", _("This doesn't fit; see the estimate for what would."))
            return None
    try:
        job, is_new = submit_job(user=user, request=wanted, at=timezone.now(), key=f"form:{key}" if key else None)
    except (InvalidRequest, RefusedRequest) as error:
        form.add_problems(error.problems)
        return None
    except IdempotencyConflict:
        form.renew_key()
        form.add_error(None, _("This form has made a job already. Submit once more to make another one, as changed."))
        return None
    if is_new:
        nudge_after_commit()
        messages.success(request, _("“%(name)s” is submitted.") % {"name": job.name})
    else:
        messages.info(request, _("This form had been submitted before; here is its job."))
    return job


def _initial(request: HttpRequest, user: User) -> dict[str, Any]:
    """What the form starts with: a copied job, the example, or what the person used last."""
    if "clone" in request.GET:
        try:
            job_id = uuid.UUID(request.GET["clone"])
        except ValueError as error:
            raise Http404 from error
        job = get_object_or_404(Job.objects.readable_by(user).with_names(), pk=job_id)
        return initial_from_request(clone_request(job), cloned_from=job.pk)
    last = (
        Job.objects.visible_to(user)
        .filter(user=user)
        .select_related("project", "partition__cluster")
        .order_by("-submitted_at", "-pk")
        .first()
    )
    initial: dict[str, Any] = {}
    if last is not None:
        initial |= {"project": last.project.code, "partition": JobForm.address(last.partition)}
    if "example" in request.GET:
        initial |= {
            "model_source": "preset",
            "preset": "char-transformer-demo",
            "tokens": "1536000",
            "name": "first-training",
            "script": _EXAMPLE_SCRIPT,
        }
    for name in ("project", "partition", "preset"):
        if name in request.GET:
            initial[name] = request.GET[name]
    return initial


def _render_form(request: HttpRequest, form: JobForm) -> HttpResponse:
    """The page; a bound form keeps all that was typed."""
    if form.initial.get("partition") is None and form.partitions:
        form.initial["partition"] = form.address(_default_partition(form, is_example="example" in request.GET))
    if len(form.projects) == 1:
        form.initial.setdefault("project", form.projects[0].code)
    chosen = form["partition"].value()
    return render(
        request,
        "jobs/new.html",
        {
            "form": form,
            "partitions": [
                (
                    form.address(item),
                    item,
                    form.address(item) == chosen,
                    " ".join(precisions_of(item)),
                    [wait for wait in best_known_waits(item) if wait.is_known],
                )
                for item in form.partitions
            ],
            "has_plan_errors": any(name in form.errors for name in _ADVANCED),
            "is_manual": form["plan_mode"].value() == "manual",
        },
    )


def _default_partition(form: JobForm, *, is_example: bool) -> Any:
    """For the example the one with cores; else the first that is up."""
    fitting = [item for item in form.partitions if is_example == (item.gres_name == "cpu")]
    up = [item for item in fitting or form.partitions if item.is_up]
    return (up or form.partitions)[0]


_ADVANCED = (
    "plan_mode",
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "data_parallel",
    "virtual_stages",
    "micro_batch_size",
    "zero_stage",
    "recomputation",
    "sequence_parallel",
    "expert_parallel",
    "recomputed_layers",
    "zero_group",
    "pipeline_schedule",
    "offload",
    "framework",
    "gradient_precision",
    "attention_kernel",
    "bytes_per_token_on_disk",
)
