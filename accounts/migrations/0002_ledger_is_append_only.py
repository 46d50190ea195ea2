"""The database itself refuses to change or delete a line of the ledger."""

from django.db import migrations

CREATE = """
CREATE FUNCTION accounts_ledgerentry_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % of entry % refused', TG_OP, OLD.id
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER accounts_ledgerentry_append_only BEFORE UPDATE OR DELETE ON accounts_ledgerentry
    FOR EACH ROW EXECUTE FUNCTION accounts_ledgerentry_refuse_change();
"""

DROP = """
DROP TRIGGER accounts_ledgerentry_append_only ON accounts_ledgerentry;
DROP FUNCTION accounts_ledgerentry_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
