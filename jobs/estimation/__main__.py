"""`python -m jobs.estimation`."""

import sys

from jobs.estimation.cli import main

if __name__ == "__main__":
    sys.exit(main())
