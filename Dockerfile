# jangbu and replay in a small image that runs as nobody in particular. Built by BuildKit: docker build -t jangbu .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# librdkafka is built with it, which needs what this image has: a C++ compiler, OpenSSL's and zlib's headers.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p jangbu -p replay --features jangbu/kafka \
    && install --strip -D --target-directory /out target/release/jangbu target/release/replay

FROM debian:bookworm-slim
# tzdata: an order number begins with a date in the shop's time zone.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 tzdata zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 jangbu \
    && useradd --uid 10001 --gid jangbu --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin jangbu \
    && install -d -o jangbu -g jangbu -m 0700 /var/lib/jangbu
COPY --from=build /out/ /usr/local/bin/
USER 10001:10001
WORKDIR /var/lib/jangbu
ENV JANGBU_LISTEN=0.0.0.0:8080 \
    JANGBU_DATA=/var/lib/jangbu
VOLUME /var/lib/jangbu
EXPOSE 8080 9100
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s --start-interval=1s --retries=3 CMD ["jangbu", "healthcheck"]
ENTRYPOINT ["jangbu"]
CMD ["serve"]
