"""Kills parts of a whole portal and of its real Slurm at random points while people submit, then checks everything.

    KILLS=300 JOBS=500 SEED=2026 make chaos

- `clients`: people who submit as real clients do, with idempotency keys and retries;
- `kills`: what is killed, and when it is back;
- `operator`: whoever restarts Slurm's daemons and resumes nodes, as at a real centre;
- `audit`: what Slurm, the jobs themselves and the portal say, beside each other.
"""
