"""Two schemas, an extension, an enum and a temporary table."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS shop")
    op.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("state", sa.Enum("open", "paid", name="state", schema="shop")),
        schema="shop",
    )
    op.execute("CREATE TEMPORARY TABLE scratch AS SELECT * FROM notes")


def downgrade() -> None:
    op.drop_table("orders", schema="shop")
    op.execute("DROP SCHEMA shop CASCADE")
    op.drop_table("notes")
    op.execute("DROP EXTENSION hstore")
