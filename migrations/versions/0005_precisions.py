"""Workers say which data types their devices compute with."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Workers of the release before say nothing of it: they have no step that casts.
    with op.batch_alter_table("workers") as table:
        table.add_column(sa.Column("precisions", sa.JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("workers") as table:
        table.drop_column("precisions")
