"""All kinds of things that a tenant may have in its database."""

from __future__ import annotations

from typing import Any

import psycopg
from provisioner.drivers.database_engine import TenantNames

#: OWNER and APP stand for the tenant's roles. The sessions of the app role act as the owner role.
_SCRIPT = r"""
-- Trusted extensions: one in a schema of its own, the others in that of the sessions.
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
COMMENT ON EXTENSION citext IS 'the tenant''s own words';
CREATE EXTENSION pg_trgm;
CREATE EXTENSION hstore;
CREATE SCHEMA "Other one";

-- Types, and what is made of them.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE CAST (mood AS integer) WITH INOUT;
CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE TEXT SEARCH CONFIGURATION words (COPY = pg_catalog.english);

-- Functions of every kind. One calls another without its schema, and a check calls it.
CREATE FUNCTION shortest() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 2';
CREATE FUNCTION is_long(t text) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS $$ SELECT length(t) > shortest() $$;
CREATE FUNCTION of_standard(a integer) RETURNS integer LANGUAGE sql
    BEGIN ATOMIC SELECT a + 1; SELECT CASE WHEN a > 1 THEN 2 ELSE 3 END; END;
CREATE PROCEDURE add_one(INOUT a integer DEFAULT 5) LANGUAGE plpgsql
    AS $_$ BEGIN a := a + 1; END $_$;
CREATE FUNCTION for_all() RETURNS integer LANGUAGE sql AS 'SELECT 1';
GRANT EXECUTE ON FUNCTION for_all() TO PUBLIC;
CREATE AGGREGATE total (integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0');
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);

-- Tables. A sequence belongs to a table, to nobody, or to an identity.
CREATE TABLE note (id serial PRIMARY KEY, text text CHECK (is_long(text)),
    mood mood DEFAULT 'ok', n positive, mail ext.citext, more hstore);
INSERT INTO note (text, n, mail, more)
    SELECT 'note ' || n || chr(233), n, 'A@b', 'a=>1' FROM generate_series(1, 300) AS n;
COMMENT ON TABLE note IS 'Notes; a ''quote'' and
a line';
COMMENT ON COLUMN note.text IS 'what it says';
CREATE TABLE ident (id bigint GENERATED ALWAYS AS IDENTITY (START WITH 100), x integer,
    y integer GENERATED ALWAYS AS (x * 2) STORED);
INSERT INTO ident (x) SELECT generate_series(1, 10);
CREATE SEQUENCE alone START 5 INCREMENT 7 CYCLE MAXVALUE 100;
SELECT nextval('alone'), nextval('alone');
CREATE TABLE part (id integer, day date) PARTITION BY RANGE (day);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE part_rest PARTITION OF part DEFAULT;
INSERT INTO part VALUES (1, '2026-02-02'), (2, '1999-01-01');
CREATE TABLE kinds (a integer[], p pair, s span, j jsonb, b bytea, f float8);
INSERT INTO kinds VALUES ('{1,2}', '(1,x)', '[1,2)', '{"a": "é\n"}', '\x00ff', 0.1);
CREATE TABLE "Other one"."Ta b;le" ("Co""l" text, ref integer REFERENCES note);
INSERT INTO "Other one"."Ta b;le" VALUES (E'tab\tline\n\\.\n-- Name: x; Type: TABLE; ', 3);
CREATE UNLOGGED TABLE unlogged (id integer);
INSERT INTO unlogged VALUES (1);

-- Names that would be something else to psql, or to a terminal, if anyone let them.
CREATE TABLE "a
\! echo hostile >&2
\q" ("b
\q" integer, "TO ""x"";" integer);
GRANT SELECT ("b
\q") ON "a
\! echo hostile >&2
\q" TO PUBLIC;
CREATE POLICY "p
\q" ON "a
\! echo hostile >&2
\q" TO APP USING ("TO ""x"";" > 0);
COMMENT ON POLICY "p
\q" ON "a
\! echo hostile >&2
\q" IS '
\q';

-- What is made of tables.
CREATE VIEW shown AS SELECT id, text FROM note WHERE id < 10;
CREATE MATERIALIZED VIEW counted AS SELECT mood, count(*) FROM note GROUP BY mood;
CREATE MATERIALIZED VIEW recounted AS SELECT * FROM counted;
CREATE MATERIALIZED VIEW not_yet AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX ON counted (mood);
CREATE INDEX ON note USING gin (text gin_trgm_ops);
CREATE STATISTICS both_columns ON id, text FROM note;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION touch();
CREATE RULE keep AS ON DELETE TO ident DO INSTEAD NOTHING;

-- Who may do what.
GRANT SELECT ON note TO PUBLIC;
GRANT SELECT (id), UPDATE (x) ON ident TO PUBLIC;
REVOKE ALL ON kinds FROM APP;
GRANT USAGE ON SCHEMA ext TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA ext GRANT SELECT ON TABLES TO PUBLIC;
CREATE TABLE guarded (id integer, who text);
INSERT INTO guarded SELECT generate_series(1, 7), 'me';
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY everyone ON guarded FOR SELECT
    USING (who = current_user OR who IN ('a''b; TO x', $$ TO "$$));
COMMENT ON POLICY everyone ON guarded IS 'a policy';
CREATE POLICY ours ON guarded AS RESTRICTIVE FOR INSERT TO OWNER, APP WITH CHECK (id > 0);
CREATE TABLE not_yet_guarded (id integer);
ALTER TABLE not_yet_guarded FORCE ROW LEVEL SECURITY;

-- What is in no schema. No server of the tests has the wal_level to use a publication.
SELECT lo_from_bytea(4711, 'large'), lo_from_bytea(4713, ''),
    lo_from_bytea(4712, convert_to(repeat('x', 100000), 'UTF8'));
COMMENT ON LARGE OBJECT 4711 IS 'a large one';
GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC;
SET client_min_messages = error;
CREATE PUBLICATION changes FOR TABLE note (id, text) WHERE (id > 3), part;

-- What the app role has itself.
SET ROLE NONE;
CREATE TABLE app.own (id serial, mood app.mood);
INSERT INTO app.own (mood) VALUES ('happy');
CREATE SEQUENCE app.a_first OWNED BY app.own.id;
GRANT SELECT ON app.own TO PUBLIC;
CREATE TYPE app.own_kind AS ENUM ('x');
CREATE FUNCTION app.own_function() RETURNS integer LANGUAGE sql SECURITY DEFINER
    AS 'SELECT 2 /*;
ALTER TABLE app.note OWNER TO APP;
*/';
CREATE SCHEMA own_schema;
CREATE VIEW own_schema.own_view AS SELECT * FROM app.own;
SELECT lo_from_bytea(5000, 'own');
"""

#: What is read of it, in the one database and the other.
ROWS = (
    "SELECT * FROM app.note ORDER BY id",
    "SELECT last_value, is_called FROM app.note_id_seq",
    "SELECT * FROM app.ident ORDER BY id",
    "SELECT last_value, is_called FROM app.ident_id_seq",
    "SELECT last_value, is_called FROM app.alone",
    "SELECT tableoid::regclass::text, * FROM app.part ORDER BY id",
    "SELECT a, p::text, s::text, j, b, f FROM app.kinds",
    'SELECT * FROM "Other one"."Ta b;le"',
    "SELECT * FROM app.shown ORDER BY id",
    "SELECT mood::text, count FROM app.counted ORDER BY 1",
    "SELECT mood::text, count FROM app.recounted",
    "SELECT ispopulated FROM pg_matviews WHERE matviewname = 'not_yet'",
    "SELECT * FROM app.guarded ORDER BY id",
    "SELECT id, mood::text FROM own_schema.own_view",
    """SELECT oid::integer, lo_get(oid), obj_description(oid, 'pg_largeobject')
       FROM pg_largeobject_metadata ORDER BY oid""",
    "SELECT app.of_standard(1), app.for_all(), app.own_function(), app.total(id) FROM app.note",
    """SELECT extname, nspname, obj_description(pg_extension.oid, 'pg_extension')
       FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace ORDER BY 1""",
)


def fill(connection: psycopg.Connection[Any], names: TenantNames) -> None:
    """Make all of it, in a session of the app role."""
    script = _SCRIPT.replace("OWNER,", f"{names.owner_role},").replace(" APP", f" {names.app_role}")
    connection.execute(script.encode())
