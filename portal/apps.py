"""The site as a Django app: templates tags, static files, commands, and the Celery application for `shared_task`."""

from django.apps import AppConfig

from portal.celery import app as celery_app


class PortalConfig(AppConfig):
    name = "portal"
    celery_app = celery_app
