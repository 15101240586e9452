-- Prepares a PostgreSQL cluster (16 to 18) to hold tenant databases.
-- Run once for each cluster as its master user, connected to the database `postgres`:
--   psql "host=… user=… dbname=postgres" --file docs/cluster.sql --set ON_ERROR_STOP=1
-- then give the platform role a password with psql's \password, which sends only a verifier.

-- The platform role: it makes databases and roles, and is no superuser. Before version 16 whoever may
-- make roles may become any of them but a superuser, those of the server's own files and programs too.
DO $$
BEGIN
    IF current_setting('server_version_num')::int < 160000 THEN
        RAISE EXCEPTION 'PostgreSQL %: must be 16 or later, where a role that makes roles has power over'
            ' its own alone; upgrade the cluster, or take another.', current_setting('server_version');
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'provisioner') THEN
        CREATE ROLE provisioner LOGIN CREATEDB CREATEROLE;
    END IF;
END
$$;

-- Tenants make schemas of any name. The platform's sessions say this themselves; here it is said for
-- people who log in as the platform role.
ALTER ROLE provisioner SET search_path = pg_catalog;

-- By default every role may connect to these two: a tenant must not. Only their owner can revoke
-- it; for anyone else this is a warning and does nothing.
REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC;

-- Its advisory locks, and the statements on databases, are in `postgres`.
GRANT CONNECT ON DATABASE postgres TO provisioner;

-- Without it DROP DATABASE … WITH (FORCE) cannot end a tenant's sessions.
GRANT pg_signal_backend TO provisioner;

-- Errors of pg_dump are known by their English text. Only a superuser may say so for another role, or
-- who has SET on the parameter; where neither is so, leave the cluster's own lc_messages English.
DO $$
BEGIN
    ALTER ROLE provisioner SET lc_messages = 'C';
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'lc_messages stays as it is';
END
$$;
