"""A scheduler's reasons in plain words: why a job waits or ended, and what its reader can do.

The codes are Slurm's, which the other backends use as well: https://slurm.schedmd.com/job_reason_codes.html
"""

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Words


@dataclass(frozen=True, slots=True)
class ReasonWords:
    """`clause` goes after the job's state; `advice` is whole sentences."""

    clause: str
    advice: str


_BY_ITSELF: Final = gettext_lazy("It starts by itself; there is nothing to do.")
_SOONER: Final = gettext_lazy("It starts by itself. Fewer nodes or a shorter time limit may start sooner.")
_SMALLER: Final = gettext_lazy("It can't start like this: cancel it, and submit it again with less.")
_AGAIN: Final = gettext_lazy("It will not start any more: cancel it, and submit it again.")
_PROJECT_JOBS: Final = gettext_lazy("It starts by itself when other jobs of the project end.")
_OWNER_JOBS: Final = gettext_lazy("It starts by itself when other jobs of its owner end.")
_LEVEL_JOBS: Final = gettext_lazy(
    "It starts by itself when other jobs of this service level end; another level may be free."
)
_MORE_TIME: Final = gettext_lazy(
    "It can't start before there is more time: the project's lead can ask the centre for it."
)
_OTHER_LEVEL: Final = gettext_lazy(
    "It can't start before the level has more time; another service level may have some."
)
_OPERATORS: Final = gettext_lazy("Ask the centre's operators.")
_SEE_LOG: Final = gettext_lazy("The end of the log says more.")
_OTHER_PARTITION: Final = gettext_lazy("It starts by itself when that changes; another partition may be free now.")
_NOT_ALLOWED: Final = gettext_lazy("It can't start like this: cancel it, and ask the centre's operators for the right.")
_RESUBMIT: Final = gettext_lazy("This is not the job's fault: submit it again, from its last checkpoint if it has one.")

_REASONS: Final[dict[str, tuple["Words", "Words"]]] = {
    # Why a job waits.
    "None": (gettext_lazy("the scheduler has not looked at it yet"), _BY_ITSELF),
    "Resources": (gettext_lazy("waits for free accelerators"), _SOONER),
    "Priority": (gettext_lazy("jobs of higher priority come first"), _SOONER),
    "Dependency": (
        gettext_lazy("waits for another job to end"),
        gettext_lazy("It starts by itself when that job has ended as it should."),
    ),
    "DependencyNeverSatisfied": (gettext_lazy("waits for a job that did not end as it should have"), _AGAIN),
    "BeginTime": (
        gettext_lazy("its start time has not come"),
        gettext_lazy("It starts by itself. After a requeue the scheduler waits a little before it starts a job again."),
    ),
    "JobHeldUser": (
        gettext_lazy("held by its owner on the cluster"),
        gettext_lazy("It waits until its owner releases it on the cluster, with scontrol release."),
    ),
    "JobHeldAdmin": (
        gettext_lazy("held by an operator of the cluster"),
        gettext_lazy("It waits until an operator releases it: ask the centre why."),
    ),
    "JobRequeuedHeld": (
        gettext_lazy("was put back into the queue and is held there"),
        gettext_lazy("It waits until it is released on the cluster: ask the centre's operators."),
    ),
    "LaunchFailedHeld": (
        gettext_lazy("could not be started on its nodes and is held"),
        gettext_lazy("It waits until it is released on the cluster: ask the centre's operators."),
    ),
    "JobHoldMaxRequeue": (
        gettext_lazy("is held because it had to be started anew too often"),
        gettext_lazy("It waits until it is released on the cluster: ask the centre's operators."),
    ),
    "ReqNodeNotAvail": (
        gettext_lazy("nodes that it needs are down, drained or reserved"),
        gettext_lazy(
            "It starts by itself when they are free; the partition's page says what is out of service or reserved."
            " A time limit that ends before a maintenance may start sooner."
        ),
    ),
    "Reservation": (
        gettext_lazy("waits for its reservation"),
        gettext_lazy("It starts by itself when the reservation begins and has room."),
    ),
    "ReservationDeleted": (gettext_lazy("its reservation is gone"), _AGAIN),
    "ReservationInvalid": (gettext_lazy("its reservation can't be used"), _AGAIN),
    "Licenses": (
        gettext_lazy("waits for a software licence"),
        gettext_lazy("It starts by itself when a licence is free."),
    ),
    "PartitionDown": (gettext_lazy("the partition is down"), _OTHER_PARTITION),
    "PartitionInactive": (gettext_lazy("the partition starts no jobs at the moment"), _OTHER_PARTITION),
    "PartitionNodeLimit": (
        gettext_lazy("the partition doesn't allow so many nodes, or they are out of service"),
        gettext_lazy("Compare its nodes with the partition's page; with fewer, submit it again."),
    ),
    "PartitionTimeLimit": (gettext_lazy("the time limit is above the partition's"), _SMALLER),
    "PartitionConfig": (gettext_lazy("the partition doesn't allow such a job"), _SMALLER),
    "Prolog": (gettext_lazy("its nodes are being made ready"), _BY_ITSELF),
    "Configuring": (gettext_lazy("its nodes are being made ready"), _BY_ITSELF),
    "Cleaning": (gettext_lazy("the cluster cleans up after its earlier run"), _BY_ITSELF),
    "Resizing": (gettext_lazy("its nodes are being changed"), _BY_ITSELF),
    "Suspended": (
        gettext_lazy("is suspended on the cluster"),
        gettext_lazy("It goes on when an operator or the scheduler lets it; its nodes may do other work meanwhile."),
    ),
    "JobArrayTaskLimit": (
        gettext_lazy("as many tasks of its array run as may at once"),
        gettext_lazy("It starts by itself when another task of the array ends."),
    ),
    "BurstBufferResources": (gettext_lazy("waits for room in the burst buffer"), _BY_ITSELF),
    "BurstBufferStageIn": (gettext_lazy("its data are copied into the burst buffer"), _BY_ITSELF),
    "BurstBufferOperation": (gettext_lazy("the burst buffer failed"), _OPERATORS),
    "Constraints": (gettext_lazy("no node has all that it asks for at the moment"), _SOONER),
    "BadConstraints": (gettext_lazy("no node can ever have all that it asks for"), _SMALLER),
    "AccountNotAllowed": (gettext_lazy("the project may not use this partition"), _NOT_ALLOWED),
    "QOSNotAllowed": (gettext_lazy("its service level (QOS) may not be used here"), _NOT_ALLOWED),
    "InvalidAccount": (gettext_lazy("the cluster doesn't know the project"), _NOT_ALLOWED),
    "InvalidQOS": (gettext_lazy("the cluster doesn't know its service level (QOS)"), _NOT_ALLOWED),
    "AccountingPolicy": (gettext_lazy("a limit of the cluster is reached"), _PROJECT_JOBS),
    "AssociationJobLimit": (gettext_lazy("the project already runs as many jobs as it may"), _PROJECT_JOBS),
    "AssociationResourceLimit": (gettext_lazy("the project already uses all that it may use at once"), _PROJECT_JOBS),
    "AssociationTimeLimit": (gettext_lazy("the project has used up its time on the cluster"), _MORE_TIME),
    "QOSJobLimit": (gettext_lazy("its service level (QOS) already runs as many jobs as it may"), _LEVEL_JOBS),
    "QOSResourceLimit": (
        gettext_lazy("jobs of its service level (QOS) already use all that they may at once"),
        _LEVEL_JOBS,
    ),
    "QOSTimeLimit": (gettext_lazy("its service level (QOS) has used up its time"), _OTHER_LEVEL),
    "QOSUsageThreshold": (
        gettext_lazy("the project has used too much lately for this service level (QOS)"),
        gettext_lazy("It starts by itself when the project's share has recovered; another service level may be free."),
    ),
    "MaxMemPerLimit": (gettext_lazy("asks for more memory on a node than is allowed"), _SMALLER),
    "FedJobLock": (gettext_lazy("the clusters of the federation agree on which of them runs it"), _BY_ITSELF),
    "FrontEndDown": (gettext_lazy("the cluster's front end is down"), _OPERATORS),
    "PowerNotAvail": (gettext_lazy("the cluster has no power left for it"), _BY_ITSELF),
    "PowerReserved": (gettext_lazy("the cluster's power is reserved for others"), _BY_ITSELF),
    "SchedDefer": (gettext_lazy("the cluster starts no job at once"), _BY_ITSELF),
    # Limits that are none of a resource.
    "AssocGrpJobsLimit": (gettext_lazy("the project already runs as many jobs as it may"), _PROJECT_JOBS),
    "AssocGrpSubmitJobsLimit": (gettext_lazy("the project already has as many jobs as it may"), _PROJECT_JOBS),
    "AssocGrpWallLimit": (gettext_lazy("the project has used up its running time on the cluster"), _MORE_TIME),
    "AssocMaxJobsLimit": (gettext_lazy("its owner already runs as many jobs in the project as allowed"), _OWNER_JOBS),
    "AssocMaxSubmitJobLimit": (
        gettext_lazy("its owner already has as many jobs in the project as allowed"),
        _OWNER_JOBS,
    ),
    "AssocMaxWallDurationPerJobLimit": (gettext_lazy("the time limit is above the project's"), _SMALLER),
    "QOSGrpJobsLimit": (gettext_lazy("its service level (QOS) already runs as many jobs as it may"), _LEVEL_JOBS),
    "QOSGrpSubmitJobsLimit": (gettext_lazy("its service level (QOS) already has as many jobs as it may"), _LEVEL_JOBS),
    "QOSGrpWallLimit": (gettext_lazy("its service level (QOS) has used up its running time"), _OTHER_LEVEL),
    "QOSMaxJobsPerUserLimit": (
        gettext_lazy("its owner already runs as many jobs of this service level (QOS) as allowed"),
        _OWNER_JOBS,
    ),
    "QOSMaxSubmitJobPerUserLimit": (
        gettext_lazy("its owner already has as many jobs of this service level (QOS) as allowed"),
        _OWNER_JOBS,
    ),
    "QOSMaxWallDurationPerJobLimit": (gettext_lazy("the time limit is above its service level's (QOS)"), _SMALLER),
    "MaxJobsPerAccount": (
        gettext_lazy("the project already runs as many jobs of this service level (QOS) as allowed"),
        _PROJECT_JOBS,
    ),
    "MaxSubmitJobsPerAccount": (
        gettext_lazy("the project already has as many jobs of this service level (QOS) as allowed"),
        _PROJECT_JOBS,
    ),
    # Why a job ended.
    "NonZeroExitCode": (gettext_lazy("the script ended with an error"), _SEE_LOG),
    "RaisedSignal": (gettext_lazy("ended by a signal"), _SEE_LOG),
    "TimeLimit": (
        gettext_lazy("the time limit was reached"),
        gettext_lazy("Submit it again from its last checkpoint, or with a longer time limit."),
    ),
    "DeadLine": (
        gettext_lazy("it could not have ended before its deadline"),
        gettext_lazy("Submit it again with a later deadline or a shorter time limit."),
    ),
    "OutOfMemory": (
        gettext_lazy("more memory was used than the job had"),
        gettext_lazy("Use a smaller micro-batch, fewer data loader processes, or more nodes."),
    ),
    "NodeDown": (gettext_lazy("the node stopped working"), _RESUBMIT),
    "NodeFail": (gettext_lazy("the node stopped working"), _RESUBMIT),
    "SystemFailure": (gettext_lazy("the cluster itself failed"), _RESUBMIT),
    "Preempted": (gettext_lazy("a job of higher priority needed its nodes"), _RESUBMIT),
    "JobLaunchFailure": (
        gettext_lazy("the cluster could not start it"),
        gettext_lazy(
            "Its working directory, output file or first line may not be usable there. If they are, ask the centre."
        ),
    ),
    "InactiveLimit": (gettext_lazy("it did nothing for too long"), _SEE_LOG),
    "Cancelled": (gettext_lazy("on request"), gettext_lazy("What it had used by then is charged.")),
}

_RESOURCES: Final[dict[str, "Words"]] = {
    "GRES": pgettext_lazy("of a limit", "accelerators"),
    "CPU": pgettext_lazy("of a limit", "processor cores"),
    "MEM": pgettext_lazy("of a limit", "memory"),
    "MEMORY": pgettext_lazy("of a limit", "memory"),
    "NODE": pgettext_lazy("of a limit", "nodes"),
    "ENERGY": pgettext_lazy("of a limit", "energy"),
    "LICENSE": pgettext_lazy("of a limit", "software licences"),
    "BB": pgettext_lazy("of a limit", "burst buffer"),
    "BILLING": pgettext_lazy("of a limit", "billing units"),
    "UNKNOWN": pgettext_lazy("of a limit", "some resource"),
}
_RESOURCE: Final = "(?P<resource>GRES|Cpu|CPU|Memory|Mem|Node|Energy|License|BB|Billing|Unknown)"

_FAMILIES: Final[tuple[tuple[re.Pattern[str], "Words", "Words"], ...]] = tuple(
    (re.compile(rf"\A{pattern.replace('RESOURCE', _RESOURCE)}(?:Limit|NotSatisfied)?\Z"), clause, advice)
    for pattern, clause, advice in (
        (
            "AssocGrpRESOURCE",
            gettext_lazy("the project already uses all the %(resource)s that it may use at once"),
            _PROJECT_JOBS,
        ),
        (
            "AssocGrpRESOURCEMinutes",
            gettext_lazy("the project's time budget for %(resource)s on the cluster is used up"),
            _MORE_TIME,
        ),
        (
            "AssocGrpRESOURCERunMinutes",
            gettext_lazy("the project's running jobs claim all the time on %(resource)s that they may claim at once"),
            _PROJECT_JOBS,
        ),
        (
            "AssocMaxRESOURCEPerJob",
            gettext_lazy("asks for more %(resource)s than a job of the project may have"),
            _SMALLER,
        ),
        (
            "AssocMaxRESOURCEPerNode",
            gettext_lazy("asks for more %(resource)s on a node than a job of the project may have"),
            _SMALLER,
        ),
        (
            "AssocMaxRESOURCEMinutesPerJob",
            gettext_lazy("asks for more time on %(resource)s than a job of the project may have"),
            _SMALLER,
        ),
        (
            "QOSGrpRESOURCE",
            gettext_lazy("jobs of its service level (QOS) already use all the %(resource)s that they may use at once"),
            _LEVEL_JOBS,
        ),
        (
            "QOSGrpRESOURCEMinutes",
            gettext_lazy("the time budget for %(resource)s of its service level (QOS) is used up"),
            _OTHER_LEVEL,
        ),
        (
            "QOSGrpRESOURCERunMinutes",
            gettext_lazy(
                "running jobs of its service level (QOS) claim all the time on %(resource)s that they may claim at once"
            ),
            _LEVEL_JOBS,
        ),
        (
            "QOSMaxRESOURCEPerJob",
            gettext_lazy("asks for more %(resource)s than a job of its service level (QOS) may have"),
            _SMALLER,
        ),
        (
            "QOSMaxRESOURCEPerNode",
            gettext_lazy("asks for more %(resource)s on a node than a job of its service level (QOS) may have"),
            _SMALLER,
        ),
        (
            "QOSMaxRESOURCEMinutesPerJob",
            gettext_lazy("asks for more time on %(resource)s than a job of its service level (QOS) may have"),
            _SMALLER,
        ),
        (
            "QOSMaxRESOURCEPerUser",
            gettext_lazy("its owner already uses all the %(resource)s that one person may at its service level (QOS)"),
            _OWNER_JOBS,
        ),
        (
            "QOSMinRESOURCE",
            gettext_lazy("must ask for more %(resource)s at its service level (QOS)"),
            gettext_lazy("It can't start like this: cancel it, and submit it again with more or at another level."),
        ),
        (
            "MaxRESOURCEPerAccount",
            gettext_lazy(
                "the project already uses all the %(resource)s that one project may at its service level (QOS)"
            ),
            _PROJECT_JOBS,
        ),
    )
)

_CRASHED: Final = gettext_lazy("The program crashed; the end of the log says where.")
_UNCAUGHT: Final = gettext_lazy("The script was told to write a checkpoint and has no trap for that signal.")
_SIGNALS: Final[dict[int, "Words"]] = {
    signal.SIGKILL: gettext_lazy("Most often memory ran out, or it was ended by force; the end of the log says more."),
    signal.SIGTERM: gettext_lazy("It was asked to end, by its owner, an operator or its own program."),
    signal.SIGINT: gettext_lazy("It was asked to end, by its owner, an operator or its own program."),
    signal.SIGSEGV: _CRASHED,
    signal.SIGBUS: gettext_lazy("The program crashed, often for want of shared memory; the end of the log says more."),
    signal.SIGABRT: _CRASHED,
    signal.SIGFPE: _CRASHED,
    signal.SIGILL: _CRASHED,
    signal.SIGUSR1: _UNCAUGHT,
    signal.SIGUSR2: _UNCAUGHT,
}


def describe_scheduler_reason(code: str) -> ReasonWords | None:
    """A reason in the reader's language; None for a word that isn't known."""
    known = _REASONS.get(code)
    if known is not None:
        return ReasonWords(str(known[0]), str(known[1]))
    if code.startswith("RaisedSignal:"):
        return _describe_signal(code.partition(":")[2])
    for pattern, clause, advice in _FAMILIES:
        match = pattern.match(code)
        if match is not None:
            resource = _RESOURCES[match["resource"].upper()]
            return ReasonWords(str(clause) % {"resource": resource}, str(advice))
    return None


def _describe_signal(number: str) -> ReasonWords:
    try:
        known = signal.Signals(int(number))
    except ValueError:
        return ReasonWords(_("ended by signal %(signal)s") % {"signal": number}, str(_SEE_LOG))
    clause = _("ended by signal %(signal)s") % {"signal": f"{known.value} ({known.name})"}
    return ReasonWords(clause, str(_SIGNALS.get(known, _SEE_LOG)))
