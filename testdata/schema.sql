-- The default outbox table. A service inserts its row here in the same
-- transaction as its domain rows. Nothing ever needs to update a row; delete
-- old ones whenever it suits, deletes are not events.
CREATE TABLE IF NOT EXISTS public.outbox (
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(), -- consumers drop repeats by it
    aggregate_type text        NOT NULL,                              -- chooses the topic: outbox.event.<aggregate_type>
    aggregate_id   text,                                              -- the record's key: events of one key keep their order
    event_type     text        NOT NULL,                              -- such as order.placed
    payload        jsonb,                                             -- the record's value; NULL is a tombstone
    occurred_at    timestamptz NOT NULL DEFAULT now(),
    headers        jsonb,                                             -- an object of strings: more record headers
    source         text,
    correlation_id uuid,
    causation_id   uuid,
    data_version   text,
    traceparent    text                                               -- W3C trace context of the writer
);
