#!/usr/bin/env bash
# Makes the databases of a shop and the roles that use them, each with what it needs and no more. The image of PostgreSQL runs this once, in
# an empty data directory; by hand, as a superuser: PGHOST=... PGUSER=... PASSWORDS... deploy/postgres/roles.sh
#
#   jangbu        the log     log_owner makes its tables (`jangbu migrate`); log_engine, log_reader and log_relay get their rights from that command
#   jangbu_views  the views   views_owner makes and writes them, views_reader reads
#   jangbu_keys   the keys    keys_owner makes its tables, keys_writer seals, unseals and erases, keys_reader unseals
#
# With keys and log on one server, whoever has the server has both: in production put jangbu_keys on another one.
set -euo pipefail

for role in LOG_OWNER LOG_ENGINE LOG_READER LOG_RELAY VIEWS_OWNER VIEWS_READER KEYS_OWNER KEYS_WRITER KEYS_READER; do
  variable="${role}_PASSWORD"
  [ -n "${!variable:-}" ] || { echo "$variable is not set: tools/compose-env.sh writes it" >&2; exit 1; }
done

# By standard input, for a command line is seen by every process of the machine. \getenv reads the passwords from the environment.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-${PGUSER:-postgres}}" --dbname postgres <<'SQL'
-- Neither goes to the server's log with its values.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';

\getenv log_owner LOG_OWNER_PASSWORD
\getenv log_engine LOG_ENGINE_PASSWORD
\getenv log_reader LOG_READER_PASSWORD
\getenv log_relay LOG_RELAY_PASSWORD
\getenv views_owner VIEWS_OWNER_PASSWORD
\getenv views_reader VIEWS_READER_PASSWORD
\getenv keys_owner KEYS_OWNER_PASSWORD
\getenv keys_writer KEYS_WRITER_PASSWORD
\getenv keys_reader KEYS_READER_PASSWORD

CREATE ROLE log_owner LOGIN PASSWORD :'log_owner';
CREATE ROLE log_engine LOGIN PASSWORD :'log_engine';
CREATE ROLE log_reader LOGIN PASSWORD :'log_reader';
CREATE ROLE log_relay LOGIN PASSWORD :'log_relay';
CREATE ROLE views_owner LOGIN PASSWORD :'views_owner';
CREATE ROLE views_reader LOGIN PASSWORD :'views_reader';
CREATE ROLE keys_owner LOGIN PASSWORD :'keys_owner';
CREATE ROLE keys_writer LOGIN PASSWORD :'keys_writer';
CREATE ROLE keys_reader LOGIN PASSWORD :'keys_reader';

CREATE DATABASE jangbu OWNER log_owner;
CREATE DATABASE jangbu_views OWNER views_owner;
CREATE DATABASE jangbu_keys OWNER keys_owner;

REVOKE ALL ON DATABASE jangbu, jangbu_views, jangbu_keys FROM PUBLIC;
GRANT CONNECT ON DATABASE jangbu TO log_engine, log_reader, log_relay;
GRANT CONNECT ON DATABASE jangbu_views TO views_reader;
GRANT CONNECT ON DATABASE jangbu_keys TO keys_writer, keys_reader;

-- Keys are parameters of statements, and no log is to have them.
ALTER DATABASE jangbu_keys SET log_statement = 'none';
ALTER DATABASE jangbu_keys SET log_min_duration_statement = -1;
ALTER DATABASE jangbu_keys SET log_parameter_max_length = 0;
ALTER DATABASE jangbu_keys SET log_parameter_max_length_on_error = 0;

\connect jangbu_views
ALTER DEFAULT PRIVILEGES FOR ROLE views_owner GRANT USAGE ON SCHEMAS TO views_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE views_owner GRANT SELECT ON TABLES TO views_reader;

\connect jangbu_keys
ALTER DEFAULT PRIVILEGES FOR ROLE keys_owner IN SCHEMA public GRANT SELECT ON TABLES TO keys_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE keys_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO keys_writer;
SQL
