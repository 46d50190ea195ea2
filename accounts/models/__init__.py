"""Models of people, what can be granted, and what was."""

from accounts.models.allocations import Allocation, LedgerEntry, LedgerKind
from accounts.models.associations import AssociationChange, AssociationReview, ChangeOrigin, ChangeOutcome
from accounts.models.audit import ActSource, AuditEvent
from accounts.models.identity import Institution, Membership, Project, ProjectState, Role, User
from accounts.models.inventory import Node, NodeState, Qos, Reservation
from accounts.models.notifications import Notification
from accounts.models.policies import Policy
from accounts.models.resources import Cluster, Partition, ResourceClass
from accounts.models.roles import Appointment, Office
from accounts.models.shares import InstitutionShare, MemberCap

__all__ = [
    "ActSource",
    "Allocation",
    "Appointment",
    "AssociationChange",
    "AssociationReview",
    "AuditEvent",
    "ChangeOrigin",
    "ChangeOutcome",
    "Cluster",
    "Institution",
    "InstitutionShare",
    "LedgerEntry",
    "LedgerKind",
    "MemberCap",
    "Membership",
    "Node",
    "NodeState",
    "Notification",
    "Office",
    "Partition",
    "Policy",
    "Project",
    "ProjectState",
    "Qos",
    "Reservation",
    "ResourceClass",
    "Role",
    "User",
]
