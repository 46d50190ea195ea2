"""`python -m portal`: see portal.embedded.commands."""

import sys

from portal.embedded.commands import main

if __name__ == "__main__":
    sys.exit(main())
