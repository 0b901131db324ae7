# The image of a Beam worker, which also launches the Flex Template. Build it from the project's root:
#
#   docker build -f runner_configs/worker.Dockerfile -t IMAGE:cpu .
#   docker build -f runner_configs/worker.Dockerfile -t IMAGE:gpu --build-arg VARIANT=gpu .
#   docker build -f runner_configs/worker.Dockerfile -t IMAGE:slim --build-arg VARIANT=slim .
#
# The slim one has no TensorFlow: it scores, by the predictor openvino, and does nothing else.
#
# Packages are those of requirements.txt, cuda.txt or slim.txt, by their hashes; a test compares the versions given here.
# PYTHON_VERSION is 3.11, 3.12 or 3.13: workers need the Python that starts the job. The launcher's image is for 3.11;
# only its program is copied, which runs this image's Python. TensorFlow chooses CUDA's libraries.
#
# A tag of an image can be moved. For a build that stays the same, give the digests of the images that you have checked:
# --build-arg PYTHON_DIGEST=@sha256:..., BEAM_DIGEST, LAUNCHER_DIGEST.
#
# Workers run as the user sepline. Where a service needs another, give it: --build-arg RUN_AS=root.
ARG PYTHON_VERSION=3.11
ARG PYTHON_DIGEST=
ARG BEAM_VERSION=2.77.0
ARG BEAM_DIGEST=
ARG LAUNCHER_VERSION=20230622_RC00
ARG LAUNCHER_DIGEST=

FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION}${BEAM_DIGEST} AS beam
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:${LAUNCHER_VERSION}${LAUNCHER_DIGEST} AS launcher

FROM python:${PYTHON_VERSION}-slim-bookworm${PYTHON_DIGEST}
ARG VARIANT=cpu
ARG RUN_AS=sepline
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN useradd --create-home --uid 10001 sepline
WORKDIR /opt/sepline

# Dependencies are a layer of their own: the code changes more often.
COPY requirements.txt runner_configs/cuda.txt runner_configs/slim.txt ./
RUN if [ "$VARIANT" = slim ]; then mv slim.txt requirements.txt; fi \
    && pip install --no-deps --require-hashes --requirement requirements.txt \
    && if [ "$VARIANT" = gpu ]; then \
         pip install --no-deps --require-hashes --requirement cuda.txt; \
       fi
COPY setup.py pyproject.toml README.md ./
COPY model model
COPY pipelines pipelines
# The package itself names TensorFlow among its requirements, which the slim image lacks.
RUN pip install --no-deps --no-build-isolation . && if [ "$VARIANT" != slim ]; then pip check; fi

# Dataflow puts the GPU's driver here.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/sepline/pipelines/flex_launcher.py
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY --from=beam /opt/apache/beam /opt/apache/beam
USER ${RUN_AS}
ENTRYPOINT ["/opt/apache/beam/boot"]
