"""REST API of jobs, estimates and what clusters have."""
