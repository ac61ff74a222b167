"""Workers that are up and what they read; models whose parameters are not counted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("formats", sa.JSON, nullable=False),
        sa.Column("alive_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    with op.batch_alter_table("models") as table:
        table.alter_column("parameter_count", existing_type=sa.BigInteger, nullable=True)


def downgrade() -> None:
    op.execute("UPDATE models SET parameter_count = 0 WHERE parameter_count IS NULL")
    with op.batch_alter_table("models") as table:
        table.alter_column("parameter_count", existing_type=sa.BigInteger, nullable=False)
    op.drop_table("workers")
