"""Benchmarks: what the portal costs beside a baseline measured in the same run. See docs/benchmarks.md."""
