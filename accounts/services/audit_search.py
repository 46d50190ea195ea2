"""Reading the audit log: what is asked for, a page of it by where it begins, what an act changed, and as a file."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from django.db.models import Q

from accounts.models import AuditEvent
from accounts.querysets import AuditQuerySet

_CHUNK: Final = 2000
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
CSV_HEADINGS: Final = (
    *("at", "actor", "source", "address", "action", "kind", "target", "institution", "project"),
    *("before", "after", "reason"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What is asked for. An empty field asks for nothing. `until_at` is not part of the period."""

    text: str = ""
    actor: str = ""
    action: str = ""
    project: str = ""
    institution: str = ""
    target: str = ""
    since_at: datetime | None = None
    until_at: datetime | None = None

    def apply(self, events: AuditQuerySet) -> AuditQuerySet:
        """The events that fit. `action` is one as in “member.add”, or a kind of thing as in “member”."""
        conditions = Q()
        if self.text:
            # A regular expression: the trigram index serves ~*, but not the UPPER(…) LIKE of icontains.
            conditions &= Q(words__iregex=re.escape(self.text))
        if self.actor:
            conditions &= Q(actor__username__iexact=self.actor)
        if self.action:
            conditions &= Q(action=self.action) if "." in self.action else Q(target_kind=self.action)
        if self.project:
            conditions &= Q(project=self.project)
        if self.institution:
            conditions &= Q(institution=self.institution)
        if self.target:
            conditions &= Q(target=self.target)
        if self.since_at:
            conditions &= Q(at__gte=self.since_at)
        if self.until_at:
            conditions &= Q(at__lt=self.until_at)
        return events.filter(conditions)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log."""

    at: datetime
    pk: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str()` wrote; None for anything else."""
        stamp, _separator, pk = text.partition("_")
        if not (pk.isascii() and pk.isdigit() and len(pk) < 19):
            return None
        try:
            at = datetime.fromisoformat(stamp)
            return None if at.tzinfo is None else cls(at.astimezone(UTC), int(pk))
        except (ValueError, OverflowError):
            return None

    def __str__(self) -> str:
        return f"{self.at.isoformat()}_{self.pk}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """Some events; where the pages before and after them begin (None: there is none)."""

    events: list[AuditEvent]
    previous: Position | None
    next: Position | None


def read_page(
    events: AuditQuerySet, *, after: Position | None, before: Position | None, size: int, oldest_first: bool = False
) -> AuditPage:
    """The page that follows `after` or ends at `before`; the first without either. Nobody counts."""
    is_backward = after is None and before is not None
    place = before if is_backward else after
    is_rising = oldest_first != is_backward
    if place is not None:
        events = _beyond(events, place, is_rising=is_rising)
    order = ("at", "pk") if is_rising else ("-at", "-pk")
    found = list(events.select_related("actor").order_by(*order)[: size + 1])
    has_more, rows = len(found) > size, found[:size]
    if is_backward:
        rows.reverse()
    has_previous = has_more if is_backward else place is not None
    has_next = True if is_backward else has_more
    return AuditPage(
        events=rows,
        previous=_position(rows[0]) if rows and has_previous else None,
        next=_position(rows[-1]) if rows and has_next else None,
    )


def _beyond(events: AuditQuerySet, place: Position, *, is_rising: bool) -> AuditQuerySet:
    """The first condition alone can use the index; the second is exact within one moment."""
    if is_rising:
        return events.filter(at__gte=place.at).filter(Q(at__gt=place.at) | Q(at=place.at, pk__gt=place.pk))
    return events.filter(at__lte=place.at).filter(Q(at__lt=place.at) | Q(at=place.at, pk__lt=place.pk))


def _position(event: AuditEvent) -> Position:
    return Position(event.at, event.pk)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that an act changed; None: there was, or is, none."""

    name: str
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What changed, thing by thing, in the order in which it was written down."""
    names = dict.fromkeys([*before, *after])
    found = (Difference(name, before.get(name), after.get(name)) for name in names)
    return [item for item in found if item.before != item.after]


def csv_lines(events: AuditQuerySet, *, with_addresses: bool) -> Iterator[str]:
    """The events as CSV, newest first: a byte order mark, a line of headings, a line for each.

    What a spreadsheet would take for a formula is written after an apostrophe.
    """
    writer = csv.writer(_Echo())
    yield "\ufeff" + str(writer.writerow(CSV_HEADINGS))
    for event in events.select_related("actor").order_by("-at", "-pk").iterator(chunk_size=_CHUNK):
        row = (
            event.at.astimezone(UTC).isoformat(),
            event.actor.username if event.actor else "",
            event.source,
            (event.ip_address or "") if with_addresses else "",
            *(event.action, event.target_kind, event.target, event.institution, event.project),
            *(_as_text(event.before), _as_text(event.after), event.reason),
        )
        yield str(writer.writerow([_harmless(cell) for cell in row]))


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        return text


def _as_text(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}={value}" for name, value in values.items())


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell
