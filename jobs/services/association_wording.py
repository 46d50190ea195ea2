"""Changes and findings of associations, in words."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from jobs.backends.associations import ChangeKind


def describe_change(kind: str) -> str:
    """What a change does; its target and settings are shown beside it."""
    return {
        ChangeKind.ADD_QOS: _("Create QOS"),
        ChangeKind.SET_QOS: _("Change QOS"),
        ChangeKind.ADD_ACCOUNT: _("Create account"),
        ChangeKind.SET_ACCOUNT: _("Change account"),
        ChangeKind.ADD_USER: _("Add user"),
        ChangeKind.SET_USER: _("Change user"),
        ChangeKind.SET_DEFAULT_ACCOUNT: _("Change default account"),
        ChangeKind.REMOVE_USER: _("Remove user"),
        ChangeKind.REMOVE_ACCOUNT: _("Delete account"),
    }[ChangeKind(kind)]


def describe_setting(setting: Mapping[str, Any]) -> tuple[str, str, str]:
    """Slurm's name of a setting, its value now, and the one it is to have."""
    return setting["name"], _value(setting["before"]), _value(setting["after"])


def describe_finding(finding: Mapping[str, Any]) -> str:
    """Why something is left alone, and what a person can do."""
    target, detail = finding["target"], finding["detail"]
    texts = {
        "foreign_account": _(
            "Slurm has an account %(target)s that the portal didn't make. It is left as it is: give project %(detail)s "
            "another Slurm account."
        ),
        "foreign_qos": _(
            "Slurm has a QOS %(target)s that the portal didn't make. It is left as it is, and not used: rename it, or "
            "choose another prefix."
        ),
        "foreign_association": _(
            "%(target)s was added by somebody else, and isn't a member's. It is left as it is: remove it with sacctmgr "
            "if it should go."
        ),
        "foreign_association_differs": _(
            "%(target)s was added by somebody else, and its limits differ. It is left as it is: remove it with "
            "sacctmgr, and the portal makes its own."
        ),
        "partition_association": _(
            "%(target)s has an association for one partition, too. sacctmgr would change both: this is left to you."
        ),
        "administrator": _(
            "%(target)s should go, but the user is %(detail)s in Slurm, and would lose that with the last account. "
            "Remove it with sacctmgr."
        ),
        "has_accounts_below": _("Account %(target)s has accounts below it, and isn't deleted."),
        "no_unix_name": _("%(target)s in project %(detail)s has no Unix user name, and so no association."),
        "unusable_unix_name": _("The Unix user name “%(target)s” in project %(detail)s can't be used in Slurm."),
        "unusable_account_name": _("“%(target)s” can't be the name of a Slurm account (project %(detail)s)."),
        "shared_account": _(
            "Several projects want the account %(target)s: %(detail)s. It is left as it is until each has its own."
        ),
    }
    return texts[finding["code"]] % {"target": target, "detail": detail}


def _value(value: int | str | None) -> str:
    return _("not set") if value is None else str(value)
