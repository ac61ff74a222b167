"""Checkpoints: what an attempt leaves for the next one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_checkpoints")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_checkpoints_job_id_jobs"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_checkpoints_sha256"), "checkpoints", ["sha256"])


def downgrade() -> None:
    op.drop_table("checkpoints")
