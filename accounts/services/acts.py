"""Who acts, when and from where: one value that every service with an effect worth auditing takes."""

from dataclasses import dataclass
from datetime import datetime

from accounts.models import ActSource, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """`actor` is None for what the portal does by itself (policy, scheduled tasks)."""

    actor: User | None
    at: datetime
    source: ActSource
    ip_address: str | None = None
