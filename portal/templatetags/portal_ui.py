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
from django.utils.translation import gettext_lazy

from accounts.models import Node, NodeState
from jobs.presentation import SIZE_LABELS, STATE_LABELS, STATE_MEANINGS
from jobs.states import HoldReason, JobState

register = template.Library()

ICON_SPRITE: Final = "vendor/tabler-icons/tabler-icons.svg"


@dataclass(frozen=True)
class StateLook:
    """How a job state appears: its tone (a CSS class) and its icon in the sprite. Its words are jobs.presentation's."""

    state: JobState
    tone: str
    icon: str

    @property
    def label(self) -> Promise | str:
        return STATE_LABELS[self.state]

    @property
    def meaning(self) -> Promise | str:
        return STATE_MEANINGS.get(self.state, "")


STATE_LOOKS: Final[Mapping[JobState, StateLook]] = {
    state: StateLook(state, tone, icon)
    for state, tone, icon in (
        (JobState.DRAFT, "neutral", "pencil"),
        (JobState.SUBMITTED, "waiting", "inbox"),
        (JobState.HELD, "attention", "clock-pause"),
        (JobState.REJECTED, "bad", "ban"),
        (JobState.QUEUED, "waiting", "hourglass"),
        (JobState.DISPATCHING, "waiting", "send"),
        (JobState.PENDING, "waiting", "clock"),
        (JobState.RUNNING, "running", "player-play"),
        (JobState.COMPLETING, "running", "progress"),
        (JobState.COMPLETED, "good", "circle-check"),
        (JobState.FAILED, "bad", "circle-x"),
        (JobState.TIMEOUT, "bad", "clock-x"),
        (JobState.OUT_OF_MEMORY, "bad", "database-off"),
        (JobState.NODE_FAIL, "bad", "server-off"),
        (JobState.PREEMPTED, "attention", "bolt"),
        (JobState.CANCELLED, "neutral", "player-stop"),
        (JobState.LOST, "attention", "plug-connected-x"),
    )
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


_NODE_TONES: Final[Mapping[str, str]] = {
    NodeState.IDLE: "good",
    NodeState.MIXED: "running",
    NodeState.ALLOCATED: "running",
    NodeState.DRAINING: "attention",
    NodeState.DRAINED: "attention",
    NodeState.MAINTENANCE: "attention",
    NodeState.DOWN: "bad",
}


@register.simple_tag
def node_state(node: Node) -> SafeString:
    """The badge of a node's state."""
    return format_html('<span class="tag tone-{}">{}</span>', _NODE_TONES[node.state], node.get_state_display())


@register.filter
def size_label(size: str) -> Promise | str:
    """The words for a size of jobs, such as 2–4 nodes."""
    return SIZE_LABELS[size]


@register.simple_tag
def moment(value: datetime | None, style: str = "both", now: datetime | None = None) -> str:
    """A `<time>` element that says when something happens or happened.

    Args:
        value: an aware time; None is written as an en dash.
        style: "both" (absolute, then relative), "relative" (absolute as tooltip), "absolute" or "exact" (with seconds).
        now: the time to count from, if not the present.
    """
    if value is None:
        return "–"
    local = timezone.localtime(value)
    absolute = local.strftime("%Y-%m-%d %H:%M")
    exact = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    stamp = value.astimezone(UTC).isoformat(timespec="seconds")
    if style in ("absolute", "exact"):
        shown = absolute if style == "absolute" else f"{local:%Y-%m-%d %H:%M:%S}"
        return format_html('<time datetime="{}" title="{}">{}</time>', stamp, exact, shown)
    relative = _write_relative(value, now=now or timezone.now())
    if style == "relative":
        return format_html('<time datetime="{}" title="{}" data-relative>{}</time>', stamp, exact, relative)
    if style != "both":
        raise ValueError(f"style must be both, relative, absolute or exact, not {style!r}")
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
