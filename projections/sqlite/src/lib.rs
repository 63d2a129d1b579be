//! Views on SQLite.
