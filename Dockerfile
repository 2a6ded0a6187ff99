# One image for every place: docker run, deploy/compose.yaml, and KubeRay's head, workers and submitter.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM $PYTHON_IMAGE AS libraries
# Where torch comes from instead of PyPI, whose build brings CUDA, e.g. https://download.pytorch.org/whl/cpu.
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/distaug
COPY constraints.txt .
# By far the largest, so a layer that only other versions make anew.
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        pip --python /opt/distaug/bin/python install --no-deps --index-url "$TORCH_INDEX_URL" \
            --constraint constraints.txt torch torchvision; \
    fi \
    && pip --python /opt/distaug/bin/python install --constraint constraints.txt torch torchvision
COPY pyproject.toml .
# Every extra that a job file can ask for, hence all but the developers'.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; extras.pop('dev'); \
print(*project['dependencies'], *sum(extras.values(), []), sep='\n')" > requirements.txt \
    && pip --python /opt/distaug/bin/python install --constraint constraints.txt --requirement requirements.txt

# By itself, because a stage made from the libraries would have all of them written once more.
FROM $PYTHON_IMAGE AS package
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/distaug
COPY constraints.txt .
RUN pip --python /opt/distaug/bin/python install --constraint constraints.txt setuptools
COPY LICENSE README.md pyproject.toml ./
COPY distaug distaug
# To a folder of its own, so that a change of the code is a layer of a few megabytes.
RUN pip --python /opt/distaug/bin/python install --no-deps --no-build-isolation --prefix /package .

FROM $PYTHON_IMAGE
# wget: for the probes that KubeRay adds to pods which bring none; tini: the first process, which ends all others.
RUN apt-get update && apt-get install -y --no-install-recommends tini wget && rm -rf /var/lib/apt/lists/* \
    # Login shells set PATH anew, and KubeRay starts Ray in one.
    && echo "export PATH=/opt/distaug/bin:\$PATH" > /etc/profile.d/distaug.sh \
    # Any user may be asked for; volumes that are mounted here empty take over the mode.
    && mkdir -m 1777 /home/distaug /runs /data \
    && useradd --uid 1000 --home-dir /home/distaug --no-create-home --shell /bin/bash distaug
COPY --from=libraries /opt/distaug /opt/distaug
COPY --from=package /package /opt/distaug
ENV PATH=/opt/distaug/bin:$PATH HOME=/home/distaug USER=distaug PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/distaug
USER 1000:1000
# A Ray node's health, or the metrics of a run that needs no cluster.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["sh", "-c", "wget -q -T 3 -O /dev/null http://127.0.0.1:52365/api/local_raylet_healthz || wget -q -T 3 -O /dev/null http://127.0.0.1:9108/metrics"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["distaug", "--help"]
