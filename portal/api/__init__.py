"""The edge of the REST API: routes, pages of documentation, and how errors are told."""
