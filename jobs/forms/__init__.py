"""What people type into pages, read into what services take."""

from jobs.forms.filters import JobFilterForm
from jobs.forms.submission import JobForm

__all__ = ["JobFilterForm", "JobForm"]
