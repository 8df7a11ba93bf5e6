FROM python:3.13-slim AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/gateway
WORKDIR /src
# The dependencies change seldom and the package often: two layers.
COPY requirements.lock ./
RUN pip --python /opt/gateway/bin/python install --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY codegen_api ./codegen_api
RUN pip wheel --no-deps --wheel-dir /dist . \
    && pip --python /opt/gateway/bin/python install --no-deps --no-index /dist/*.whl

FROM python:3.13-slim
LABEL org.opencontainers.image.title="codegen-gateway" \
      org.opencontainers.image.description="A thin authenticated gateway in front of the hosted Codegen agent API" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base image brings a pip of its own, which nothing here needs.
RUN pip uninstall --yes --quiet --root-user-action ignore pip \
    && useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gateway
COPY --from=builder /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CODEGEN_HOST=0.0.0.0
WORKDIR /
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; port = os.environ.get('CODEGEN_PORT', '').strip(); u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{port if port.isdecimal() else 8000}/livez\", timeout=2)"]
ENTRYPOINT ["codegen-api"]
