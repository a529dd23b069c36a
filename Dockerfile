# The benchmark in a container:
#   docker build --tag costeff-bench .
#   docker run --rm --volume "$PWD/results:/costeff-bench/results" costeff-bench
FROM python:3.11-slim-bookworm

# The versions of Debian's packages follow the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /costeff-bench
COPY . .

RUN make setup

ENV PATH="/costeff-bench/.venv/bin:$PATH"
CMD ["make", "run"]
