"""Models of people, what can be granted, and what was."""

from accounts.models.allocations import Allocation, LedgerEntry, LedgerKind
from accounts.models.associations import AssociationChange, AssociationReview, ChangeOrigin, ChangeOutcome
from accounts.models.audit import ActSource, AuditEvent
from accounts.models.cohorts import Cohort, CohortShare
from accounts.models.identity import Institution, Membership, Project, ProjectState, Role, User
from accounts.models.inventory import Node, NodeState, Qos, Reservation
from accounts.models.notifications import Notification
from accounts.models.policies import JobKind, Policy
from accounts.models.requests import (
    DECIDED_STATES,
    HOURS_KINDS,
    MAX_REQUEST_S,
    OPEN_STATES,
    AllocationRequest,
    RequestEvent,
    RequestKind,
    RequestLine,
    RequestState,
    RequestStep,
)
from accounts.models.resources import Cluster, Partition, ResourceClass
from accounts.models.roles import Appointment, Office
from accounts.models.shares import InstitutionShare, MemberCap
from accounts.models.starter import InstitutionDomain, StarterGrant, StarterPolicy, Verification

__all__ = [
    "DECIDED_STATES",
    "HOURS_KINDS",
    "MAX_REQUEST_S",
    "OPEN_STATES",
    "ActSource",
    "Allocation",
    "AllocationRequest",
    "Appointment",
    "AssociationChange",
    "AssociationReview",
    "AuditEvent",
    "ChangeOrigin",
    "ChangeOutcome",
    "Cluster",
    "Cohort",
    "CohortShare",
    "Institution",
    "InstitutionDomain",
    "InstitutionShare",
    "JobKind",
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
    "RequestEvent",
    "RequestKind",
    "RequestLine",
    "RequestState",
    "RequestStep",
    "Reservation",
    "ResourceClass",
    "Role",
    "StarterGrant",
    "StarterPolicy",
    "User",
    "Verification",
]
