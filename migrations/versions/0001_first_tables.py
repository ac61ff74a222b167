"""First tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(32)
ENUM = sa.String(40)
SHA256 = sa.String(64)
FILENAME = sa.String(255)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # A migration that waits for a lock makes all traffic behind it wait: give up instead.
        op.execute("SET LOCAL lock_timeout = '4s'")
        op.execute("SET LOCAL statement_timeout = '5s'")
    create_models()
    create_datasets()
    create_jobs()
    create_artifacts()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
        op.execute("SET LOCAL statement_timeout = '5s'")
    op.drop_table("artifacts")
    op.drop_table("jobs")
    op.drop_table("datasets")
    op.drop_table("models")


def create_models() -> None:
    op.create_table(
        "models",
        sa.Column("id", ID, nullable=False),
        sa.Column("format", ENUM, nullable=False),
        sa.Column("filename", FILENAME),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", SHA256, nullable=False),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("outputs", sa.JSON, nullable=False),
        sa.Column("parameter_count", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("sha256", "format", name=op.f("uq_models_sha256_format")),
    )
    op.create_index(op.f("ix_models_created_at_id"), "models", ["created_at", "id"])


def create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", ID, nullable=False),
        sa.Column("format", ENUM, nullable=False),
        sa.Column("filename", FILENAME),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", SHA256, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("arrays", sa.JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("sha256", "format", name=op.f("uq_datasets_sha256_format")),
    )
    op.create_index(op.f("ix_datasets_created_at_id"), "datasets", ["created_at", "id"])


def create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", ENUM, nullable=False),
        sa.Column("state", ENUM, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lost_count", sa.Integer, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("spec_sha256", SHA256, nullable=False),
        sa.Column("model_id", ID, nullable=False),
        sa.Column("train_dataset_id", ID),
        sa.Column("test_dataset_id", ID),
        sa.Column("label", sa.String(200)),
        sa.Column("stage", ENUM),
        sa.Column("progress_done", sa.BigInteger),
        sa.Column("progress_total", sa.BigInteger),
        sa.Column("progress_unit", sa.String(40)),
        sa.Column("failure_code", ENUM),
        sa.Column("failure_detail", sa.String),
        sa.Column("result", sa.JSON),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("idempotency_fingerprint", SHA256),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("queued_at", TIME, nullable=False),
        sa.Column("resent_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("heartbeat_at", TIME),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_jobs_idempotency_key")),
    )
    op.create_index(op.f("ix_jobs_created_at_id"), "jobs", ["created_at", "id"])
    op.create_index(op.f("ix_jobs_state_queued_at"), "jobs", ["state", "queued_at"])
    op.create_index(op.f("ix_jobs_model_id"), "jobs", ["model_id"])
    op.create_index(op.f("ix_jobs_train_dataset_id"), "jobs", ["train_dataset_id"])
    op.create_index(op.f("ix_jobs_test_dataset_id"), "jobs", ["test_dataset_id"])
    op.create_index(op.f("ix_jobs_label"), "jobs", ["label"])


def create_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", FILENAME, nullable=False),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", SHA256, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_artifacts_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("job_id", "name", name=op.f("uq_artifacts_job_id_name")),
    )
    op.create_index(op.f("ix_artifacts_sha256"), "artifacts", ["sha256"])
