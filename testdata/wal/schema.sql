-- Tables of the golden WAL. Run before the slots exist. Statements that an
-- empty line parts are sent one group at a time.

CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('calm', 'cross', 'très bien');
CREATE TYPE app.pair AS (x int, label text);
CREATE DOMAIN app.amount AS numeric(12,2) CHECK (VALUE >= 0);

CREATE TABLE app.outbox (
	id uuid PRIMARY KEY,
	aggregate_id text,
	event_type varchar(40) NOT NULL,
	payload jsonb,
	body json,
	raw bytea,
	occurred_at timestamptz,
	tags text[],
	mood app.mood,
	amount app.amount,
	pair app.pair,
	seq bigint GENERATED ALWAYS AS IDENTITY
);

CREATE TABLE app."Mixed Case" ("Id" int PRIMARY KEY, "select" text, "ütf ""8""" text);

CREATE TABLE app.nothing ();

CREATE TABLE app.unpublished (id int PRIMARY KEY);

-- The second partition has its columns in another order, and a dropped one.
CREATE TABLE app.parts (id int, region text, payload text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE app.parts_eu PARTITION OF app.parts FOR VALUES IN ('eu');
CREATE TABLE app.parts_us (payload text, gone int, region text NOT NULL, id int NOT NULL);
ALTER TABLE app.parts_us DROP COLUMN gone;
ALTER TABLE app.parts ATTACH PARTITION app.parts_us FOR VALUES IN ('us');

CREATE TABLE app.plain (id int PRIMARY KEY, note text);
CREATE TABLE app.keyless (a int, b text);
ALTER TABLE app.keyless REPLICA IDENTITY FULL;
CREATE TABLE app.indexed (id int NOT NULL, code text NOT NULL, note text);
CREATE UNIQUE INDEX indexed_code ON app.indexed (code);
ALTER TABLE app.indexed REPLICA IDENTITY USING INDEX indexed_code;
CREATE TABLE app.appended (id int);
ALTER TABLE app.appended REPLICA IDENTITY NOTHING;
CREATE TABLE app.wide (id int PRIMARY KEY, doc text, n int);
ALTER TABLE app.wide ALTER COLUMN doc SET STORAGE EXTERNAL;

CREATE PUBLICATION inserts FOR TABLE app.outbox, app."Mixed Case", app.nothing, app.parts
	WITH (publish = 'insert', publish_via_partition_root = true);
CREATE PUBLICATION everything FOR TABLE app.plain, app.keyless, app.indexed, app.appended, app.wide, app.parts;
