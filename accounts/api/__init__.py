"""REST API of people, projects and allocations; and what every endpoint of the site is built from.

Shared by all endpoints: `base` (views), `parsing`, `validation` and `fields` (strict bodies and parameters),
`authentication`, `throttling`, `errors`, `schema`.
"""
