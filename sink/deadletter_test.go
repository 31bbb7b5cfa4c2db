package sink

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const dlq = "outbox.dead-letter"

var allDead = DeadLetters{Topic: dlq, All: true}

// refuseGuilty makes the brokers refuse a partition's batch for orders with a record that says it is guilty.
func refuseGuilty(c *kfake.Cluster, e *kerr.Error) {
	for p := range int32(3) {
		c.Fault(kfake.Fault{Keys: onlyProduce, Topic: "orders", Partitions: []int32{p}, Err: e, Count: -1, When: func(req kmsg.Request) bool {
			for _, rt := range req.(*kmsg.ProduceRequest).Topics {
				for _, rp := range rt.Partitions {
					if rt.Topic == "orders" && rp.Partition == p && bytes.Contains(rp.Records, []byte("guilty")) {
						return true
					}
				}
			}
			return false
		}})
	}
}

// holdTopic makes produce requests for one topic wait until release; those for
// others that come meanwhile are told to early.
func holdTopic(c *kfake.Cluster, topic string) (entered chan struct{}, early chan string, release func()) {
	entered, early = make(chan struct{}, 100), make(chan string, 100)
	gate := make(chan struct{})
	held := false
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, rt := range req.(*kmsg.ProduceRequest).Topics {
			if rt.Topic == topic {
				entered <- struct{}{}
				held = true
				c.SleepControl(func() { <-gate })
				held = false
			} else if held {
				early <- rt.Topic
			}
		}
		return nil, nil, false
	})
	return entered, early, func() { close(gate) }
}

func headers(m *sarama.ConsumerMessage) map[string]string {
	all := make(map[string]string)
	for _, h := range m.Headers {
		all[string(h.Key)] = string(h.Value)
	}
	return all
}

// only returns the single record of a topic.
func only(t *testing.T, cluster *kfake.Cluster, topic string) *sarama.ConsumerMessage {
	t.Helper()
	var all []*sarama.ConsumerMessage
	for _, records := range consume(t, cluster.ListenAddrs(), topic) {
		all = append(all, records...)
	}
	if len(all) != 1 {
		t.Fatalf("topic %s holds %d records, want 1", topic, len(all))
	}
	return all[0]
}

// A refused record goes to the dead letters, what is before and behind it goes
// out in order, and what is behind not before the dead letter is acknowledged.
func TestDeadLetterOfARefusedRecord(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	refuseGuilty(cluster, kerr.InvalidRecord)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	const n = 60
	guilty := map[int]bool{7: true, 8: true, 40: true, n - 1: true}
	for i := range n {
		payload := []byte(`{"n": 1}`)
		if guilty[i] {
			payload = []byte(`"guilty"`)
		}
		k.Publish(event(i, "orders", []byte("key"), payload), l.ack(i))
	}
	l.awaitDone(t, n)
	want := slices.DeleteFunc(numbers(0, n), func(i int) bool { return guilty[i] })
	if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, want) {
		t.Errorf("the topic holds %v, want %v", got, want)
	}
	letters := consume(t, cluster.ListenAddrs(), dlq)[0]
	if got := ids(t, letters); !slices.Equal(got, []int{7, 8, 40, n - 1}) {
		t.Fatalf("the dead letters are %v", got)
	}
	h := headers(letters[0])
	if string(letters[0].Key) != "key" || string(letters[0].Value) != `"guilty"` || h["ce_type"] != "Happened" || h["outbox-reason"] != "INVALID_RECORD" ||
		h["outbox-topic"] != "orders" || h["outbox-id"] != "id-7" || h["outbox-lsn"] != "1/0/8/0" || h["outbox-error"] == "" {
		t.Errorf("a dead letter has key %q, value %q and headers %v", letters[0].Key, letters[0].Value, h)
	}
	if s := k.Stats(); s.DeadLetters != 4 || s.Failed != 0 {
		t.Errorf("got %d dead letters and %d failed in the stats, want 4 and 0", s.DeadLetters, s.Failed)
	}
}

// A dead letter has the time of its event, unless that is what was wrong with it.
func TestDeadLetterTime(t *testing.T) {
	t.Parallel()
	start := time.Now().Truncate(time.Millisecond)
	for _, tc := range []struct {
		err   *kerr.Error
		isOld bool
	}{{kerr.InvalidRecord, true}, {kerr.InvalidTimestamp, false}} {
		cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
		refuseGuilty(cluster, tc.err)
		k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
		l := newLedger()
		ev := event(0, "orders", []byte("key"), []byte("guilty"))
		ev.CommitTime = start.Add(-1000 * time.Hour)
		k.Publish(ev, l.ack(0))
		l.awaitDone(t, 1)
		if got := only(t, cluster, dlq).Timestamp; got.Equal(ev.CommitTime) != tc.isOld || !tc.isOld && got.Before(start) {
			t.Errorf("%s: a dead letter has the time %v, its event %v", tc.err.Message, got, ev.CommitTime)
		}
	}
}

// Invariant 5: nothing goes out, of no key, while a dead letter is not acknowledged.
func TestDeadLetterHoldsWhatIsBehind(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]*decoder.Event{
		"refused":     event(0, "orders", []byte("key"), []byte("guilty")),
		"unbuildable": event(0, "no topic!", []byte("key"), []byte("1")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(2, "orders"), kfake.SeedTopics(1, dlq))
			refuseGuilty(cluster, kerr.InvalidRecord)
			entered, early, release := holdTopic(cluster, dlq)
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
			l := newLedger()
			k.Publish(bad, l.ack(0))
			wait(t, "the dead letter on the wire", entered)
			for i := 1; i < 40; i++ {
				k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%4), []byte("1")), l.ack(i))
			}
			k.mu.Lock()
			for _, p := range k.topics["orders"].partitions {
				if p.scheduled != nil || p.batch != nil {
					t.Errorf("partition %d is sent while the dead letter is not acknowledged", p.id)
				}
			}
			k.mu.Unlock()
			select {
			case topic := <-early:
				t.Errorf("a request for %s came while the dead letter was not acknowledged", topic)
			default:
			}
			if done, failed := l.counts(); done+failed > 0 {
				t.Errorf("%d events done and %d failed while the dead letter was not acknowledged", done, failed)
			}
			release()
			l.awaitDone(t, 40)
		})
	}
}

// An event that no record can be made of waits until what came before is
// settled, for that may become a dead letter as well: their order stays.
func TestDeadLettersKeepTheirOrder(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(3, "orders"), kfake.SeedTopics(1, dlq))
	refuseGuilty(cluster, kerr.InvalidRecord)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	const n = 90
	var dead []int
	for i := range n {
		ev := event(i, "orders", fmt.Appendf(nil, "key-%d", i%7), []byte("1"))
		switch i % 9 {
		case 2, 3, 8:
			ev.Row.Values[1] = []byte("no topic!")
			dead = append(dead, i)
		case 5:
			ev.Row.Values[4] = []byte("guilty")
			dead = append(dead, i)
		}
		k.Publish(ev, l.ack(i))
	}
	l.awaitDone(t, n)
	var got []int
	for _, m := range consume(t, cluster.ListenAddrs(), dlq)[0] {
		i, err := strconv.Atoi(strings.TrimPrefix(headers(m)["outbox-id"], "id-"))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, i)
	}
	if !slices.Equal(got, dead) {
		t.Errorf("the dead letters are %v, want %v", got, dead)
	}
	published := 0
	for _, records := range consume(t, cluster.ListenAddrs(), "orders") {
		published += len(records)
		if of := ids(t, records); !slices.IsSorted(of) {
			t.Errorf("a partition holds %v", of)
		}
	}
	if published != n-len(dead) {
		t.Errorf("%d events in the topic, want %d", published, n-len(dead))
	}
}

// What no record can be made of comes whole, with what the row shows.
func TestDeadLetterOfAnUnbuildableEvent(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, dlq))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	big := bytes.Repeat([]byte("x"), 100_000)
	k.Publish(event(0, "", []byte("key"), big), l.ack(0))
	l.awaitDone(t, 1)
	m := only(t, cluster, dlq)
	h := headers(m)
	if string(m.Key) != "key" || !bytes.Equal(m.Value, big) || h["outbox-reason"] != "INVALID_EVENT" || h["outbox-id"] != "id-0" ||
		h["outbox-lsn"] != "1/0/1/0" || !strings.Contains(h["outbox-error"], "aggregate_type") || h["outbox-topic"] != "" {
		t.Errorf("got key %q, a value of %d bytes and headers %v", m.Key, len(m.Value), h)
	}
}

// A record that is larger than its topic takes is not sent to it; its dead
// letter is cut, with the sum of the whole.
func TestDeadLetterOfALargeRecord(t *testing.T) {
	t.Parallel()
	for name, denied := range map[string]bool{"limit known": false, "limit not known": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
			tap := newTap(t, cluster)
			if denied {
				cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
			}
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
			l := newLedger()
			big := bytes.Repeat([]byte("large "), 400_000)
			for i := range 20 {
				payload := []byte("1")
				if i == 5 {
					payload = big
				}
				k.Publish(event(i, "orders", []byte("key"), payload), l.ack(i))
			}
			l.awaitDone(t, 20)
			m := only(t, cluster, dlq)
			h := headers(m)
			sum := sha256.Sum256(big)
			if !bytes.Equal(m.Value, big[:64<<10]) || h["outbox-size"] != strconv.Itoa(len(big)) || h["outbox-sha256"] != hex.EncodeToString(sum[:]) ||
				h["outbox-reason"] != "MESSAGE_TOO_LARGE" || h["outbox-id"] != "id-5" || h["ce_id"] != "" {
				t.Errorf("got a value of %d bytes and headers %v", len(m.Value), h)
			}
			sent := slices.ContainsFunc(tap.all(), func(b sentBatch) bool { return len(b.raw) > len(big) })
			if sent != denied {
				t.Errorf("the large record was sent: %v, want %v", sent, denied)
			}
		})
	}
}

// A dead letter that is too large for its own topic is cut there and then.
func TestDeadLetterThatIsTooLarge(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	setLimit(t, cluster, dlq, 90_000)
	refuseGuilty(cluster, kerr.InvalidRecord)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), append([]byte("guilty"), make([]byte, 100_000)...)), l.ack(0))
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	l.awaitDone(t, 2)
	if m := only(t, cluster, dlq); len(m.Value) != 64<<10 || headers(m)["outbox-size"] != "100006" {
		t.Errorf("got a value of %d bytes and headers %v", len(m.Value), headers(m))
	}
}

func setLimit(tb testing.TB, cluster *kfake.Cluster, topic string, bytes int) {
	tb.Helper()
	value := strconv.Itoa(bytes)
	if err := admin(tb, cluster.ListenAddrs()).AlterConfig(sarama.TopicResource, topic, map[string]*string{maxMessageBytes: &value}, false); err != nil {
		tb.Fatal(err)
	}
}

// A limit is read again before it convicts.
func TestLimitIsRaised(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	setLimit(t, cluster, "orders", 10_000)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), make([]byte, 5000)), l.ack(0))
	l.awaitDone(t, 1)
	setLimit(t, cluster, "orders", 50_000)
	k.Publish(event(1, "orders", []byte("key"), make([]byte, 40_000)), l.ack(1))
	l.awaitDone(t, 2)
	k.Publish(event(2, "orders", []byte("key"), make([]byte, 60_000)), l.ack(2))
	l.await(t, "the verdict", func(_, failed int) bool { return failed == 1 })
	if err := l.failure(2); fault.KindOf(err) != fault.Poison || !strings.Contains(err.Error(), "50000") {
		t.Errorf("got %v, want poison that names the limit", err)
	}
}

// With the limit that the hint names, it passes.
func TestLimitThatTheHintNames(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"none", "gzip", "lz4", "zstd", "snappy"} {
		for _, size := range []int{10_000, 1_000_000} {
			t.Run(fmt.Sprintf("%s, %d bytes", codec, size), func(t *testing.T) {
				t.Parallel()
				testLimitThatTheHintNames(t, codec, size)
			})
		}
	}
}

func testLimitThatTheHintNames(t *testing.T, codec string, size int) {
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	setLimit(t, cluster, "orders", 5000)
	payload := make([]byte, size)
	_, _ = cryptorand.Read(payload) // which no codec makes smaller
	cfg := KafkaConfig{Brokers: cluster.ListenAddrs(), Compression: codec}
	k := newSink(t, quick(), cfg)
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), payload), l.ack(0))
	l.await(t, "the verdict", func(_, failed int) bool { return failed == 1 })
	var limit int
	if _, err := fmt.Sscanf(fault.HintOf(l.failure(0)), "raise max.message.bytes of topic orders to %d,", &limit); err != nil {
		t.Fatalf("%v: %s", err, fault.HintOf(l.failure(0)))
	}
	setLimit(t, cluster, "orders", limit)
	again := newSink(t, quick(), cfg)
	passes := newLedger()
	again.Publish(event(0, "orders", []byte("key"), payload), passes.ack(0))
	passes.awaitDone(t, 1)
}

// A topic that nobody creates is given up after a while, and tried again for the next event.
func TestDeadLettersOfAMissingTopic(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	tune := quick()
	tune.unknownTopic = 50 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	for i := range 20 {
		k.Publish(event(i, []string{"nowhere", "orders"}[i%2], []byte("key"), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, 20)
	if got := ids(t, consume(t, cluster.ListenAddrs(), dlq)[0]); !slices.Equal(got, []int{0, 2, 4, 6, 8, 10, 12, 14, 16, 18}) {
		t.Errorf("the dead letters are %v", got)
	}
	if err := admin(t, cluster.ListenAddrs()).CreateTopic("nowhere", &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false); err != nil {
		t.Fatal(err)
	}
	k.Publish(event(20, "nowhere", []byte("key"), []byte("1")), l.ack(20))
	l.awaitDone(t, 21)
	if got := ids(t, consume(t, cluster.ListenAddrs(), "nowhere")[0]); !slices.Equal(got, []int{20}) {
		t.Errorf("the new topic holds %v", got)
	}
}

// A topic that we may not write to: all of its events are dead letters, batch by batch.
func TestDeadLettersOfADeniedTopic(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]kmsg.Key{"produce": kmsg.Produce, "metadata": kmsg.Metadata} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(1, "orders", "denied", dlq))
			cluster.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Topic: "denied", Err: kerr.TopicAuthorizationFailed, Count: -1})
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
			l := newLedger()
			for i := range 200 {
				k.Publish(event(i, []string{"denied", "orders"}[i%2], []byte("key"), []byte("1")), l.ack(i))
			}
			l.awaitDone(t, 200)
			letters := consume(t, cluster.ListenAddrs(), dlq)[0]
			if got := ids(t, letters); len(got) != 100 || !slices.IsSorted(got) {
				t.Errorf("the dead letters are %v", got)
			}
			if h := headers(letters[0]); h["outbox-topic"] != "denied" || h["outbox-reason"] != "TOPIC_AUTHORIZATION_FAILED" {
				t.Errorf("got headers %v", h)
			}
		})
	}
}

// Only the event that was named goes to the dead letters; the error of another one says how to name it.
func TestDeadLetterByName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"id-3", "1/0/4/0"} {
		cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
		refuseGuilty(cluster, kerr.InvalidRecord)
		k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: DeadLetters{Topic: dlq, Only: []string{name}}})
		l := newLedger()
		for i := range 10 {
			payload := []byte("1")
			if i == 3 || i == 6 {
				payload = []byte("guilty")
			}
			k.Publish(event(i, "orders", []byte("key"), payload), l.ack(i))
		}
		l.await(t, "the verdict", func(_, failed int) bool { return failed > 0 })
		if got := ids(t, consume(t, cluster.ListenAddrs(), dlq)[0]); !slices.Equal(got, []int{3}) {
			t.Errorf("the dead letters are %v", got)
		}
		if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, []int{0, 1, 2, 4, 5}) {
			t.Errorf("the topic holds %v", got)
		}
		err := l.failure(6)
		if fault.KindOf(err) != fault.Poison || !strings.Contains(fault.HintOf(err), "--dead-letter-id "+name+",id-6") {
			t.Errorf("got %v (hint %q)", err, fault.HintOf(err))
		}
	}
}

// An event without an id is named by its position.
func TestWayOutWithoutAnID(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: DeadLetters{Topic: dlq}})
	l := newLedger()
	ev := event(0, "orders", []byte("key"), []byte("1"))
	ev.Row.Values[0] = nil
	k.Publish(ev, l.ack(0))
	if err := l.failure(0); !strings.Contains(fault.HintOf(err), "--dead-letter-id 1/0/1/0") {
		t.Errorf("got %v (hint %q)", err, fault.HintOf(err))
	}
}

// A column that is gone is no matter of one event: nothing becomes a dead letter.
func TestMissingColumnIsNoDeadLetter(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, dlq))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	ev := event(0, "orders", []byte("key"), []byte("1"))
	without := *outbox
	without.Columns = without.Columns[:4]
	ev.Row = decoder.Row{Relation: &without, Values: ev.Row.Values[:4]}
	k.Publish(ev, l.ack(0))
	if err := l.failure(0); fault.KindOf(err) != fault.Poison || strings.Contains(fault.HintOf(err), "dead-letter") ||
		!strings.Contains(fault.HintOf(err), "start with table.columns.payload naming a column") || !strings.Contains(fault.HintOf(err), "is made from that column too") || !strings.Contains(fault.HintOf(err), "recover --replace-slot") {
		t.Errorf("got %v (hint %q)", err, fault.HintOf(err))
	}
}

// The last resort fails: the relay stops.
func TestDeadLetterRefused(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	refuseGuilty(cluster, kerr.InvalidRecord)
	cluster.Fault(kfake.Fault{Keys: onlyProduce, Topic: dlq, Err: kerr.TopicAuthorizationFailed, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("guilty")), l.ack(0))
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	l.await(t, "the verdict", func(_, failed int) bool { return failed > 0 })
	err := l.failure(0)
	if fault.KindOf(err) != fault.Poison || !strings.Contains(err.Error(), dlq) || !strings.Contains(fault.HintOf(err), dlq) {
		t.Errorf("got %v (hint %q)", err, fault.HintOf(err))
	}
	if done, _ := l.counts(); done > 0 {
		t.Errorf("%d events were published behind it", done)
	}
}

// Invariants 5 and 6: after a reset with a dead letter on the wire nothing is
// held back by it, and nothing is settled twice.
func TestResetWithADeadLetterOnTheWire(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "orders", dlq))
	refuseGuilty(cluster, kerr.InvalidRecord)
	entered, _, release := holdTopic(cluster, dlq)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	old, fresh := newLedger(), newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("guilty")), old.ack(0))
	wait(t, "the dead letter on the wire", entered)
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), old.ack(1))
	k.Publish(event(2, "no topic!", []byte("key"), []byte("1")), old.ack(2))
	k.Publish(event(3, "orders", []byte("key"), []byte("1")), old.ack(3))
	k.Reset()
	old.await(t, "what was queued is failed", func(_, failed int) bool { return failed == 3 })
	if err := old.failure(2); !errors.Is(err, ErrReset) {
		t.Errorf("got %v, want ErrReset", err)
	}
	for i := range 4 {
		k.Publish(event(i, []string{"orders", "orders", "no topic!", "orders"}[i], []byte("key"), []byte([]string{"guilty", "1", "1", "1"}[i])), fresh.ack(i))
	}
	release()
	fresh.awaitDone(t, 4)
	old.await(t, "the old dead letter", func(done, _ int) bool { return done == 1 })
	if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, []int{1, 3}) {
		t.Errorf("the topic holds %v", got)
	}
}

func TestCloseWithDeadLetters(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "orders", dlq))
	refuseGuilty(cluster, kerr.InvalidRecord)
	entered, _, release := holdTopic(cluster, dlq)
	defer release()
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("guilty")), l.ack(0))
	wait(t, "the dead letter on the wire", entered)
	k.Publish(event(1, "no topic!", []byte("key"), []byte("1")), l.ack(1))
	k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := k.Close(ctx); err == nil {
		t.Error("Close knows the outcome of a dead letter that was not answered")
	}
	l.await(t, "all failed", func(done, failed int) bool { return done == 0 && failed == 3 })
}

// What waits behind a refused event of a topic that had not answered stays where
// it is, also when the topic is there a moment later.
func TestNothingPassesARefusedTopic(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", "others"))
	f := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "orders", Err: kerr.TopicAuthorizationFailed, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.mu.Lock() // until all wait
	unlock := k.mu.Unlock
	for i := range 3 {
		rec, err := k.builder.build(event(i, "orders", []byte("key"), []byte("1")))
		if err != nil {
			t.Fatal(err)
		}
		m := newMessage(rec, event(i, "orders", []byte("key"), []byte("1")), l.ack(i), time.Now().UnixNano())
		m.topic = k.topic("orders")
		k.counters.queued++
		k.queue(m)
	}
	unlock()
	l.await(t, "the verdict", func(_, failed int) bool { return failed > 0 })
	f.Remove()
	k.wantAll()
	k.wakeControl()
	waiting := 0
	eventually(t, "another answer", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		tp := k.topics["orders"]
		waiting = tp.waiting.n
		return tp.answered == tp.wanted && tp.wanted > 1
	})
	if waiting != 2 { // what has a partition goes out in a moment
		t.Errorf("%d events wait behind the refused one, want 2", waiting)
	}
	if got := consume(t, cluster.ListenAddrs(), "orders"); len(got) > 0 {
		t.Errorf("%d records passed the refused one", len(got[0]))
	}
}
