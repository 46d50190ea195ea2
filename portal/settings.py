"""The portal's settings: one file, values from the environment (see docs/configuration.md)."""

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import dj_database_url
import django_stubs_ext
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _
from whitenoise.compress import Compressor

from portal.embedded.state import running_urls
from portal.env import env_bool, env_int, env_list, env_path, env_secret, env_str

django_stubs_ext.monkeypatch()  # lets generic classes be written with their type: ModelForm[User]

VERSION = "0.1.0"
BASE_DIR = Path(__file__).resolve().parent.parent
PORTAL_HOME = env_path("PORTAL_HOME", BASE_DIR / ".portal")

DEBUG = env_bool("DEBUG", default=False)
SECRET_KEY = env_secret("SECRET_KEY", fallback_file=PORTAL_HOME / "secret_key")
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
PORTAL_URL = env_str("PORTAL_URL", "http://127.0.0.1:8000")
BEHIND_PROXY = env_bool("BEHIND_PROXY", default=False)
_IS_HTTPS = PORTAL_URL.startswith("https://")

# Where the two servers are: the environment first, else the embedded ones that run now.
_embedded = running_urls(PORTAL_HOME) or {}
DATABASE_URL = env_str("DATABASE_URL", _embedded.get("DATABASE_URL", ""))
REDIS_URL = env_str("REDIS_URL", _embedded.get("REDIS_URL", ""))
if not DATABASE_URL or not REDIS_URL:
    raise ImproperlyConfigured(
        "DATABASE_URL and REDIS_URL are unset and no embedded servers run; "
        "start them with 'python -m portal up', or set both"
    )

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "csp",
    "django_filters",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "knox",
    "rest_framework",
    "portal",
    "accounts",
    "jobs",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",  # adds random bytes against BREACH
    "portal.middleware.ContentPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "portal.middleware.BodyLimitMiddleware",  # before anything reads the body
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.middleware.TimeZoneMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.context_processors.site",
                "portal.context_processors.offices",
            ],
        },
    }
]

# --- Data ------------------------------------------------------------------------------------------------------------

DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=60, conn_health_checks=True)}
if DATABASES["default"]["ENGINE"] != "django.db.backends.postgresql":
    raise ImproperlyConfigured(
        "DATABASE_URL must name a PostgreSQL server (postgresql://…): the ledger relies on its locks"
    )
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 10)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}

# --- People ----------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = None
ALLAUTH_TRUSTED_PROXY_COUNT = 1 if BEHIND_PROXY else 0  # else all people share the proxy's sign-in limit
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "dashboard"
EMAIL_BACKEND = env_str("EMAIL_BACKEND", "django.core.mail.backends.console.EmailBackend")
EMAIL_HOST = env_str("EMAIL_HOST", "localhost")
EMAIL_PORT = env_int("EMAIL_PORT", default=25, low=1, high=65_535)
EMAIL_HOST_USER = env_str("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env_str("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env_bool("EMAIL_USE_TLS", default=False)
EMAIL_TIMEOUT = 10  # a batch must be through before its task is ended
DEFAULT_FROM_EMAIL = env_str("DEFAULT_FROM_EMAIL", "portal@localhost")

SESSION_COOKIE_NAME = "__Host-session" if _IS_HTTPS else "portal_session"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = _IS_HTTPS
LANGUAGE_COOKIE_HTTPONLY, LANGUAGE_COOKIE_SAMESITE = True, "Lax"
CSRF_COOKIE_NAME = "__Host-csrf" if _IS_HTTPS else "portal_csrf"
CSRF_TRUSTED_ORIGINS = [PORTAL_URL] if _IS_HTTPS else []
SECURE_HSTS_SECONDS = 31_536_000 if _IS_HTTPS else 0
SECURE_SSL_REDIRECT = _IS_HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "manifest-src": [SELF],
    },
}
# The back-office's pages hold inline code; all else of the policy is theirs, too. The API's readers bring their own.
ADMIN_CONTENT_POLICY = {"script-src": [SELF, UNSAFE_INLINE, UNSAFE_EVAL], "style-src": [SELF, UNSAFE_INLINE]}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
MAX_REQUEST_BYTES = 4 * 1024 * 1024  # with its files, which the limit above doesn't count
DATA_UPLOAD_MAX_NUMBER_FIELDS = 500

# --- Languages and times ---------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "portal" / "locale"]
USE_TZ = True
TIME_ZONE = env_str("TIME_ZONE", "UTC")

# --- Static files ----------------------------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = env_path("STATIC_ROOT", PORTAL_HOME / "static")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
WHITENOISE_SKIP_COMPRESS_EXTENSIONS = (*Compressor.SKIP_COMPRESS_EXTENSIONS, "map")  # nobody fetches those by default

# --- Celery: carries "go and look" only; the database is the truth --------------------------------------------------

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 300
CELERY_TASK_SOFT_TIME_LIMIT = 270
CELERY_TASK_PUBLISH_RETRY = False  # a nudge that can't be sent is dropped: beat comes by anyway
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600, "socket_timeout": 5, "socket_connect_timeout": 2}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
POLL_INTERVAL_S = env_int("POLL_INTERVAL_S", default=2, low=1, high=600)

# --- Schedulers: one alias per cluster -------------------------------------------------------------------------------

EXAMPLES_DIR = BASE_DIR / "examples"


def _schedulers() -> dict[str, dict[str, Any]]:
    """From the TOML file that SCHEDULERS_FILE names; unset: the local backend on this machine."""
    path = env_str("SCHEDULERS_FILE", "")
    if path:
        try:
            with open(path, "rb") as file:
                return tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ImproperlyConfigured(f"SCHEDULERS_FILE={path!r} can't be used: {error}") from error
    simulated = {"nodes": 8, "devices_per_node": 8, "max_time_limit_minutes": 7 * 24 * 60}
    return {
        "demo": {
            "BACKEND": "jobs.backends.local.LocalBackend",
            "OPTIONS": {
                "ROOT": str(PORTAL_HOME / "scheduler"),
                "PARTITIONS": {
                    "host-cpu": {
                        "nodes": 1,
                        "devices_per_node": os.cpu_count() or 1,
                        "gres_name": "cpu",
                        "gres_type": "",
                        "max_time_limit_minutes": 24 * 60,
                    },
                    # No accelerator exists on such a machine: these count cards and run the script as it is.
                    "a800-sim": {**simulated, "gres_name": "gpu", "gres_type": "a800"},
                    "ascend910b-sim": {**simulated, "gres_name": "npu", "gres_type": "910b"},
                },
                "ENVIRONMENT": {"PORTAL_PYTHON": sys.executable, "PORTAL_EXAMPLES": str(EXAMPLES_DIR)},
            },
        }
    }


SCHEDULERS = _schedulers()
DISPATCH_LEASE_S = env_int("DISPATCH_LEASE_S", default=120, low=10, high=3600)
# Fair share: how fast past use is forgotten, and by how much it can let a later job go first.
FAIR_SHARE_HALF_LIFE_DAYS = env_int("FAIR_SHARE_HALF_LIFE_DAYS", default=14, low=1, high=3650)
FAIR_SHARE_HORIZON_DAYS = env_int("FAIR_SHARE_HORIZON_DAYS", default=7, low=0, high=365)
LOST_AFTER_S = env_int("LOST_AFTER_S", default=300, low=10, high=86_400)

# --- REST API --------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "knox.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "portal.api.pagination.KeysetPagination",
    "DEFAULT_THROTTLE_RATES": {
        "sign-in": "20/min",
        "estimates": "600/min",
        "submissions": "300/min",
        "requests": "60/min",
    },
    "EXCEPTION_HANDLER": "portal.api.problems.problem_response",
    "PAGE_SIZE": 50,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "COERCE_DECIMAL_TO_STRING": True,
    "STRICT_JSON": True,
    "NUM_PROXIES": 1 if BEHIND_PROXY else 0,
}
REST_KNOX = {"TOKEN_TTL": None, "TOKEN_LIMIT_PER_USER": 50, "AUTH_HEADER_PREFIX": "Bearer", "TOKEN_PREFIX": "tp_"}
API_TOKEN_LIFETIME_HOURS = env_int("API_TOKEN_LIFETIME_HOURS", default=24, low=1, high=24 * 366)
SPECTACULAR_SETTINGS = {
    "TITLE": "Training Portal API",
    "VERSION": "v1",
    "DESCRIPTION": "Estimate, submit and follow large-model training jobs. Errors are RFC 9457 problem documents.",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "JobStateEnum": "jobs.models.JOB_STATE_CHOICES",
        "RequestStateEnum": "accounts.models.RequestState",
        "RequestKindEnum": "accounts.models.RequestKind",
        "LedgerEntryKindEnum": "accounts.models.LedgerKind",
        "RoleEnum": "accounts.models.Role",
        "GivenRoleEnum": "accounts.services.members.GIVEN_ROLE_CHOICES",
    },
}

UNFOLD = {
    "SITE_TITLE": _("Training Portal"),
    "SITE_HEADER": _("Training Portal"),
    "SITE_URL": reverse_lazy("dashboard"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("portal/mark.svg")}],
    "SHOW_HISTORY": True,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": env_str("LOG_LEVEL", "INFO")},
    "loggers": {
        # A line for each tick of beat would bury what matters.
        **{name: {"level": "WARNING"} for name in ("celery.app.trace", "celery.beat", "celery.worker.strategy")},
        "httpx": {"level": "WARNING"},
    },
}
