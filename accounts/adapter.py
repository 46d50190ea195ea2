"""How django-allauth behaves here."""

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest
from django.utils import timezone
from redis.exceptions import RedisError

from accounts.models import ActSource
from accounts.services import starter
from accounts.services.acts import Act
from accounts.services.request_rules import RequestError

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

    def confirm_email(self, request: HttpRequest, email_address: Any) -> bool:
        """Whoever has shown that an address of an institution is theirs is one of its researchers."""
        is_confirmed = bool(super().confirm_email(request, email_address))
        if is_confirmed:
            act = Act(actor=None, at=timezone.now(), source=ActSource.PAGE)
            try:
                starter.verify_by_email(act, email_address.user, email_address.email)
            except RequestError:
                # The address is confirmed all the same; somebody can verify the person by hand.
                logger.exception("no starter allocation for %s", email_address.user)
        return is_confirmed
