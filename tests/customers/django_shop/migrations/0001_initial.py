from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import CITextExtension, TrigramExtension
from django.db import migrations, models


class Migration(migrations.Migration):
    operations = [
        CITextExtension(),
        TrigramExtension(),
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("text", models.TextField()),
            ],
            options={
                "indexes": [GinIndex(fields=["text"], name="note_text", opclasses=["gin_trgm_ops"])]
            },
        ),
        migrations.RunSQL(
            "ALTER TABLE django_shop_note ADD COLUMN author citext",
            "ALTER TABLE django_shop_note DROP COLUMN author",
        ),
    ]
