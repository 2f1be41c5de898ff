# The explorer with its demo, on CPU:  docker build -t grace-explorer . && docker run --rm -p 7860:7860 grace-explorer
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements.txt constraints.txt ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.txt)" \
    && /opt/venv/bin/pip install --no-cache-dir -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY grace_core grace_core
COPY app app
COPY benchmarks benchmarks
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 grace
COPY --from=build /opt/venv /opt/venv
COPY --chown=grace:grace indexes /home/grace/indexes
USER grace
WORKDIR /home/grace
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 GRADIO_ANALYTICS_ENABLED=False
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["grace", "app", "--host", "0.0.0.0", "--port", "7860", "--no-browser"]
