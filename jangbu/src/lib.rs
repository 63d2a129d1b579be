//! The binary: roles, settings, telemetry, demo shop.
