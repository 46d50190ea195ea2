"""Where portalctl keeps who is signed in where: one file that its owner alone can read."""

import contextlib
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class ProfileError(Exception):
    """The file of profiles can't be used; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One sign-in. An empty token: signed out."""

    url: str
    username: str = ""
    token: str = ""
    expires_at: str = ""

    def __repr__(self) -> str:
        return f"Profile(url={self.url!r}, username={self.username!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """All profiles, and the one that is used unless another is named: the last that was signed in."""

    current: str
    by_name: dict[str, Profile]

    def with_profile(self, name: str, profile: Profile, *, make_current: bool) -> "Profiles":
        return Profiles(
            current=name if make_current else self.current,
            by_name={**self.by_name, name: profile},
        )


def profiles_file() -> Path:
    """Below XDG_CONFIG_HOME, which is ~/.config unless set."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    directory = Path(base) if base.startswith("/") else Path.home() / ".config"
    return directory / "portalctl" / "profiles.json"


def load_profiles() -> Profiles:
    """Those of the file; none if there is no file.

    Raises:
        ProfileError: others can read it, or it is broken.
    """
    path = profiles_file()
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ProfileError(f"Others can read {path}, which holds your token. Do: chmod 600 {path}")
            found = json.load(file)
        return Profiles(
            current=str(found["current"]),
            by_name={name: _read_profile(fields) for name, fields in found["profiles"].items()},
        )
    except FileNotFoundError:
        return Profiles(current="default", by_name={})
    except OSError as error:
        raise ProfileError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProfileError(f"{path} is not a file of profiles. Remove it and sign in again.") from error


def save_profiles(profiles: Profiles) -> None:
    """Replace the file in one step, so that it is never half written nor readable by others for a moment.

    Raises:
        ProfileError: it can't be written.
    """
    path = profiles_file()
    body = {"current": profiles.current, "profiles": {name: asdict(one) for name, one in profiles.by_name.items()}}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes a file of mode 0600.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".profiles-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(body, file, indent=2)
                file.write("\n")
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise ProfileError(f"{path} can't be written: {error.strerror}.") from error


def _read_profile(fields: dict[str, Any]) -> Profile:
    words = {name: str(fields.get(name, "")) for name in ("username", "token", "expires_at")}
    return Profile(url=str(fields["url"]), **words)
