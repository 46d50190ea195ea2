"""Every change in the back-office leaves a line in the audit log, in the transaction of the change itself."""

from collections.abc import Iterable
from datetime import date
from typing import Any, Final

from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from accounts.acting import act_of
from accounts.models import ActSource, Institution, Project
from accounts.services import audit

_UNTOLD: Final = frozenset({"password", "last_login"})
"""Secrets, and what changes by itself."""


def snapshot(row: models.Model | None) -> dict[str, Any]:
    """The values of a row as JSON: related things by their name, without secrets."""
    if row is None:
        return {}
    return {
        field.name: _as_json(getattr(row, field.name))
        for field in row._meta.concrete_fields
        if field.name not in _UNTOLD and not field.primary_key
    }


def stored(model: type[models.Model], pk: Any) -> dict[str, Any]:
    """As the database has it now, whatever a form has put on the object since."""
    return snapshot(model._default_manager.filter(pk=pk).first())


def record_change(
    request: HttpRequest,
    row: models.Model,
    verb: str,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    reason: str = "",
) -> None:
    """Write the line; of a change only what differs."""
    if before and after:
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        before = {name: before.get(name) for name in changed}
        after = {name: after.get(name) for name in changed}
    kind = row._meta.model_name or ""
    audit.record(
        act_of(request, ActSource.ADMIN),
        f"{kind}.{verb}",
        target_kind=kind,
        target=_name(row),
        before=before,
        after=after,
        project=_project(row),
        institution=_institution(row),
        reason=reason,
    )


class AuditedAdmin(ModelAdmin):
    """A back-office page whose additions, changes and deletions are in the audit log."""

    def store(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write the row; what a subclass overrides instead of `save_model`."""
        super().save_model(request, obj, form, change)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        with transaction.atomic():
            before = stored(type(obj), obj.pk) if change else {}
            self.store(request, obj, form, change)
            after = stored(type(obj), obj.pk)
            if before != after:
                reason = form.cleaned_data.get("reason", "")
                verb = "change" if change else "add"
                record_change(request, obj, verb, before=before, after=after, reason=reason)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        with transaction.atomic():
            model = formset.model
            pks = [one.instance.pk for one in formset.forms if one.instance.pk]
            before = {pk: stored(model, pk) for pk in pks}
            super().save_formset(request, form, formset, change)
            for row in formset.new_objects:
                record_change(request, row, "add", before={}, after=stored(model, row.pk))
            for row, _fields in formset.changed_objects:
                record_change(request, row, "change", before=before[row.pk], after=stored(model, row.pk))
            # A deleted row has lost its key; its values are as they were.
            for row in formset.deleted_objects:
                record_change(request, row, "delete", before=snapshot(row), after={})

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self._delete(request, [obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._delete(request, list(queryset))

    def _delete(self, request: HttpRequest, rows: Iterable[Any]) -> None:
        with transaction.atomic():
            for row in rows:
                record_change(request, row, "delete", before=snapshot(row), after={})
                row.delete()


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | dict | list):
        return value
    if isinstance(value, models.Model):
        return _name(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def _name(row: models.Model) -> str:
    """What people call it: a code, a user name, else its words."""
    for field in ("code", "username"):
        if value := getattr(row, field, ""):
            return str(value)
    return str(row)[:200]


def _project(row: models.Model) -> Project | None:
    found = row if isinstance(row, Project) else getattr(row, "project", None)
    return found if isinstance(found, Project) else None


def _institution(row: models.Model) -> Institution | None:
    found = row if isinstance(row, Institution) else getattr(row, "institution", None)
    return found if isinstance(found, Institution) else None
