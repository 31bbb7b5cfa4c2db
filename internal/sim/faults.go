package sim

import (
	"bytes"
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The errors that brokers answer to produce requests now and then.
var (
	// After one of these the batch is not in the log,
	passing = []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.KafkaStorageError, kerr.UnknownTopicOrPartition,
		kerr.LeaderNotAvailable, kerr.CorruptMessage,
	}
	// after one of these it is,
	appended = []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend}
	// after one of these the sink starts over,
	fencing = []*kerr.Error{kerr.InvalidProducerEpoch, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping}
	// and of these an event is guilty, for all that the sink knows.
	final = []*kerr.Error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.UnknownServerError,
		kerr.PolicyViolation, kerr.TopicAuthorizationFailed, kerr.InvalidTopicException,
	}
	// The others are answers to questions about the cluster.
	asking = []struct {
		key  kmsg.Key
		errs []*kerr.Error
	}{
		{kmsg.Metadata, []*kerr.Error{kerr.LeaderNotAvailable, kerr.UnknownTopicOrPartition, kerr.UnknownServerError, kerr.TopicAuthorizationFailed}},
		{kmsg.InitProducerID, []*kerr.Error{kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.ClusterAuthorizationFailed}},
		{kmsg.DescribeConfigs, []*kerr.Error{kerr.TopicAuthorizationFailed}},
	}
)

// finalFault is one that may convict any event.
type finalFault struct {
	reason string
	handle *kfake.FaultHandle
}

// install makes the brokers answer with errors, and returns those that may convict any event.
func (p *plan) install(c *kfake.Cluster, seed uint64) (convicting []finalFault) {
	refuseGuilty(c, p.partitions)
	rng := rand.New(rand.NewPCG(seed, 13))
	draws := rand.New(rand.NewPCG(seed, 14)) // used by the cluster's goroutine alone
	add := func(key kmsg.Key, err *kerr.Error, most, in int) *kfake.FaultHandle {
		if most == 0 {
			return nil
		}
		f := kfake.Fault{Keys: []kmsg.Key{key}, Err: err, Count: 1 + rng.IntN(most), When: func(kmsg.Request) bool { return draws.IntN(in) == 0 }}
		f.TopLevel = key == kmsg.InitProducerID
		if key == kmsg.Produce && rng.IntN(2) == 0 {
			f.Partitions = []int32{rng.Int32N(p.partitions)}
		}
		return c.Fault(f)
	}
	for _, err := range append(append([]*kerr.Error(nil), passing...), appended...) {
		add(kmsg.Produce, err, p.refusals, 30)
	}
	if p.refusals > 0 {
		add(kmsg.Produce, pick(rng, fencing...), 1, 30)
	}
	if rng.IntN(3) == 0 {
		err := pick(rng, final...)
		convicting = append(convicting, finalFault{err.Message, add(kmsg.Produce, err, 2, 30)})
	}
	if p.questions {
		for _, a := range asking {
			err := pick(rng, a.errs...)
			h := add(a.key, err, 3, 4)
			if a.key == kmsg.Metadata && err == kerr.TopicAuthorizationFailed {
				convicting = append(convicting, finalFault{err.Message, h})
			}
		}
	}
	return convicting
}

// refuseGuilty makes the brokers refuse each batch of the topics that has a guilty record in it.
func refuseGuilty(c *kfake.Cluster, partitions int32) {
	for _, topic := range topics {
		for p := range partitions {
			c.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{p}, Err: kerr.InvalidRecord, Count: -1,
				When: func(req kmsg.Request) bool { return guilty(req, topic, p) },
			})
		}
	}
}

func guilty(req kmsg.Request, topic string, partition int32) bool {
	r, ok := req.(*kmsg.ProduceRequest)
	if !ok {
		return false
	}
	for _, rt := range r.Topics {
		if rt.Topic != topic {
			continue
		}
		for _, rp := range rt.Partitions {
			if rp.Partition == partition {
				batch, err := parseBatch(rp.Records)
				return err == nil && bytes.Contains(batch.Records, []byte(refusedType))
			}
		}
	}
	return false
}
