//go:build !nodevenv

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// demoTopics are where the order service's events go, by the default route.
var demoTopics = []string{"outbox.event.order", "outbox.event.payment"}

const ordersSQL = `CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL, total numeric(10, 2) NOT NULL, status text NOT NULL)`

// orderService is what the demo's users would write: a service that knows
// nothing of Kafka.
type orderService struct {
	conn   *pgx.Conn
	show   *display
	placed int
	open   []string // orders that are not paid yet
}

// createTables makes the domain table, and by `outbox-cdc init`'s own way the outbox.
func (s *orderService) createTables(ctx context.Context, url string) error {
	if _, err := s.conn.Exec(ctx, ordersSQL); err != nil {
		return fault.New(fault.Unexpected, "create the demo's tables", err, "")
	}
	_, err := cdc.Init(ctx, cdc.Config{URL: url})
	return err
}

// run does rate transactions a second from when the relay streams until ctx ends.
func (s *orderService) run(ctx context.Context, rate int, stats func() cdc.Stats) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if stats().State != cdc.Streaming {
			continue
		}
		if err := s.transact(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fault.New(fault.Unexpected, "demo service", err, "")
		}
	}
}

var errChangedMind = errors.New("the customer changed their mind")

// transact writes domain row and outbox row in one transaction, and rolls one in six back.
func (s *orderService) transact(ctx context.Context) error {
	pays := len(s.open) > 0 && rand.IntN(2) == 0
	id := fmt.Sprintf("order-%d", s.placed+1)
	what, do := "order.placed "+id, s.place
	if pays {
		id = s.open[0]
		what, do = "payment.received "+id, s.pay
	} else {
		s.placed++
	}
	var event uuid.UUID
	err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		var err error
		if event, err = do(ctx, tx, id); err != nil {
			return err
		}
		if rand.IntN(6) == 0 {
			return errChangedMind
		}
		s.show.committing(event)
		return nil
	})
	if errors.Is(err, errChangedMind) {
		s.show.rolledBack(what, event)
		return nil
	}
	if pays {
		s.open = s.open[1:]
	} else {
		s.open = append(s.open, id)
	}
	return err
}

func (s *orderService) place(ctx context.Context, tx pgx.Tx, id string) (uuid.UUID, error) {
	customer := []string{"Ada", "Grace", "Jim", "Barbara", "Édith"}[rand.IntN(5)]
	total := float64(100+rand.IntN(9900)) / 100
	if _, err := tx.Exec(ctx, `INSERT INTO orders VALUES ($1, $2, $3, 'placed')`, id, customer, total); err != nil {
		return uuid.Nil, err
	}
	return s.emit(ctx, tx, "order", id, "order.placed", map[string]any{"order": id, "customer": customer, "total": total})
}

func (s *orderService) pay(ctx context.Context, tx pgx.Tx, id string) (uuid.UUID, error) {
	if _, err := tx.Exec(ctx, `UPDATE orders SET status = 'paid' WHERE id = $1`, id); err != nil {
		return uuid.Nil, err
	}
	return s.emit(ctx, tx, "payment", id, "payment.received", map[string]any{"order": id})
}

// emit writes the outbox row. This is all that a service has to do.
func (s *orderService) emit(ctx context.Context, tx pgx.Tx, aggregate, id, kind string, payload any) (uuid.UUID, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return uuid.Nil, err
	}
	event := uuid.New()
	_, err = tx.Exec(ctx, `INSERT INTO outbox (id, aggregate_type, aggregate_id, event_type, payload) VALUES ($1, $2, $3, $4, $5)`,
		event, aggregate, id, kind, body)
	return event, err
}
