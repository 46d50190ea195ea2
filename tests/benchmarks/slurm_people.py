"""Prints API tokens of people who may submit to the lab; run with a portal's environment: see `slurm`.

The portal lets each person submit 300 jobs a minute: one person alone would measure that.
"""

import json
import os
import sys

import django


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    from knox.models import AuthToken

    from accounts.models import Membership, Project, Role, User

    project = Project.objects.get(code="nlp-lab")
    unix_username = User.objects.get(username="lin").unix_username
    tokens = []
    for number in range(int(sys.argv[1])):
        user, is_new = User.objects.get_or_create(
            username=f"bench-{number}", defaults={"email": f"b{number}@example.org", "unix_username": unix_username}
        )
        if is_new:
            Membership.objects.create(project=project, user=user, role=Role.MEMBER)
        tokens.append(AuthToken.objects.create(user=user)[1])
    print(json.dumps(tokens))


if __name__ == "__main__":
    main()
