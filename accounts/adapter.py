"""How django-allauth behaves here."""

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)


class AccountAdapter(DefaultAccountAdapter):
    """People are added by administrators; nobody signs up on their own yet."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count the attempt. A cache that is down lets it pass: the portal must not stop with it."""
        try:
            super().pre_authenticate(request, **credentials)
        except RedisError:
            logger.warning("the cache doesn't answer: sign-in is not limited", exc_info=True)
