"""Finding a person by what somebody else knows of them."""

from django.db.models import Q

from accounts.models import User


def find_person(name: str) -> User | None:
    """The active person with this user name or e-mail address, in any case of letters.

    None alike for nobody and for a closed account: who asks learns no more than they need.
    """
    text = name.strip()
    if not text or "\0" in text:
        return None
    people = User.objects.filter(Q(username__iexact=text) | Q(email__iexact=text), is_active=True)
    return people.order_by("pk").first()
