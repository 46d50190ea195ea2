"""Pages of projects, requests, people and their messages."""
