# The service, see docs/serving.md. With a model inside, from a folder that .dockerignore lets in:
#   docker build --build-arg MODEL=models -t pneumonia .
# Without one, to load the champion of MLFLOW_TRACKING_URI at startup:
#   docker build --target service -t pneumonia .
# It runs as any user, on a read-only file system with a writable /tmp:
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL -p 127.0.0.1:8000:8000 pneumonia
FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS python

FROM python AS packages
RUN python -m venv /venv
COPY requirements-serve.txt /
RUN /venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r /requirements-serve.txt

FROM python AS service
COPY --from=packages /venv /venv
# Readable by the user below, whatever the modes here.
COPY --chmod=555 pneumonia /app/pneumonia
WORKDIR /app
# HOME: MLflow, Gradio and matplotlib keep their caches there.
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    DO_NOT_TRACK=1 \
    GRADIO_ANALYTICS_ENABLED=False \
    MLFLOW_DISABLE_TELEMETRY=true \
    PNEUMONIA_HOST=0.0.0.0 \
    PNEUMONIA_PORT=8000 \
    PNEUMONIA_MODEL=champion
USER 10001:10001
EXPOSE 8000
# Without a proxy: the container asks itself.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["python", "-c", "import os; from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"PNEUMONIA_PORT\"]}/readyz', timeout=5)"]
CMD ["python", "-m", "pneumonia", "serve"]

FROM service
ARG MODEL=models
COPY --chmod=444 ${MODEL}/finetuned.keras ${MODEL}/operating_point.json ${MODEL}/novelty.npz ${MODEL}/model_card.md* /model/
ENV PNEUMONIA_MODEL=/model/finetuned.keras
