"""What administrators are told when something needs them."""

from django.utils.translation import gettext_noop

WORDS = {
    "job_lost": (
        gettext_noop("A job is lost: %(name)s"),
        gettext_noop(
            "Neither the queue nor the accounting of cluster %(cluster)s knows job %(job)s, which had begun. Look "
            "whether its processes still run, then write it off on its page: until then its hours stay reserved."
        ),
    ),
    "usage_overdue": (
        gettext_noop("Accounting of %(cluster)s owes the usage of a job"),
        gettext_noop(
            "Job %(job)s ended more than an hour ago as %(native_id)s on cluster %(cluster)s, whose accounting has no "
            "end of it, so it isn't charged. “sacctmgr show runawayjobs” lists such records, and mends them."
        ),
    ),
    "cluster_unavailable": (
        gettext_noop("Cluster %(cluster)s doesn't answer"),
        gettext_noop("Its jobs wait, and go on by themselves when it is back. Last error: %(error)s"),
    ),
}
