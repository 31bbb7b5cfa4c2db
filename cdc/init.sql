-- Run in the application's database, as the owner of the table. Running it
-- again changes nothing. Not in one transaction (psql -1): no slot is created
-- behind a write of the same transaction; that fails, and leaves nothing.

{table}-- The relay's role needs REPLICATION and CONNECT, and no right on any table:
--   CREATE ROLE outbox_cdc LOGIN REPLICATION PASSWORD '…';
-- (on managed Postgres grant its replication role instead, such as rds_replication)

-- The publication comes first: it must exist where decoding begins. Its comment
-- remembers how far the set-up came, for the time when the slot is missing.
DO $outbox_cdc$
{state}
    IF s.slot_name IS NOT NULL AND (s.plugin, s.database) IS DISTINCT FROM ('pgoutput', current_database()) THEN
        RAISE EXCEPTION 'slot % belongs to something else', s.slot_name USING HINT = 'choose another name for postgres.slot';
    ELSIF mark = 'recovering' THEN
        RAISE EXCEPTION 'a recovery of slot % was begun and not finished', {slot} USING HINT = 'run "outbox-cdc recover"';
    ELSIF s.slot_name IS NULL AND mark = 'ready' THEN
        RAISE EXCEPTION 'slot % does not exist, though publication % says that it was created', {slot}, p.pubname
            USING HINT = 'check postgres.slot for a wrong name; if the slot is lost, run "outbox-cdc recover"';
    ELSIF lost THEN
        RAISE EXCEPTION 'slot % was invalidated by the server', s.slot_name USING HINT = 'run "outbox-cdc recover"';
    ELSIF s.slot_name IS NOT NULL AND p.oid IS NULL THEN
        RAISE EXCEPTION 'slot % exists and publication % does not', s.slot_name, {publication}
            USING HINT = 'check postgres.publication for a wrong name; if it was dropped, run "outbox-cdc recover"';
    ELSIF p.oid IS NOT NULL AND NOT publishes THEN
        RAISE EXCEPTION 'publication % does not publish the inserts into {table name}', p.pubname;
    ELSIF mark = 'creating' AND NOT owned THEN
        RAISE EXCEPTION 'the set-up of publication % was begun and not finished, and it belongs to another role', p.pubname
            USING HINT = 'run this as the owner of the publication';
    ELSIF p.oid IS NULL THEN
        {create publication};
        {mark creating};
    ELSIF s.slot_name IS NULL AND mark = '' THEN
        {mark creating};
    END IF;
END $outbox_cdc$;

-- The slot. Its creation waits for transactions that are open now.
DO $outbox_cdc$
{state}
    IF s.slot_name IS NOT NULL OR mark <> 'creating' OR NOT publishes OR NOT owned THEN
        RETURN; -- it is there, or what is wrong was said above
    ELSIF current_setting('server_version_num')::int >= 170000 THEN
        PERFORM pg_create_logical_replication_slot({slot}, 'pgoutput', false, false, true); -- survives a failover
    ELSE
        PERFORM pg_create_logical_replication_slot({slot}, 'pgoutput');
    END IF;
END $outbox_cdc$;

DO $outbox_cdc$
{state}
    IF mark = 'creating' AND owned AND NOT lost AND s.confirmed_flush_lsn IS NOT NULL
       AND (s.plugin, s.database) = ('pgoutput', current_database()) THEN
        -- With what is published: without it, a table that is taken out or recreated while
        -- no relay runs would not be noticed.
        EXECUTE format('COMMENT ON PUBLICATION %I IS %L', p.pubname, format({ready}, current_setting('server_version_num')::int / 10000,
            {regclass}::oid, coalesce((SELECT oid FROM pg_publication_rel WHERE prpubid = p.oid AND prrelid = {regclass}), 0),
            (SELECT xmin FROM pg_publication WHERE oid = p.oid)));
    END IF;
END $outbox_cdc$;
