# Two images from one file: `--target service` is small and has no PyTorch, `--target worker` has.
#
#   docker build --target service -t secateur-service .
#   docker build --target worker  -t secateur-worker  .

FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH
# The same number in both images: they share the volume of blobs.
RUN groupadd --gid 10001 secateur \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin secateur \
    && install -d -o secateur -g secateur /data
WORKDIR /app


# Dependencies change seldom, so their layers come first. Only the metadata is needed for them.
FROM base AS service-dependencies
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY secateur/__init__.py secateur/
RUN python -m venv /opt/venv \
    && pip install -c constraints.txt '.[service]' \
    && pip uninstall --yes secateur


# What a worker reads besides pt2, ONNX and Keras. With `tensorflow`, SavedModels too, and 1.6 GB more:
#   docker build --target worker --build-arg EXTRAS=worker,architectures,tensorflow .
FROM base AS worker-dependencies
ARG EXTRAS=worker,architectures
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY secateur/__init__.py secateur/
RUN python -m venv /opt/venv \
    && pip install -c constraints.txt ".[${EXTRAS}]" \
    && pip uninstall --yes secateur


FROM base AS service
COPY --from=service-dependencies /opt/venv /opt/venv
COPY alembic.ini ./
COPY docs/errors.md docs/
COPY migrations migrations/
COPY formats formats/
COPY secateur secateur/
COPY store store/
COPY service service/
USER 10001:10001
# The user has no home, where matplotlib would keep its list of fonts.
ENV SECATEUR_DATA_DIR=/data \
    SECATEUR_HOST=0.0.0.0 \
    SECATEUR_PORT=8000 \
    MPLCONFIGDIR=/tmp/matplotlib
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['SECATEUR_PORT'] + '/readyz', timeout=4)"]
CMD ["python", "-m", "service"]


FROM base AS worker
COPY --from=worker-dependencies /opt/venv /opt/venv
COPY formats formats/
COPY secateur secateur/
COPY store store/
COPY worker worker/
USER 10001:10001
ENV SECATEUR_DATA_DIR=/data
VOLUME /data
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD ["python", "-m", "worker.health"]
# SIGTERM has running jobs given back to the queue, so a worker may be stopped at any time.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
