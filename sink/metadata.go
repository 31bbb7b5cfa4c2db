package sink

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/IBM/sarama"
)

// apply takes what a metadata response says of the topics that were asked for.
// It returns those that something waits for and that do not exist.
func (k *Kafka) apply(resp *sarama.MetadataResponse, asked []*topic) (missing []*topic) {
	var out settled
	k.mu.Lock()
	clear(k.brokers)
	for _, b := range resp.Brokers {
		k.brokers[b.ID()] = b.Addr()
	}
	for _, t := range asked {
		t.unready = true // unless there is an answer
	}
	k.noteBirths(resp)
	for _, tm := range resp.Topics {
		t := k.topics[tm.Name]
		if t == nil {
			continue
		}
		t.unready = false
		unknown := tm.Err == sarama.ErrUnknownTopicOrPartition
		if !unknown || !t.awaited() {
			t.missing = absence{}
		}
		switch {
		case tm.Err == sarama.ErrNoError, tm.Err == sarama.ErrLeaderNotAvailable:
			k.applyTopic(t, tm, &out)
			continue
		case unknown && !t.awaited():
			t.answered = t.asked
			continue
		case unknown:
			missing = append(missing, t)
		}
		if tm.Err == sarama.ErrInvalidTopic || tm.Err == sarama.ErrTopicAuthorizationFailed || unknown && k.gone(t) {
			t.answered = t.asked
			k.refuseTopic(t, k.whyMissing(t, tm.Err), &out)
			continue
		}
		t.unready = true
		k.topicTrouble(t, fmt.Errorf("topic %s: %w", t.name, tm.Err))
	}
	k.mu.Unlock()
	k.deliver(&out, time.Now())
	return missing
}

// applyTopic takes the partitions of a topic, which is ready when all that have
// something to send have a leader.
func (k *Kafka) applyTopic(t *topic, tm *sarama.TopicMetadata, out *settled) {
	n := 0
	for _, pm := range tm.Partitions {
		n = max(n, int(pm.ID)+1)
	}
	if n == 0 {
		t.unready = true
		return
	}
	t.answered = t.asked
	if t.stuck != nil {
		return
	}
	k.setPartitions(t, tm.Uuid, n, out)
	leaders := make([]int32, len(t.partitions))
	for i := range leaders {
		leaders[i] = -1
	}
	for _, pm := range tm.Partitions {
		usable := pm.Err == sarama.ErrNoError || pm.Err == sarama.ErrReplicaNotAvailable
		if _, known := k.brokers[pm.Leader]; known && usable && int(pm.ID) < len(leaders) {
			leaders[pm.ID] = pm.Leader
		}
	}
	for i, p := range t.partitions {
		if p.leader = leaders[i]; p.scheduled != nil && p.scheduled.id != p.leader {
			p.scheduled = nil
		}
		k.decide(p, out)
		if p.leader < 0 && p.sendable() { // only now: what is unready must have something to ask for
			t.unready = true
			k.topicTrouble(t, fmt.Errorf("topic %s, partition %d: %w", t.name, p.id, sarama.ErrLeaderNotAvailable))
		}
		k.schedule(p)
	}
	if !t.unready {
		t.troubled = 0
		delete(k.uncreated, t.name)
	}
}

// errRecreated is a topic that was deleted and created anew.
var errRecreated = errors.New("the topic was created anew")

// setPartitions takes the number of a topic's partitions. More of them were
// added: what is under way goes to the old ones first. Fewer mean another topic
// of the same name, for Kafka takes none away. What is under way to one that is
// gone would wait for ever, and the new topic knows no sequence numbers: the
// line starts again from the confirmed LSN, as after a producer that was refused.
func (k *Kafka) setPartitions(t *topic, id sarama.Uuid, n int, out *settled) {
	have := len(t.partitions)
	if n < have && id == t.id && id != (sarama.Uuid{}) {
		return // a broker that has not heard of the new ones yet
	}
	recreated := id != t.id
	t.id = id
	if have > 0 && n != have && n != t.grow {
		k.log.Warn("outbox.partitions_changed", "topic", t.name, "from", have, "to", n, "recreated", recreated,
			"hint", "keys go to other partitions from here on: their order across this point is lost for consumers")
	}
	switch {
	case have == 0:
		t.setCount(n)
	case n == have && recreated && t.grow > 0: // with the number that it had before it grew
		t.setCount(n)
	case n > have:
		t.grow = n
		k.goOver(t)
	case n < have && !k.closing:
		given := k.disown(fmt.Errorf("topic %s had %d partitions and has %d: %w", t.name, have, n, errRecreated))
		out.fail(given, k.down)
		t.setCount(n)
	}
}

// refuseTopic convicts what waits to go to a topic that the cluster will not
// let us write to, or does not have.
func (k *Kafka) refuseTopic(t *topic, cause error, out *settled) {
	for _, p := range t.partitions { // those that look for a leader; the others hear it from the one they have
		switch b := p.batch; {
		case p.stuck != nil || b != nil && b.onWire:
		case b != nil && b.unsure: // as in settle
			given := k.disown(fmt.Errorf("%w: %w", errUnsure, cause))
			out.fail(given, k.down)
			return
		case b != nil && b.old:
			k.counters.inFlight -= b.messages.n
			k.counters.failed += uint64(b.messages.n)
			out.fail(lists{p.discard()}, ErrReset)
			k.schedule(p) // what came since then
		case b != nil:
			k.counters.inFlight -= b.messages.n
			k.counters.queued += b.messages.n
			n := b.messages.n
			p.unsend()
			k.convict(p, n, cause, out)
			k.stop(p.stuck)
		case p.leader < 0 && p.queue.n > 0:
			k.convict(p, p.queue.n, cause, out)
			k.stop(p.stuck)
		default: // it has a leader, who will say the same
			k.schedule(p)
		}
	}
	if t.waiting.n > 0 && !t.busy() { // Invariant 5: what waits for added partitions came last
		t.stuck = k.condemn(t.waiting.cut(k.guilty(t, t.waiting.n), math.MaxInt), t.name, cause, out)
		k.stop(t.stuck)
	}
}
