"""What messages about jobs that need approval say."""

from django.utils.translation import gettext_noop

WORDS: dict[str, tuple[str, str]] = {
    "job.approval_needed": (
        gettext_noop("Job “%(job)s” waits for approval"),
        gettext_noop(
            "%(user)s wants to run job “%(job)s” of project %(project)s, which may use %(hours)s accelerator-hours. "
            "Policy asks for approval."
        ),
    ),
    "job.approved": (
        gettext_noop("Your job “%(job)s” was approved"),
        gettext_noop("Job “%(job)s” of project %(project)s goes on by itself."),
    ),
    "job.approval_refused": (
        gettext_noop("Your job “%(job)s” was refused"),
        gettext_noop("Job “%(job)s” of project %(project)s was refused: %(reason)s"),
    ),
}
