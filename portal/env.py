"""Typed readers of environment variables that fail loudly, naming the variable, its value and what is allowed."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def env_str(name: str, default: str) -> str:
    """The variable as text; `default` if unset or empty."""
    return os.environ.get(name) or default


def env_bool(name: str, *, default: bool) -> bool:
    """true/false, yes/no, on/off or 1/0."""
    raw = os.environ.get(name, "")
    if not raw:
        return default
    if raw.lower() in _TRUE:
        return True
    if raw.lower() in _FALSE:
        return False
    raise ImproperlyConfigured(f"{name}={raw!r} is not allowed; allowed: true or false")


def env_int(name: str, *, default: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    raw = os.environ.get(name, "")
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={raw!r} is not allowed; allowed: a whole number") from None
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name}={value} is not allowed; allowed: {low} to {high}")
    return value


def env_list(name: str, default: list[str]) -> list[str]:
    """Comma-separated words."""
    raw = os.environ.get(name, "")
    return [word.strip() for word in raw.split(",") if word.strip()] if raw else default


def env_path(name: str, default: Path) -> Path:
    """An absolute path; a relative one counts from the current directory."""
    return Path(env_str(name, str(default))).expanduser().absolute()


def env_secret(name: str, *, fallback_file: Path | None = None) -> str:
    """A secret from `NAME`, from the file that `NAME_FILE` names, or from `fallback_file`.

    Raises:
        ImproperlyConfigured: if there is none, or it is too short to be one.
    """
    value = os.environ.get(name, "")
    path = os.environ.get(f"{name}_FILE", "") or (str(fallback_file) if fallback_file else "")
    if not value and path:
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(
                f"{name} is unset and {path} can't be read ({error.strerror}); set {name} or {name}_FILE, "
                "or start the portal once with 'python -m portal up', which makes one"
            ) from error
    if len(value) < 32:
        raise ImproperlyConfigured(
            f"{name} must be set to a secret of at least 32 characters (or {name}_FILE to a file)"
        )
    return value
