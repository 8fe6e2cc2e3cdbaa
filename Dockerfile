# The image holds one static program, no shell, and runs as any user.
#   docker build -t hotset .

FROM rust:1.95-slim-bookworm AS build
# For the allocator's build.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# With an explicit target the flags do not reach build scripts, which cannot be static.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin hotset --target "$target" \
    && mkdir -p /image/app/data \
    && cp "target/$target/release/hotset" /image/app/hotset \
    && chmod 0755 /image/app /image/app/hotset \
    && chmod 1777 /image/app/data

FROM scratch
LABEL org.opencontainers.image.title="Hotset" \
      org.opencontainers.image.description="Keeps live collaborative sessions, whatever happens to it" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image/ /
WORKDIR /app
ENV BIND=0.0.0.0 \
    DATA_DIR=/app/data
# Any other user will do as well, if /app/data belongs to it: docker run --user "$(id -u):$(id -g)".
USER 1000:1000
# 5555 to 5557: Blender Multi-User; the ports of BLENDER_SESSIONS have to be published besides.
EXPOSE 5555-5557 8080
VOLUME ["/app/data"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["/app/hotset", "healthcheck"]
ENTRYPOINT ["/app/hotset"]
CMD ["serve"]
