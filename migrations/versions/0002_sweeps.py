"""Sweeps, and where in a spec the reason of a failure is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(32)
SHA256 = sa.String(64)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # A migration that waits for a lock makes all traffic behind it wait: give up instead.
        op.execute("SET LOCAL lock_timeout = '4s'")
        op.execute("SET LOCAL statement_timeout = '5s'")
    create_sweeps()
    # In words that both databases know. Alembic's own way on SQLite is to copy the table and drop
    # the old one, and with it, by their foreign key, all artifacts.
    op.execute(
        "ALTER TABLE jobs ADD COLUMN sweep_id VARCHAR(32) "
        "CONSTRAINT fk_jobs_sweep_id_sweeps REFERENCES sweeps (id)"
    )
    op.add_column("jobs", sa.Column("sweep_position", sa.Integer))
    op.add_column("jobs", sa.Column("sweep_method", sa.String))
    op.add_column("jobs", sa.Column("sweep_amount", sa.String))
    op.add_column("jobs", sa.Column("failure_pointer", sa.String(500)))
    op.create_index(op.f("ix_jobs_sweep_id_sweep_position"), "jobs", ["sweep_id", "sweep_position"])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
        op.execute("SET LOCAL statement_timeout = '5s'")
    op.drop_index(op.f("ix_jobs_sweep_id_sweep_position"), "jobs")
    columns = ("failure_pointer", "sweep_amount", "sweep_method", "sweep_position", "sweep_id")
    for column in columns:
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    op.drop_table("sweeps")


def create_sweeps() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", ID, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("spec_sha256", SHA256, nullable=False),
        sa.Column("model_id", ID, nullable=False),
        sa.Column("label", sa.String(200)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("idempotency_fingerprint", SHA256),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("canceled_at", TIME),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_sweeps_idempotency_key")),
    )
    op.create_index(op.f("ix_sweeps_created_at_id"), "sweeps", ["created_at", "id"])
    op.create_index(op.f("ix_sweeps_label"), "sweeps", ["label"])
    op.create_index(op.f("ix_sweeps_model_id"), "sweeps", ["model_id"])
