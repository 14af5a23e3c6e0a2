# One image for every process of meterlog; the command picks which: worker, forwarder, api, sink clickhouse, sink stripe, topics create.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 meterlog \
    && mkdir /data && chown meterlog /data
WORKDIR /app
# The pins first: a change of the code alone installs nothing anew.
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY billing billing
COPY schemas schemas
COPY observe observe
COPY streams streams
COPY sinks sinks
COPY api api
COPY runtime runtime
RUN pip install --no-cache-dir --constraint constraints.txt .

USER meterlog
ENV METERLOG_DATA_DIR=/data
VOLUME /data
ENTRYPOINT ["meterlog"]
CMD ["--help"]
