"""Makes the demo centre of a running portal one whose machine is a lab; run with the portal's environment.

    python -m tests.integration.slurm.centre --name default [--unlimited]

Both clusters are the same lab: `slurm-cli` by Slurm's commands, `slurm-rest` by slurmrestd. May be run again.
"""

import argparse
import os
from typing import Final

import django

from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ACCOUNTS, ALICE, BOB, Layout

CLUSTERS: Final = {
    "slurm-cli": ("Slurm by its commands", "Slurm（命令行）"),
    "slurm-rest": ("Slurm by slurmrestd", "Slurm（REST）"),
}
PARTITIONS: Final = {"gpu-a800": ("a800", "a800-80g"), "ascend910b": ("ascend910b", "ascend910b-64g")}
"""By name: the resource class, and the accelerator in the estimator's catalogue."""

PEOPLE: Final = {"lin": ALICE, "chen": ALICE, "wang": BOB}
PROJECTS: Final = {"nlp-lab": ACCOUNTS[ALICE], "protein": ACCOUNTS[BOB]}


def settle_in(layout: Layout, *, is_unlimited: bool) -> None:
    """Make or update the rows."""
    from django.db import transaction

    from accounts.models import Cluster, Partition, Policy, Project, ResourceClass, User

    groups = {group.partition: group for group in layout.groups}
    with transaction.atomic():
        Partition.objects.filter(cluster__code="demo", jobs=None).delete()
        Cluster.objects.filter(code="demo", partitions=None).delete()
        for code, (title, title_zh) in CLUSTERS.items():
            cluster, _ = Cluster.objects.get_or_create(code=code, defaults={"title": title, "title_zh": title_zh})
            for name, (class_code, accelerator) in PARTITIONS.items():
                group = groups[name]
                Partition.objects.update_or_create(
                    cluster=cluster,
                    name=name,
                    defaults={
                        "resource_class": ResourceClass.objects.get(code=class_code),
                        "accelerator": accelerator,
                        "is_simulated": True,
                        "nodes": group.nodes,
                        "devices_per_node": group.devices_per_node,
                        "gres_name": group.gres_name,
                        "gres_type": group.gres_type,
                        "max_time_limit_minutes": group.max_time_limit_minutes,
                        "default_time_limit_minutes": 10,
                    },
                )
        for username, unix_username in PEOPLE.items():
            User.objects.filter(username=username).update(unix_username=unix_username)
        for project, slurm_account in PROJECTS.items():
            Project.objects.filter(code=project).update(slurm_account=slurm_account)
        if is_unlimited:
            Policy.objects.all().delete()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.slurm.centre", description=__doc__)
    parser.add_argument("--name", default="default", help="of the lab")
    parser.add_argument("--unlimited", action="store_true", help="without the demo centre's limits for each person")
    arguments = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    settle_in(SlurmLab.open(arguments.name).layout, is_unlimited=arguments.unlimited)


if __name__ == "__main__":
    main()
