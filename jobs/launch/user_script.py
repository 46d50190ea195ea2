"""The user's own script: written beside the job's output, then run in place of the batch script."""

import hashlib

from jobs.launch.directives import find_directive_lines
from jobs.launch.request import LaunchWarning, UserScript

USER_SCRIPT_FILE = "user_script"
_MAX_LISTED = 20
_MAX_LISTED_CHARACTERS = 200


def render_user_script(entry: UserScript) -> tuple[list[str], tuple[LaunchWarning, ...]]:
    """Return the lines that write and start the script, and what the user should know.

    The text goes through a here-document with a quoted delimiter, in which bash expands nothing, and which
    only a line equal to the delimiter could end. `exec` keeps one process, so signals reach the user's program.
    Windows line ends are converted: `#!/bin/bash\\r` names no interpreter.
    """
    warnings = []
    text = entry.text
    if "\r\n" in text:
        warnings.append(LaunchWarning(code="crlf", parameters={"lines": text.count("\r\n")}))
        text = text.replace("\r\n", "\n")
    ignored = find_directive_lines(text)
    if ignored:
        listed = tuple(line[:_MAX_LISTED_CHARACTERS] for line in ignored[:_MAX_LISTED])
        warnings.append(
            LaunchWarning(code="user_directives_ignored", parameters={"count": len(ignored), "lines": listed})
        )
    body = text.removesuffix("\n").split("\n")
    delimiter = choose_delimiter(body)
    lines = [
        f"rm -f -- ./{USER_SCRIPT_FILE}",
        f"(umask 077 && cat > ./{USER_SCRIPT_FILE}) <<'{delimiter}'",
        *body,
        delimiter,
        f"chmod 0700 ./{USER_SCRIPT_FILE}",
        f"exec ./{USER_SCRIPT_FILE}",
    ]
    return lines, tuple(warnings)


def choose_delimiter(lines: list[str]) -> str:
    """Return a word that is none of `lines`; the same lines always give the same word."""
    taken = set(lines)
    digest = hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
    word = f"END_OF_USER_SCRIPT_{digest[:16]}"
    attempt = 0
    while word in taken:
        attempt += 1
        word = f"END_OF_USER_SCRIPT_{digest[:16]}_{attempt}"
    return word
