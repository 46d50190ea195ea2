"""`python -m portalctl`."""

from portalctl.app import main

if __name__ == "__main__":
    main()
