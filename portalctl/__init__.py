"""The portal's command line and its client library. Needs no Django, and nothing else of the portal's code."""

__version__ = "0.1.0"
