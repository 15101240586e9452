"""Runs Django's migrations twice, as `manage.py migrate` does, and takes them back."""

import json
import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

sys.path.insert(0, str(Path(__file__).parent))
settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", **json.loads(os.environ["LOGIN"])}
    },
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.postgres",
        "django_shop",
    ],
)
django.setup()
call_command("migrate", verbosity=0)
call_command("migrate", verbosity=0)
call_command("migrate", "django_shop", "zero", verbosity=0)
call_command("migrate", verbosity=0)
