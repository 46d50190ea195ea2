"""Reading JSON bodies: strict, bounded, and with errors that say where."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from accounts.api.errors import ContentTooLarge, InvalidParam, InvalidParams, shorten

MAX_DEPTH = 32


class StrictJSONParser(BaseParser):
    """JSON in UTF-8 (RFC 8259).

    Unlike the framework's parser it bounds size and depth, refuses a key given twice and numbers beyond floating
    point, and refuses text that the database can't hold (NUL, half of a surrogate pair), naming its place.
    """

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        raw = _read(stream)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ParseError(_("The body is not UTF-8: byte %(at)s.") % {"at": error.start}) from error
        try:
            data = json.loads(
                text, parse_constant=_refuse_constant, parse_float=_parse_float, object_pairs_hook=_unique_keys
            )
        except json.JSONDecodeError as error:
            words = {"line": error.lineno, "column": error.colno, "what": error.msg}
            raise ParseError(_("The body is not JSON: line %(line)s, column %(column)s: %(what)s.") % words) from error
        except RecursionError as error:
            raise ParseError(_too_deep()) from error
        except ValueError as error:
            raise ParseError(_("The body is not JSON that can be read: %(what)s.") % {"what": error}) from error
        check_text(data)
        return data


def check_text(data: Any) -> None:
    """Refuse text that can't be stored, and nesting beyond MAX_DEPTH.

    Raises:
        InvalidParams: naming each such place.
        ParseError: for the nesting.
    """
    problems = []
    waiting: list[tuple[str, Any, int]] = [("", data, 1)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, str):
            problem = find_text_problem(name or "body", value)
            if problem is not None:
                problems.append(problem)
        elif isinstance(value, dict | list) and depth > MAX_DEPTH:
            raise ParseError(_too_deep())
        elif isinstance(value, dict):
            for key, item in value.items():
                path = f"{name}.{shorten(key)}" if name else str(shorten(key))
                problem = find_text_problem(path, key)
                if problem is not None:
                    problems.append(problem)
                waiting.append((path, item, depth + 1))
        elif isinstance(value, list):
            waiting.extend((f"{name or 'body'}[{index}]", item, depth + 1) for index, item in enumerate(value))
    if problems:
        raise InvalidParams(problems[:20])


def find_text_problem(name: str, text: str) -> InvalidParam | None:
    """What keeps a text from being stored, if anything does."""
    position = text.find("\x00")
    if position >= 0:
        reason, code = _("A NUL character stands at position %(at)s.") % {"at": position}, "nul_character"
    else:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            position, code = error.start, "lone_surrogate"
            reason = _("Half of a surrogate pair stands at position %(at)s.") % {"at": position}
        else:
            return None
    start = max(position - 8, 0)
    return InvalidParam(
        name=name.replace("\x00", "\\0"),
        code=code,
        reason=reason,
        value=shorten(text[start : position + 8].replace("\x00", "\\0")),
        allowed=_("text without NUL and without lone surrogates"),
    )


def _read(stream: Any) -> bytes:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    declared = stream.META.get("CONTENT_LENGTH", "") if hasattr(stream, "META") else ""
    raw: bytes = b""
    if not (declared.isdecimal() and int(declared[:20]) > limit):
        raw = stream.read(limit + 1)
        if len(raw) <= limit:
            return raw
    raise ContentTooLarge(_("A body may have %(limit)s bytes.") % {"limit": limit})


def _too_deep() -> str:
    return _("The body is nested too deeply; allowed: %(limit)s levels.") % {"limit": MAX_DEPTH}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(_("%(name)s is not a number of JSON") % {"name": name})


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(_("%(number)s is beyond the range of numbers") % {"number": text[:20]})
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _value in pairs).most_common(1)[0][0]
        raise ValueError(_("the key %(key)s stands twice in one object") % {"key": shorten(twice)})
    return found
