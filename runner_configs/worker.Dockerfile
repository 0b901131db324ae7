# The image of a Beam worker, which also launches the Flex Template. Build it from the project's root:
#
#   docker build -f runner_configs/worker.Dockerfile -t IMAGE:cpu .
#   docker build -f runner_configs/worker.Dockerfile -t IMAGE:gpu --build-arg VARIANT=gpu .
#
# Versions are those of constraints.txt; a test compares the ones given here. PYTHON_VERSION is 3.11, 3.12 or 3.13: workers
# need the Python that starts the job. The launcher's image is for 3.11; only its program is copied, which runs this
# image's Python. TensorFlow chooses CUDA's libraries.
ARG PYTHON_VERSION=3.11
ARG BEAM_VERSION=2.77.0
ARG LAUNCHER_VERSION=20230622_RC00

FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION} AS beam
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:${LAUNCHER_VERSION} AS launcher

FROM python:${PYTHON_VERSION}-slim-bookworm
ARG VARIANT=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/sepline

# Dependencies are a layer of their own: the code changes more often.
COPY constraints.txt setup.py pyproject.toml README.md ./
COPY model/__init__.py model/
RUN mkdir pipelines && touch pipelines/__init__.py \
    && pip install --constraint constraints.txt '.[s3]' \
    && if [ "$VARIANT" = gpu ]; then \
         pip install --constraint constraints.txt "tensorflow[and-cuda]"; \
       fi
COPY model model
COPY pipelines pipelines
RUN pip install --no-deps --force-reinstall --no-build-isolation . && pip check

# Dataflow puts the GPU's driver here.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/sepline/pipelines/flex_launcher.py
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
