package sink

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// uncreated is a topic that does not exist and that the relay was to create.
type uncreated struct {
	topic string
	why   error // nil: nothing is known to be in the way
}

func (e uncreated) Error() string {
	if e.why == nil {
		return fmt.Sprintf("%v (no broker knows topic %s yet, which the relay creates)", sarama.ErrUnknownTopicOrPartition, e.topic)
	}
	return fmt.Sprintf("%v (create topic %s: %v)", sarama.ErrUnknownTopicOrPartition, e.topic, e.why)
}

// Unwrap makes it what it is for all others: a topic that does not exist.
func (e uncreated) Unwrap() error { return sarama.ErrUnknownTopicOrPartition }

// hint says what to do about it.
func (e uncreated) hint() string {
	switch code, _ := errors.AsType[sarama.KError](e.why); code {
	case sarama.ErrTopicAuthorizationFailed, sarama.ErrClusterAuthorizationFailed:
		return fmt.Sprintf("grant the relay's user CREATE on topic %s, or create it by other means", e.topic)
	case sarama.ErrInvalidReplicationFactor, sarama.ErrInvalidPartitions, sarama.ErrInvalidConfig, sarama.ErrPolicyViolation:
		return "mind kafka.create_topics.partitions and kafka.create_topics.replication_factor, the number of brokers, and the cluster's policies"
	}
	return fmt.Sprintf("create topic %s by other means, or see in the controller's log why it was not created", e.topic)
}

// absence is the evidence that a topic is missing: time between answers that
// said so, one after the other.
type absence struct {
	at   int64 // the last of them, by Kafka.now; 0: the last answer was another
	span int64 // ns
}

// note takes another such answer. Answers come more often than once in a step: a
// longer silence tells of the brokers, and not of the topic. After one of the
// whole patience the evidence is old.
func (a *absence) note(now int64, step, patience time.Duration) {
	gap := now - a.at
	if a.at == 0 || gap > int64(patience) {
		a.span = 0
	} else {
		a.span += min(gap, int64(step))
	}
	a.at = now
}

// gone tells whether events of a topic wait in vain, now that another answer
// says that it is missing: nobody creates it. A topic that the controller has
// not refused to create is on its way, however late the brokers are to know it.
func (k *Kafka) gone(t *topic) bool {
	t.missing.note(k.now(), 2*k.tune.maxAskBackoff, k.tune.unknownTopic)
	if why := k.uncreated[t.name]; k.cfg.CreateTopics.Partitions > 0 && (why == nil || passes(why)) {
		t.missing.span = 0
	}
	return t.missing.span >= int64(k.tune.unknownTopic)
}

// noteBirths lets every topic that is missing have its patience anew when one of
// them came into being: whoever creates them is at work, and has many to create.
func (k *Kafka) noteBirths(resp *sarama.MetadataResponse) {
	if !slices.ContainsFunc(resp.Topics, func(tm *sarama.TopicMetadata) bool {
		t := k.topics[tm.Name]
		return t != nil && t.missing.at != 0 && (tm.Err == sarama.ErrNoError || tm.Err == sarama.ErrLeaderNotAvailable)
	}) {
		return
	}
	for _, t := range k.order {
		t.missing.span = 0
	}
}

// created notes what the controller said to the creation of topics.
func (k *Kafka) created(topics []*topic, answer *sarama.CreateTopicsResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range topics {
		delete(k.uncreated, t.name)
		switch e := answer.TopicErrors[t.name]; {
		case e == nil, e.Err == sarama.ErrTopicAlreadyExists:
		case e.Err == sarama.ErrNoError:
			k.log.Info("outbox.topic_created", "topic", t.name, "partitions", k.cfg.CreateTopics.Partitions)
		default:
			k.uncreated[t.name] = e
		}
	}
}

// toCreate returns what is known of a topic that the relay is to create, if err
// says that it does not exist.
func (k *Kafka) toCreate(t *topic, err error) (uncreated, bool) {
	if k.cfg.CreateTopics.Partitions == 0 || !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		return uncreated{}, false
	}
	return uncreated{t.name, k.uncreated[t.name]}, true
}

// whyMissing adds, to a topic that does not exist, why it could not be created.
func (k *Kafka) whyMissing(t *topic, err error) error {
	if e, creating := k.toCreate(t, err); creating {
		return e
	}
	return err
}

// topicTrouble notes what keeps a topic's events waiting, unless it is what
// happens to every new topic: it is created, and then its leaders begin.
func (k *Kafka) topicTrouble(t *topic, err error) {
	now := k.now()
	if t.troubled == 0 {
		t.troubled = now
	}
	e, creating := k.toCreate(t, err)
	quiet := k.tune.topicPatience
	if creating && e.why == nil { // it is on its way
		quiet = k.tune.unknownTopic
	}
	if now-t.troubled < int64(quiet) {
		return
	}
	hint := waitingHint(err, t.name)
	if creating {
		err, hint = e, e.hint()
	}
	k.trouble("outbox.topic_unavailable", err, hint)
}
