-- What happened while the golden WAL was captured. Statements that an empty
-- line parts are sent one group at a time, each group in a transaction of its
-- own unless it has a BEGIN. meaning.txt says what must arrive.

-- One row of every type.
INSERT INTO app.outbox (id, aggregate_id, event_type, payload, body, raw, occurred_at, tags, mood, amount, pair) VALUES
	('00000000-0000-0000-0000-000000000001', 'order-1', 'OrderPlaced', '{"b": [1, 2.50], "a": null}', '{"b": 1,  "a":"kept as written"}',
	'\x00ff5c27', '2024-02-29 23:59:59.123456+02', '{one,"two words",NULL,"quo\"te"}', 'cross', 12.5, '(7,"a, b")');

-- Several rows: NULLs, empty strings, text beyond ASCII.
INSERT INTO app.outbox (id, aggregate_id, event_type, payload, raw, tags) VALUES
	('00000000-0000-0000-0000-000000000002', NULL, 'AllNull', NULL, NULL, NULL),
	('00000000-0000-0000-0000-000000000003', '', 'Empty', '""', '', '{}'),
	('00000000-0000-0000-0000-000000000004', 'żółć-✓-🚚', 'Unicode', '{"city": "Kraków \u0041"}', NULL, NULL);

-- A payload that is stored out of line.
INSERT INTO app.outbox (id, aggregate_id, event_type, body)
	VALUES ('00000000-0000-0000-0000-000000000005', 'big', 'Large', to_json(repeat('0123456789abcdef', 400)));

COPY app.outbox (id, aggregate_id, event_type, mood) FROM STDIN;
00000000-0000-0000-0000-000000000006	copied	Copied	très bien
00000000-0000-0000-0000-000000000007	copied	Copied	\N
\.

-- Only the rows outside of the savepoint count.
BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000008', 'BeforeSavepoint');
SAVEPOINT s;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-00000000dead', 'RolledBackToSavepoint');
SELECT pg_logical_emit_message(true, 'savepoint', 'rolled back');
ROLLBACK TO s;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000009', 'AfterSavepoint');
COMMIT;

-- Nothing of this arrives.
BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-00000000dead', 'RolledBack');
INSERT INTO app.plain VALUES (666, 'rolled back');
SELECT pg_logical_emit_message(true, 'transaction', 'rolled back');
ROLLBACK;

-- Written and deleted at once, as an outbox that cleans up after itself.
BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000010', 'Ephemeral');
DELETE FROM app.outbox WHERE id = '00000000-0000-0000-0000-000000000010';
COMMIT;

-- Names that need quotes; a table without columns.
INSERT INTO app."Mixed Case" VALUES (1, 'quoted', 'names');
INSERT INTO app.nothing DEFAULT VALUES;

-- Published as the root's rows in one publication and the partitions' in the other.
INSERT INTO app.parts (id, region, payload) VALUES (1, 'eu', 'bon'), (2, 'us', 'good'), (3, 'eu', NULL);

-- A transaction of other tables only, and one of none.
INSERT INTO app.unpublished VALUES (1);

CREATE TABLE app.later (id int);

-- The table changes, between transactions and within one.
ALTER TABLE app."Mixed Case" ADD COLUMN added int DEFAULT 5;

INSERT INTO app."Mixed Case" ("Id") VALUES (2);

BEGIN;
INSERT INTO app."Mixed Case" VALUES (3, 'before', NULL, 6);
ALTER TABLE app."Mixed Case" DROP COLUMN "select";
INSERT INTO app."Mixed Case" VALUES (4, 'dropped', 7);
ALTER TABLE app."Mixed Case" RENAME COLUMN added TO "Renamed";
INSERT INTO app."Mixed Case" VALUES (5, 'renamed', 8);
ALTER TABLE app."Mixed Case" RENAME TO "Renamed Table";
INSERT INTO app."Renamed Table" VALUES (6, 'table renamed', 9);
COMMIT;

-- Changes that are not inserts, with every replica identity.
INSERT INTO app.plain VALUES (1, 'a'), (2, 'b');

UPDATE app.plain SET note = 'aa' WHERE id = 1;

UPDATE app.plain SET id = 3 WHERE id = 1;

DELETE FROM app.plain WHERE id = 2;

INSERT INTO app.keyless VALUES (1, 'x');
UPDATE app.keyless SET b = NULL;
DELETE FROM app.keyless;

INSERT INTO app.indexed VALUES (1, 'k1', 'n');
UPDATE app.indexed SET note = 'm';
UPDATE app.indexed SET code = 'k2';
DELETE FROM app.indexed;

INSERT INTO app.appended VALUES (1);

-- The second column is not sent with the UPDATE: unchanged TOAST.
INSERT INTO app.wide VALUES (1, repeat('w', 3000), 1);
UPDATE app.wide SET n = 2;
DELETE FROM app.wide;

UPDATE app.parts SET payload = 'better' WHERE id = 2;
DELETE FROM app.parts WHERE id = 1;
UPDATE app.parts SET region = 'us' WHERE id = 3;

TRUNCATE app.plain;

TRUNCATE app.plain, app.keyless, app.wide RESTART IDENTITY CASCADE;

TRUNCATE app.parts;

-- Messages: in a transaction, and outside of any even from one that is rolled back.
BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000011', 'BeforeMessage');
SELECT pg_logical_emit_message(true, 'outbox', '{"in": "order"}');
SELECT pg_logical_emit_message(true, 'outbox', '\x00ff'::bytea);
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000012', 'AfterMessage');
COMMIT;

BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-00000000dead', 'RolledBack');
SELECT pg_logical_emit_message(false, 'heartbeat', 'now');
SELECT pg_logical_emit_message(false, '', '');
ROLLBACK;

-- The message comes before the transaction that wrote it.
BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000016', 'BeforeHeartbeat');
SELECT pg_logical_emit_message(false, 'heartbeat', 'from within');
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000017', 'AfterHeartbeat');
COMMIT;

-- Replicated here from elsewhere.
SELECT pg_replication_origin_create('node_a');

SELECT pg_replication_origin_session_setup('node_a');

BEGIN;
SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2024-01-01 00:00:00+00');
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000013', 'FromElsewhere');
INSERT INTO app.plain VALUES (13, 'from elsewhere');
COMMIT;

SELECT pg_replication_origin_session_reset();

-- A prepared transaction arrives when its second phase commits it.
BEGIN;
INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000014', 'Prepared');
PREPARE TRANSACTION 'golden';

INSERT INTO app.outbox (id, event_type) VALUES ('00000000-0000-0000-0000-000000000015', 'BetweenThePhases');

COMMIT PREPARED 'golden';

-- The capture ends here. The commit behind it takes it to disk.
SELECT pg_logical_emit_message(false, 'end', 'of capture');

INSERT INTO app.unpublished VALUES (2);
