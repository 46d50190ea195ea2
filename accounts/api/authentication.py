"""Who calls: a bearer token, or the session of a signed-in browser."""

import re
from typing import Any

from django.utils.translation import gettext_lazy as _
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

_TOKEN = re.compile(rb"\A[A-Za-z0-9_]{1,256}\Z")


class BearerAuthentication(TokenAuthentication):
    """`Authorization: Bearer <token>`; the same answer for unknown, expired and malformed tokens."""

    def authenticate_credentials(self, token: bytes) -> Any:
        # The parent class decodes the token and asks the database for it, whatever bytes it holds.
        if not _TOKEN.match(token):
            raise AuthenticationFailed(_("Invalid token."))
        return super().authenticate_credentials(token)
