"""A real Slurm on this machine, for tests and developers: Debian's packages, a private directory, no systemd.

    python -m tests.integration.slurm up        install what is missing, start everything
    python -m tests.integration.slurm status    what runs, and how to talk to it
    python -m tests.integration.slurm down      end its jobs and processes, remove its directory and users

Several slurmd share the machine (`--enable-multiple-slurmd`, as Debian builds it) and believe the configuration
file about their size, so that jobs on 16 accelerators really run. Everything listens on 127.0.0.1 or on sockets in
the private directory, on ports that were free.
"""
