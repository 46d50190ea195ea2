"""Hands out short-lived JSON Web Tokens for Slurm: one verb, "a token for user X".

A program of its own, for a Unix user of its own: only it holds the cluster's JWT key. It needs Python 3.11 and nothing
else, and imports nothing of the portal, so that an administrator can read it all and install it by copying this
directory. See docs/admin/slurm.md.

    python3 -m token_broker /etc/slurm-token-broker/broker.toml            run
    python3 -m token_broker --check /etc/slurm-token-broker/broker.toml    try configuration, key and list; run nothing

A client connects to the Unix socket and sends one line, at most 512 bytes:

    {"user": "alice"}

and gets one line, and then the end:

    {"status": "granted", "token": "eyJ…", "expires_at": 1795478400}
    {"status": "refused", "reason": "not_listed", "message": "…"}     this user gets none
    {"status": "failed", "reason": "key", "message": "…"}             nobody gets any now, or the request can't be read
"""
