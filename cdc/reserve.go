package cdc

import (
	"log/slog"
	"sync"
)

// reserve is whether the server still keeps the WAL that the slot needs. Once
// it is beyond max_slot_wal_keep_size, the next checkpoint may invalidate the
// slot under the stream (wal_status in
// https://www.postgresql.org/docs/current/view-pg-replication-slots.html).
type reserve struct {
	log *slog.Logger

	mu   sync.Mutex
	gone bool
	nag  nag
}

// unreserved is the wal_status of a slot that may be invalidated at any time.
const unreserved = "unreserved"

// note takes the slot's wal_status, and says once a moment that it is in danger.
func (r *reserve) note(slot, status string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = status == unreserved
	if r.gone && r.nag.due(status) {
		r.log.Warn("outbox.slot_unreserved", "slot", slot, "hint", unreservedHint+
			"; the slot is held back by events that Kafka does not acknowledge, or by a transaction that has been open for long")
	}
}

// danger returns what threatens the slot, or "".
func (r *reserve) danger() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.gone {
		return ""
	}
	return unreservedDetail
}

const (
	unreservedDetail = "the slot is beyond max_slot_wal_keep_size: the next checkpoint may invalidate it"
	unreservedHint   = "raise the limit now: ALTER SYSTEM SET max_slot_wal_keep_size, then SELECT pg_reload_conf()"
)
