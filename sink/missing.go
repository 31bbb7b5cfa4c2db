package sink

import (
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// uncreated is a topic that does not exist and that the relay was to create.
type uncreated struct {
	topic string
	why   error // nil: the cluster had no answer to that
}

func (e uncreated) Error() string {
	if e.why == nil {
		return fmt.Sprintf("%v (nobody took the request to create topic %s)", sarama.ErrUnknownTopicOrPartition, e.topic)
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

// whyMissing adds, to a topic that does not exist, why it could not be created.
func (k *Kafka) whyMissing(t *topic, err sarama.KError) error {
	if err == sarama.ErrUnknownTopicOrPartition && k.cfg.CreateTopics.Partitions > 0 {
		return uncreated{t.name, k.uncreated[t.name]}
	}
	return err
}

// topicTrouble notes what keeps a topic's events waiting, unless it is what
// happens to every new topic: it is created, and then its leaders begin.
func (k *Kafka) topicTrouble(t *topic, err error) {
	now := time.Now().UnixNano()
	if t.troubled == 0 {
		t.troubled = now
	}
	creating := k.cfg.CreateTopics.Partitions > 0 && errors.Is(err, sarama.ErrUnknownTopicOrPartition)
	if now-t.troubled < int64(k.tune.topicPatience) || creating && k.uncreated[t.name] == nil {
		return
	}
	hint := waitingHint(err, t.name)
	if creating {
		e := uncreated{t.name, k.uncreated[t.name]}
		err, hint = e, e.hint()
	}
	k.trouble("outbox.topic_unavailable", err, hint)
}
