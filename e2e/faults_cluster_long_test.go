//go:build long

package e2e_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// ensemble is three brokers, of which two have to have an event, under load.
type ensemble struct {
	*stage
	kafka  *devenv.Kafka
	client sarama.Client
	relay  *rig.Relay
}

const replicas = 3

func newEnsemble(t *testing.T) *ensemble {
	t.Helper()
	kafka := devtest.Kafka(t, devenv.KafkaOptions{Brokers: replicas, Partitions: 6})
	config := sarama.NewConfig()
	config.Metadata.AllowAutoTopicCreation = false
	// The next broker is asked soon.
	config.Net.DialTimeout, config.Net.ReadTimeout = 5*time.Second, 5*time.Second
	client, err := sarama.NewClient(kafka.Brokers(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return &ensemble{stage: newStage(t, sharedPostgres(t, "17"), kafka.Brokers()), kafka: kafka, client: client}
}

// leaders returns the leader of each partition. whole tells whether all of them
// have one, and all of their replicas in sync; it is false where nobody answers.
func (e *ensemble) leaders() (leaders map[int32]int32, whole bool) {
	if err := e.client.RefreshMetadata(e.topic()); err != nil {
		return nil, false
	}
	partitions, err := e.client.Partitions(e.topic())
	if err != nil {
		return nil, false
	}
	leaders, whole = map[int32]int32{}, true
	for _, p := range partitions {
		leader, err := e.client.Leader(e.topic(), p)
		if err != nil {
			return nil, false
		}
		inSync, err := e.client.InSyncReplicas(e.topic(), p)
		leaders[p], whole = leader.ID(), whole && err == nil && len(inSync) == replicas
	}
	return leaders, whole
}

// awaitInSync waits until nothing is left of a fault, and returns the leaders.
func (e *ensemble) awaitInSync() map[int32]int32 {
	e.t.Helper()
	var leaders map[int32]int32
	rig.Eventually(e.t, 2*time.Minute, "all replicas are in sync", func() (whole bool) {
		leaders, whole = e.leaders()
		return whole
	})
	return leaders
}

func (e *ensemble) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// kill ends the leader of a partition with SIGKILL; the others take over.
func (e *ensemble) kill(partition int32) {
	leader := e.awaitInSync()[partition]
	e.must(e.kafka.Kill(leader))
	e.lead(map[int32]int32{partition: leader})
	e.more(2000)
	e.must(e.kafka.Start(e.t.Context(), leader))
}

// lead waits until none of these leaders leads its partition any more.
func (e *ensemble) lead(former map[int32]int32) {
	e.t.Helper()
	rig.Eventually(e.t, time.Minute, "new leaders", func() bool {
		now, _ := e.leaders()
		for p, leader := range former {
			if now[p] == leader {
				return false
			}
		}
		return now != nil
	})
}

// roll restarts one broker after the other, as an upgrade does.
func (e *ensemble) roll() {
	for id := range int32(replicas) {
		e.must(e.kafka.StopBroker(e.t.Context(), id+1))
		e.more(500)
		e.must(e.kafka.Start(e.t.Context(), id+1))
		e.awaitInSync()
	}
}

// elect gives each partition another leader, without a broker that is away:
// the replicas' order is changed, and the first of them elected.
func (e *ensemble) elect() {
	former := e.awaitInSync()
	assignment := make([][]int32, len(former))
	partitions := make([]int32, len(former))
	for p, leader := range former {
		for i := range int32(replicas) {
			assignment[p] = append(assignment[p], (leader+i)%replicas+1)
		}
		partitions[p] = p
	}
	admin := adminOf(e.t, e.kafka)
	e.must(admin.AlterPartitionReassignments(e.topic(), assignment))
	_, err := admin.ElectLeaders(sarama.PreferredElection, map[string][]int32{e.topic(): partitions})
	e.must(err)
	e.lead(former)
	e.more(2000)
}

// starve leaves one broker of three for a while: fewer than min.insync.replicas.
func (e *ensemble) starve() {
	const starved = 20 * time.Second
	e.must(e.kafka.StopBroker(e.t.Context(), 1))
	e.must(e.kafka.StopBroker(e.t.Context(), 2))
	over := time.NewTimer(starved)
	const hint = "fewer in-sync replicas than its min.insync.replicas: bring the missing brokers back"
	rig.Eventually(e.t, time.Minute, "the log says what is waited for", func() bool { return strings.Contains(e.relay.Log(), hint) })
	status := statusOf(e.t, e.relay)
	<-over.C
	last := statusOf(e.t, e.relay)
	if last.Kafka.Published != status.Kafka.Published || last.Relay.InFlightEvents == 0 {
		e.t.Errorf("%d events were acknowledged by one broker alone, %d wait", last.Kafka.Published-status.Kafka.Published, last.Relay.InFlightEvents)
	}
	e.t.Logf("one broker alone for %v: %d events wait, %d tries; the log says: %s", starved, last.Relay.InFlightEvents, last.Kafka.Retries, lineWith(e.relay.Log(), hint))
	e.must(errors.Join(e.kafka.Start(e.t.Context(), 1), e.kafka.Start(e.t.Context(), 2)))
}

// lineWith returns the last line that contains a text.
func lineWith(log, text string) string {
	lines := strings.Split(log, "\n")
	slices.Reverse(lines)
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, text) }); i >= 0 {
		return lines[i]
	}
	return ""
}

// Whatever happens to a cluster of three, what was committed arrives, once and
// in order, and the stream from Postgres is not let go of.
func TestLongFaultCluster(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t)
	l := e.write(1500, 0)
	e.relay = e.run()
	m := watchMemory(e.relay)
	e.more(2000)
	walsender, before := e.walsender(), statusOf(t, e.relay)
	for _, fault := range []struct {
		name string
		do   func()
	}{
		{"leader killed", func() { e.kill(0) }},
		{"leader killed again", func() { e.kill(1) }},
		{"rolling restart", e.roll},
		{"other leaders elected", e.elect},
		{"min.insync.replicas not met", e.starve},
	} {
		e.awaitInSync()
		began := time.Now()
		fault.do()
		mended := time.Now()
		e.more(1)
		again := time.Since(mended)
		e.more(1500)
		t.Logf("%s: %v, events %v after it was mended, %d batches sent again so far",
			fault.name, mended.Sub(began).Round(time.Millisecond), again.Round(time.Millisecond), statusOf(t, e.relay).Kafka.Retries)
	}
	l.end()
	after := statusOf(t, e.relay)
	if now := e.walsender(); now != walsender || walsender == 0 || after.Relay.Reconnects != before.Relay.Reconnects {
		t.Errorf("walsender %d before and %d after, %d reconnects: the relay let go of the stream", walsender, now, after.Relay.Reconnects)
	}
	records := e.finish(e.relay)
	most, repeats := m.stop(), rig.Repeats(t, records)
	t.Log(tally(records, repeats, most))
	if repeats != 0 {
		t.Errorf("%d repeats, though the producer is idempotent", repeats)
	}
	if most > enough {
		t.Errorf("%d MiB resident", most/mib)
	}
}
