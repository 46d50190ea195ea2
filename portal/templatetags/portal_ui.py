"""Template tags for the parts that every page repeats: icons, job states, times, form widgets, navigation."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django import template
from django.forms import BoundField, CheckboxInput, CheckboxSelectMultiple, FileInput, RadioSelect, Select
from django.templatetags.static import static
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from jobs.states import HoldReason, JobState

register = template.Library()

ICON_SPRITE: Final = "vendor/tabler-icons/tabler-icons.svg"


@dataclass(frozen=True, kw_only=True)
class StateLook:
    """How a job state appears: its words, its tone (a CSS class), its icon in the sprite, and what it means."""

    label: Promise | str
    tone: str
    icon: str
    meaning: Promise | str


def _look(label: Promise | str, tone: str, icon: str, meaning: Promise | str) -> StateLook:
    return StateLook(label=label, tone=tone, icon=icon, meaning=meaning)


STATE_LOOKS: Final[Mapping[JobState, StateLook]] = {
    JobState.DRAFT: _look(pgettext_lazy("job state", "Draft"), "neutral", "pencil", gettext_lazy("Not submitted yet.")),
    JobState.SUBMITTED: _look(
        pgettext_lazy("job state", "Submitted"),
        "waiting",
        "inbox",
        gettext_lazy("Received; being estimated."),
    ),
    JobState.HELD: _look(
        pgettext_lazy("job state", "Held"), "attention", "clock-pause", gettext_lazy("Cannot run yet; see the reason.")
    ),
    JobState.REJECTED: _look(
        pgettext_lazy("job state", "Rejected"), "bad", "ban", gettext_lazy("Refused; nothing ran, nothing was charged.")
    ),
    JobState.QUEUED: _look(
        pgettext_lazy("job state", "Queued"),
        "waiting",
        "hourglass",
        gettext_lazy("Estimated, and its quota reserved; it goes to the cluster next."),
    ),
    JobState.DISPATCHING: _look(
        pgettext_lazy("job state", "Dispatching"), "waiting", "send", gettext_lazy("Being handed to the cluster.")
    ),
    JobState.PENDING: _look(
        pgettext_lazy("job state", "Pending"), "waiting", "clock", gettext_lazy("Waiting in the cluster's queue.")
    ),
    JobState.RUNNING: _look(
        pgettext_lazy("job state", "Running"), "running", "player-play", gettext_lazy("Running on the cluster.")
    ),
    JobState.COMPLETING: _look(
        pgettext_lazy("job state", "Completing"), "running", "progress", gettext_lazy("Finishing on its nodes.")
    ),
    JobState.COMPLETED: _look(
        pgettext_lazy("job state", "Completed"), "good", "circle-check", gettext_lazy("Ended successfully.")
    ),
    JobState.FAILED: _look(
        pgettext_lazy("job state", "Failed"), "bad", "circle-x", gettext_lazy("Ended with an error.")
    ),
    JobState.TIMEOUT: _look(
        pgettext_lazy("job state", "Time limit reached"), "bad", "clock-x", gettext_lazy("Stopped at its time limit.")
    ),
    JobState.OUT_OF_MEMORY: _look(
        pgettext_lazy("job state", "Out of memory"),
        "bad",
        "database-off",
        gettext_lazy("Needed more memory than it got."),
    ),
    JobState.NODE_FAIL: _look(
        pgettext_lazy("job state", "Node failure"), "bad", "server-off", gettext_lazy("A node of the cluster failed.")
    ),
    JobState.PREEMPTED: _look(
        pgettext_lazy("job state", "Preempted"), "attention", "bolt", gettext_lazy("Made room for a more urgent job.")
    ),
    JobState.CANCELLED: _look(
        pgettext_lazy("job state", "Cancelled"), "neutral", "player-stop", gettext_lazy("Stopped on request.")
    ),
    JobState.LOST: _look(
        pgettext_lazy("job state", "Lost"),
        "attention",
        "plug-connected-x",
        gettext_lazy("The cluster does not report it at present; the portal keeps asking."),
    ),
}

HOLD_REASONS: Final[Mapping[HoldReason, Promise | str]] = {
    HoldReason.APPROVAL: gettext_lazy("waits for approval"),
    HoldReason.LIMIT: gettext_lazy("waits for a limit"),
    HoldReason.CLUSTER_DOWN: gettext_lazy("cluster does not answer"),
}


@register.simple_tag
def icon(name: str, extra_class: str = "") -> SafeString:
    """A decorative icon of the sprite; screen readers skip it, so words must stand beside it."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        extra_class,
        static(ICON_SPRITE),
        name,
    )


@register.inclusion_tag("_state_badge.html")
def state_badge(state: str, hold_reason: str = "") -> dict[str, object]:
    """The badge of a job state; a HELD job's reason is written after it."""
    look = STATE_LOOKS[JobState(state)]
    reason = HOLD_REASONS[HoldReason(hold_reason)] if hold_reason else ""
    return {"state": state, "look": look, "reason": reason}


@register.filter
def state_label(state: str) -> Promise | str:
    """The words for a job state, for sentences and select options."""
    return STATE_LOOKS[JobState(state)].label


@register.simple_tag
def moment(value: datetime | None, style: str = "both", now: datetime | None = None) -> str:
    """A `<time>` element that says when something happens or happened.

    Args:
        value: an aware time; None is written as an en dash.
        style: "both" (absolute, then relative), "relative" (absolute as tooltip) or "absolute".
        now: the time to count from, if not the present.
    """
    if value is None:
        return "–"
    local = timezone.localtime(value)
    absolute = local.strftime("%Y-%m-%d %H:%M")
    exact = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    stamp = value.astimezone(UTC).isoformat(timespec="seconds")
    if style == "absolute":
        return format_html('<time datetime="{}" title="{}">{}</time>', stamp, exact, absolute)
    relative = _write_relative(value, now=now or timezone.now())
    if style == "relative":
        return format_html('<time datetime="{}" title="{}" data-relative>{}</time>', stamp, exact, relative)
    if style != "both":
        raise ValueError(f"style must be both, relative or absolute, not {style!r}")
    return format_html(
        '<time datetime="{}" title="{}">{} <span class="text-secondary" data-relative="{}">{}</span></time>',
        stamp,
        exact,
        absolute,
        stamp,
        relative,
    )


def _write_relative(value: datetime, *, now: datetime) -> str:
    seconds = (now - value).total_seconds()
    if abs(seconds) < 60:
        return _("just now") if seconds >= 0 else _("in less than a minute")
    if seconds > 0:
        return _("%(duration)s ago") % {"duration": timesince(value, now, depth=1)}
    return _("in %(duration)s") % {"duration": timeuntil(value, now, depth=1)}


@register.filter
def styled(field: BoundField) -> SafeString:
    """A form field's widget with the style sheet's classes and, if it has an error, marked as invalid.

    Django itself adds `aria-describedby` (help text and errors) and `aria-invalid`.
    """
    widget = field.field.widget
    if isinstance(widget, RadioSelect | CheckboxSelectMultiple):
        return field.as_widget()  # Django would give the class to the group around the inputs as well
    if isinstance(widget, CheckboxInput):
        css = "form-check-input"
    elif isinstance(widget, Select):
        css = "form-select"
    else:
        css = "form-control"
    own = widget.attrs.get("class", "")
    invalid = " is-invalid" if field.errors else ""
    return field.as_widget(attrs={"class": f"{css} {own}{invalid}".replace("  ", " ").strip()})


@register.filter
def widget_kind(field: BoundField) -> str:
    """Which layout `_field.html` gives a field: checkbox, choices, file, hidden or plain."""
    widget = field.field.widget
    if widget.is_hidden:
        return "hidden"
    if isinstance(widget, RadioSelect | CheckboxSelectMultiple):
        return "choices"
    if isinstance(widget, CheckboxInput):
        return "checkbox"
    return "file" if isinstance(widget, FileInput) else "plain"


@register.simple_tag(takes_context=True)
def nav_current(context: Mapping[str, Any], *prefixes: str) -> SafeString | str:
    """`aria-current="page"` if the page's URL name starts with one of the prefixes, else nothing."""
    match = getattr(context.get("request"), "resolver_match", None)
    name = match.view_name if match else ""
    if name and name.startswith(prefixes):
        return format_html('aria-current="{}"', "page")
    return ""
