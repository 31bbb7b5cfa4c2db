package sink

import (
	"fmt"

	"github.com/IBM/sarama"
)

// apply takes what a metadata response says of the topics that were asked for.
// It returns those that do not exist, and whether to ask again soon.
func (k *Kafka) apply(resp *sarama.MetadataResponse, asked map[string]uint64) (missing []string, more bool) {
	var out settled
	k.mu.Lock()
	clear(k.brokers)
	for _, b := range resp.Brokers {
		k.brokers[b.ID()] = b.Addr()
	}
	for _, tm := range resp.Topics {
		t := k.topics[tm.Name]
		if t == nil {
			continue
		}
		t.err = nil
		switch tm.Err {
		case sarama.ErrNoError, sarama.ErrLeaderNotAvailable:
		case sarama.ErrInvalidTopic, sarama.ErrTopicAuthorizationFailed:
			t.answered = asked[t.name]
			k.refuseTopic(t, tm.Err, &out)
			continue
		default:
			if tm.Err == sarama.ErrUnknownTopicOrPartition {
				missing = append(missing, t.name)
			}
			t.err, more = tm.Err, true
			k.trouble(fmt.Errorf("topic %s: %w", t.name, tm.Err), "outbox.topic_unavailable")
			continue
		}
		if !k.applyTopic(t, tm, asked[t.name]) {
			more = true
		}
	}
	k.mu.Unlock()
	for _, p := range out.poisoned {
		p.m.ack.Fail(p.m.size, p.err)
	}
	return missing, more
}

// applyTopic takes the partitions of a topic. It tells whether all that have
// something to send have a leader.
func (k *Kafka) applyTopic(t *topic, tm *sarama.TopicMetadata, asked uint64) bool {
	n := 0
	for _, pm := range tm.Partitions {
		n = max(n, int(pm.ID)+1)
	}
	if n == 0 {
		t.err = sarama.ErrLeaderNotAvailable
		return false
	}
	t.answered = max(t.answered, asked)
	switch have := len(t.partitions); {
	case have == 0:
		t.setCount(n)
	case n > have && n != t.grow:
		k.log.Warn("outbox.partitions_changed", "topic", t.name, "from", have, "to", n,
			"hint", "keys go to other partitions from here on: their order across this point is lost for consumers")
		if t.grow = n; !t.busy() {
			t.setCount(n)
		}
	case n < have:
		k.trouble(fmt.Errorf("topic %s has %d partitions, it had %d: it was created anew", t.name, n, have), "outbox.partitions_changed")
	}
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
	complete := true
	for i, p := range t.partitions {
		if p.leader = leaders[i]; p.scheduled != nil && p.scheduled.id != p.leader {
			p.scheduled = nil
		}
		k.schedule(p)
		if p.leader < 0 && p.sendable() { // schedule has asked again
			complete = false
			t.err = sarama.ErrLeaderNotAvailable
			k.trouble(fmt.Errorf("topic %s, partition %d: %w", t.name, p.id, t.err), "outbox.topic_unavailable")
		}
	}
	return complete
}

// refuseTopic fails the first event of a topic that the cluster will not let
// us write to. What is behind it stands still.
func (k *Kafka) refuseTopic(t *topic, cause error, out *settled) {
	t.err = cause
	guilty := func(m *message, where string) {
		err := poisoned(m.id(), m.lsn, m.seq, where, cause, hintOf(cause, t.name, len(m.buf)))
		k.counters.failures[errorName(cause)]++
		k.counters.failed++
		out.poisoned = append(out.poisoned, poisonedMessage{m, err})
		k.stop(err)
	}
	if t.waiting.n > 0 {
		front := t.waiting.cut(1, 0)
		k.counters.queued--
		guilty(front.head, t.name)
	}
	for _, p := range t.partitions { // those that look for a leader; the others hear it from the one they have
		if b := p.batch; b != nil && !b.onWire && p.stuck == nil {
			k.counters.inFlight -= b.messages.n
			k.counters.queued += b.messages.n - 1
			m := p.convict(cause)
			guilty(m, fmt.Sprintf("%s, partition %d", t.name, p.id))
		}
	}
}
