package e2e_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// refuseRecord makes the brokers refuse every batch with text in it, as they
// do that check records.
func refuseRecord(kafka *devenv.Kfake, partitions int, text string, reason *kerr.Error) *kfake.FaultHandle {
	faults := make([]kfake.Fault, partitions)
	for p := range int32(partitions) {
		faults[p] = kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce}, Partitions: []int32{p}, Err: reason, Count: -1,
			When: func(req kmsg.Request) bool {
				for _, topic := range req.(*kmsg.ProduceRequest).Topics {
					for _, batch := range topic.Partitions {
						if batch.Partition == p && bytes.Contains(batch.Records, []byte(text)) {
							return true
						}
					}
				}
				return false
			},
		}
	}
	return kafka.Cluster.Fault(faults...)
}

// An event that the brokers refuse in the midst of a stream stops the relay.
// Nothing of its partition goes out behind it, everything before it is
// confirmed, and when the brokers take it the line goes on where it stood.
func TestFaultRefusedRecord(t *testing.T) {
	const guilty = "00000000-dead-4bad-8bad-00000000beef"
	for _, reason := range []*kerr.Error{kerr.InvalidRecord, kerr.MessageTooLarge, kerr.PolicyViolation} {
		t.Run(reason.Message, func(t *testing.T) {
			t.Parallel()
			const partitions = 4
			kafka := devtest.Kfake(t, devenv.KfakeOptions{Brokers: 2, Partitions: partitions})
			s := newStage(t, sharedPostgres(t, "17"), kafka.Addrs())
			refused := refuseRecord(kafka, partitions, guilty, reason)
			r := s.run()
			l := s.write(3000, 0)
			s.more(1000)
			s.exec(s.url, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'guilty', 'order.changed', '{"n": 1}')`, s.name)
			s.exec(s.url, `INSERT INTO outbox (id, aggregate_type, aggregate_id, event_type, payload) VALUES ($2, $1, 'guilty', 'order.changed', '{"n": 2}')`, s.name, guilty)
			s.exec(s.url, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'guilty', 'order.changed', '{"n": 3}')`, s.name)
			began := time.Now()
			if code := r.Wait(30 * time.Second); code != 3 {
				t.Fatalf("exit code %d, want 3:\n%s", code, r.Log())
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took) // there is nothing to wait for but what stands before the event
			}
			said := lastLines(r.Log(), 2)
			t.Log(said)
			stood := s.confirmed()
			ends := []map[int32]int64{s.ends()}

			// Until it is healed, the same command says the same.
			l.end()
			again := s.run()
			if code := again.Wait(30 * time.Second); code != 3 || lastLines(again.Log(), 2) != said {
				t.Errorf("the second run: exit code %d, and said\n%s", code, lastLines(again.Log(), 2))
			}
			ends = append(ends, s.ends())
			refused.Remove()
			records := s.finish(s.run())

			i := slices.IndexFunc(records, func(r devenv.Record) bool { return r.Header("ce_id") == guilty })
			at := mustPosition(t, &records[i])
			for _, want := range []string{
				"outbox-cdc: publish row " + guilty, fmt.Sprintf("at LSN %v ", pglogrepl.LSN(at.LSN)),
				fmt.Sprintf("topic %s, partition %d", s.topic(), records[i].Partition), "(" + reason.Message + ")\nhint: ",
			} {
				if !strings.Contains(said, want) {
					t.Errorf("the error lacks %q", want)
				}
			}
			checkRefusal(t, s, records, &records[i], stood, ends)
		})
	}
}

func mustPosition(t *testing.T, r *devenv.Record) rig.Position {
	t.Helper()
	p, err := rig.PositionOf(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// checkRefusal looks at what went out while the guilty record was refused, which
// is what is before ends[1], and at what was confirmed.
func checkRefusal(t *testing.T, s *stage, records []devenv.Record, guilty *devenv.Record, stood pglogrepl.LSN, ends []map[int32]int64) {
	t.Helper()
	at := mustPosition(t, guilty)
	if uint64(stood) >= at.LSN {
		t.Errorf("the slot was moved to %v, past the refused event of %v", stood, pglogrepl.LSN(at.LSN))
	}
	seen := map[string]bool{}
	before, others := 0, 0
	for i := range records {
		r := &records[i]
		position := mustPosition(t, r)
		if seen[r.Header("ce_id")] && position.LSN < at.LSN {
			t.Fatalf("the event at %v was repeated: it comes before the refused one at %v and should have been confirmed", position, at)
		}
		seen[r.Header("ce_id")] = true
		if r.Offset >= ends[1][r.Partition] {
			continue
		}
		switch {
		case position.Before(at):
			before++
		case r.Partition == guilty.Partition:
			t.Fatalf("%v of partition %d went out behind the refused event at %v", position, r.Partition, at)
		default:
			others++
		}
	}
	rows := 0
	for i := range records { // each of them, and before the first stop
		if mustPosition(t, &records[i]).Before(at) {
			if rows++; records[i].Offset >= ends[0][records[i].Partition] {
				t.Fatalf("an event before the refused one went out only later")
			}
		}
	}
	t.Logf("%d records; refused at %v: all %d before it published and confirmed (slot at %v), %d later ones of other partitions, none of its own; %d repeats",
		len(records), at, before, stood, others, rig.Repeats(t, records))
}

// lastLines returns the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
