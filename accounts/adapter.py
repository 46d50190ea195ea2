"""How django-allauth behaves here."""

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):
    """People are added by administrators; nobody signs up on their own yet."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False
