"""Judging slurm.conf, as `scontrol show config` prints it."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from jobs.backends.checks import Check, failed, ok, warning
from jobs.backends.slurm.options import SlurmOptions

_JWT_KEY: Final = re.compile(r"(?:\A|,)jwt_key=([^,]+)")


def check_configuration(
    conf: Mapping[str, str], options: SlurmOptions, *, gres_names: Collection[str], poll_interval_s: float
) -> Iterator[Check]:
    """Every line of slurm.conf that the portal's promises rest on."""
    yield _check_enforcement(conf)
    yield _check_partition_limits(conf)
    yield _check_comment(conf)
    yield check_accounted(set(_words(conf, "AccountingStorageTRES")), gres_names)
    yield _check_memory(conf, poll_interval_s)
    yield from _check_patience(conf, options)
    yield _check_key_is_out_of_reach(conf)


def check_accounted(tres: set[str], gres_names: Collection[str]) -> Check:
    """Whether accounting counts the accelerators of all partitions."""
    missing = sorted({f"gres/{name}" for name in gres_names if name} - tres)
    if missing:
        return failed(
            "accelerators",
            f"Accounting doesn't count {', '.join(missing)}: jobs on them would be charged by what they asked for.",
            f"Set AccountingStorageTRES={','.join(missing)} in slurm.conf and restart slurmctld.",
        )
    return ok("accelerators", "Accounting counts every kind of accelerator that a partition has.")


def _check_enforcement(conf: Mapping[str, str]) -> Check:
    enforced = set(_words(conf, "AccountingStorageEnforce"))
    if "safe" in enforced:
        enforced |= {"limits", "associations"}
    if enforced & {"limits", "qos", "wckeys"}:
        enforced.add("associations")  # slurm.conf(5): they imply it
    missing = [word for word in ("associations", "limits") if word not in enforced and "all" not in enforced]
    if missing:
        return failed(
            "enforcement",
            f"AccountingStorageEnforce={conf.get('AccountingStorageEnforce', '')} lacks {', '.join(missing)}: "
            "people could submit without an account, past the portal and past their limits.",
            "Set AccountingStorageEnforce=associations,limits,qos in slurm.conf and restart slurmctld.",
        )
    return ok("enforcement", "Slurm enforces associations and limits.")


def _check_partition_limits(conf: Mapping[str, str]) -> Check:
    value = conf.get("EnforcePartLimits", "").upper()
    if value not in ("ALL", "ANY", "YES"):
        return failed(
            "partition limits",
            f"EnforcePartLimits={value or 'NO'}: a job over its partition's time limit would wait for ever instead of "
            "being refused.",
            "Set EnforcePartLimits=ALL in slurm.conf, then scontrol reconfigure.",
        )
    return ok("partition limits", f"Jobs over a partition's limits are refused (EnforcePartLimits={value}).")


def _check_comment(conf: Mapping[str, str]) -> Check:
    if "job_comment" not in _words(conf, "AccountingStoreFlags"):
        return warning(
            "comment",
            "AccountingStoreFlags lacks job_comment: accounting knows jobs by their directory alone.",
            "Set AccountingStoreFlags=job_comment in slurm.conf and restart slurmctld.",
        )
    return ok("comment", "Accounting keeps jobs' comments, in which the portal's key is.")


def _check_memory(conf: Mapping[str, str], poll_interval_s: float) -> Check:
    seconds = _seconds(conf, "MinJobAge")
    wanted = max(60.0, 10 * poll_interval_s)
    if seconds is not None and 0 < seconds < wanted:
        return warning(
            "memory",
            f"MinJobAge={seconds:g} s: ended jobs leave the controller's memory before the portal has surely asked "
            "for them, and are then looked for in accounting, which is slower.",
            f"Set MinJobAge to {wanted:g} or more (Slurm's default is 300).",
        )
    return ok("memory", f"The controller remembers ended jobs for {conf.get('MinJobAge', 'its default time')}.")


def _check_patience(conf: Mapping[str, str], options: SlurmOptions) -> Iterator[Check]:
    message_timeout_s = _seconds(conf, "MessageTimeout")
    if message_timeout_s is None:
        yield warning("patience", "MessageTimeout is not shown.", "Compare TIMEOUT_S and SETTLE_S with it yourself.")
        return
    if options.timeout_s <= message_timeout_s:
        yield failed(
            "patience",
            f"TIMEOUT_S={options.timeout_s:g} is not above Slurm's MessageTimeout={message_timeout_s:g}: the portal "
            "would give up before Slurm has said what is wrong.",
            f"Set TIMEOUT_S to {message_timeout_s + 5:g} or more in the portal's OPTIONS.",
        )
    elif options.settle_s < 2 * message_timeout_s:
        yield failed(
            "patience",
            f"SETTLE_S={options.settle_s:g} is less than twice Slurm's MessageTimeout={message_timeout_s:g}: a job "
            "could be submitted twice after a submission that was not answered.",
            f"Set SETTLE_S to {2 * message_timeout_s:g} or more in the portal's OPTIONS.",
        )
    else:
        yield ok("patience", f"TIMEOUT_S and SETTLE_S fit Slurm's MessageTimeout of {message_timeout_s:g} s.")


def _check_key_is_out_of_reach(conf: Mapping[str, str]) -> Check:
    match = _JWT_KEY.search(conf.get("AuthAltParameters", ""))
    if match is not None and os.geteuid() != 0 and os.access(match[1], os.R_OK):
        return failed(
            "key",
            f"The portal's Unix user can read {match[1]}, and with it could become anybody on the cluster.",
            "Give it to SlurmUser alone: chown slurm, chmod 0600. Then exchange it: others may have read it, too.",
        )
    if os.geteuid() == 0:
        return warning(
            "key", "This runs as root, who can read Slurm's keys.", "Run the portal as a Unix user of its own."
        )
    return ok("key", "The portal's Unix user can't read Slurm's key for tokens.")


def _words(conf: Mapping[str, str], name: str) -> list[str]:
    return [word.strip().lower() for word in conf.get(name, "").split(",")]


def _seconds(conf: Mapping[str, str], name: str) -> float | None:
    number = conf.get(name, "").split(" ")[0]
    return float(number) if number.isdigit() else None
