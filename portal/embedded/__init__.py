"""The portal on one machine: PostgreSQL, Valkey, web server and workers, started and watched together."""
