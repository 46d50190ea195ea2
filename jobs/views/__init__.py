"""Pages of jobs, their parts that htmx loads, and the JSON that pages poll."""
