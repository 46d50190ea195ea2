"""The ledger and the audit log refuse every change of what was written, and to be emptied."""

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import ActSource
from accounts.services import audit
from accounts.services.acts import Act
from tests.factories import NOW, make_allocation, make_project, make_resource_class

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("table", ["accounts_ledgerentry", "accounts_auditevent"])
@pytest.mark.parametrize("words", ["UPDATE {} SET reason = 'other'", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_the_database_refuses(table: str, words: str) -> None:
    make_allocation(make_project(), make_resource_class())
    audit.record(Act(actor=None, at=NOW, source=ActSource.TASK), "a.b", target_kind="test", target="it")
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL portal.truncate_allowed = off")
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            cursor.execute(words.format(table))
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608
        assert cursor.fetchone() == (1,)
