package sink

import (
	"errors"
	"fmt"
	"io"

	"github.com/IBM/sarama"
)

// verdict is what an answer means for a batch.
type verdict int

const (
	acked         verdict = iota // it is in the log, on all in-sync replicas
	again                        // it may be there or not: send it again as it is
	fenced                       // the broker does not take this producer any more
	refusedRecord                // it is not there, and one of its records is why
	refusedSize                  // the same, or the batch as a whole is too large
	refusedTopic                 // it is not there, and no record of the topic would be
)

// outcome judges what the answer says about a batch.
func outcome(b *batch, resp *sarama.ProduceResponse, err error) (verdict, error) {
	switch {
	case errors.Is(err, errTooLarge):
		return refusedSize, err
	case err != nil:
		return again, err
	}
	block := resp.GetBlock(b.p.topic.name, b.p.id)
	if block == nil {
		return again, errNoAnswer
	}
	v := judge(block.Err)
	if v == acked {
		return acked, nil
	}
	cause := error(block.Err)
	if block.ErrorMessage != nil && *block.ErrorMessage != "" { // KIP-467
		cause = fmt.Errorf("%w (%s)", cause, *block.ErrorMessage)
	}
	for _, r := range block.RecordErrors {
		if r.BatchIndexErrorMessage != nil {
			cause = fmt.Errorf("%w (%s)", cause, *r.BatchIndexErrorMessage)
			break
		}
	}
	return v, cause
}

// judge sorts the error codes of a produce response. Which ones pass by
// themselves is said by https://kafka.apache.org/protocol#protocol_error_codes.
// A code that is not known is taken as final: to repeat it for ever would be
// to stall in silence.
func judge(code sarama.KError) verdict {
	switch code {
	case sarama.ErrNoError,
		sarama.ErrDuplicateSequenceNumber: // an earlier try was taken
		return acked
	case sarama.ErrOutOfOrderSequenceNumber, sarama.ErrUnknownProducerID, sarama.ErrInvalidProducerEpoch,
		sarama.ErrProducerFenced, sarama.ErrInvalidProducerIDMapping, sarama.ErrInvalidTxnState,
		sarama.ErrTransactionCoordinatorFenced:
		return fenced
	case sarama.ErrMessageSizeTooLarge, sarama.ErrMessageSetSizeTooLarge:
		return refusedSize
	case sarama.ErrTopicAuthorizationFailed, sarama.ErrClusterAuthorizationFailed, sarama.ErrInvalidTopic,
		sarama.ErrUnsupportedForMessageFormat, sarama.ErrUnsupportedCompressionType, sarama.ErrInvalidRequiredAcks,
		sarama.ErrUnsupportedVersion:
		return refusedTopic
	}
	if passing[code] != "" {
		return again
	}
	return refusedRecord
}

// passing are the errors that go away: a new leader is elected, a follower
// catches up, a disk is replaced.
var passing = map[sarama.KError]string{
	sarama.ErrInvalidMessage:                  "CORRUPT_MESSAGE",
	sarama.ErrUnknownTopicOrPartition:         "UNKNOWN_TOPIC_OR_PARTITION",
	sarama.ErrLeaderNotAvailable:              "LEADER_NOT_AVAILABLE",
	sarama.ErrNotLeaderForPartition:           "NOT_LEADER_OR_FOLLOWER",
	sarama.ErrRequestTimedOut:                 "REQUEST_TIMED_OUT",
	sarama.ErrBrokerNotAvailable:              "BROKER_NOT_AVAILABLE",
	sarama.ErrReplicaNotAvailable:             "REPLICA_NOT_AVAILABLE",
	sarama.ErrNetworkException:                "NETWORK_EXCEPTION",
	sarama.ErrOffsetsLoadInProgress:           "COORDINATOR_LOAD_IN_PROGRESS",
	sarama.ErrConsumerCoordinatorNotAvailable: "COORDINATOR_NOT_AVAILABLE",
	sarama.ErrNotCoordinatorForConsumer:       "NOT_COORDINATOR",
	sarama.ErrNotEnoughReplicas:               "NOT_ENOUGH_REPLICAS",
	sarama.ErrNotEnoughReplicasAfterAppend:    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
	sarama.ErrNotController:                   "NOT_CONTROLLER",
	sarama.ErrConcurrentTransactions:          "CONCURRENT_TRANSACTIONS",
	sarama.ErrKafkaStorageError:               "KAFKA_STORAGE_ERROR",
	sarama.ErrReassignmentInProgress:          "REASSIGNMENT_IN_PROGRESS",
	sarama.ErrListenerNotFound:                "LISTENER_NOT_FOUND",
	sarama.ErrFencedLeaderEpoch:               "FENCED_LEADER_EPOCH",
	sarama.ErrUnknownLeaderEpoch:              "UNKNOWN_LEADER_EPOCH",
	sarama.ErrStaleBrokerEpoch:                "STALE_BROKER_EPOCH",
	sarama.ErrPreferredLeaderNotAvailable:     "PREFERRED_LEADER_NOT_AVAILABLE",
	sarama.ErrEligibleLeadersNotAvailable:     "ELIGIBLE_LEADERS_NOT_AVAILABLE",
	sarama.ErrThrottlingQuotaExceeded:         "THROTTLING_QUOTA_EXCEEDED",
	100:                                       "UNKNOWN_TOPIC_ID",
	103:                                       "INCONSISTENT_TOPIC_ID",
}

// absent tells whether an answer that passes says that the batch is not in the
// log. NOT_LEADER_OR_FOLLOWER does not: leadership may end while followers are waited for.
func absent(cause error) bool {
	code, ok := errors.AsType[sarama.KError](cause)
	return ok && (code == sarama.ErrUnknownTopicOrPartition || code == sarama.ErrNotEnoughReplicas || code == sarama.ErrInvalidMessage)
}

// final are the names of the errors that do not go away.
var final = map[sarama.KError]string{
	sarama.ErrUnknown:                      "UNKNOWN_SERVER_ERROR",
	sarama.ErrMessageSizeTooLarge:          "MESSAGE_TOO_LARGE",
	sarama.ErrInvalidTopic:                 "INVALID_TOPIC_EXCEPTION",
	sarama.ErrMessageSetSizeTooLarge:       "RECORD_LIST_TOO_LARGE",
	sarama.ErrInvalidRequiredAcks:          "INVALID_REQUIRED_ACKS",
	sarama.ErrTopicAuthorizationFailed:     "TOPIC_AUTHORIZATION_FAILED",
	sarama.ErrClusterAuthorizationFailed:   "CLUSTER_AUTHORIZATION_FAILED",
	sarama.ErrInvalidTimestamp:             "INVALID_TIMESTAMP",
	sarama.ErrUnsupportedVersion:           "UNSUPPORTED_VERSION",
	sarama.ErrInvalidRequest:               "INVALID_REQUEST",
	sarama.ErrUnsupportedForMessageFormat:  "UNSUPPORTED_FOR_MESSAGE_FORMAT",
	sarama.ErrPolicyViolation:              "POLICY_VIOLATION",
	sarama.ErrOutOfOrderSequenceNumber:     "OUT_OF_ORDER_SEQUENCE_NUMBER",
	sarama.ErrInvalidProducerEpoch:         "INVALID_PRODUCER_EPOCH",
	sarama.ErrInvalidTxnState:              "INVALID_TXN_STATE",
	sarama.ErrInvalidProducerIDMapping:     "INVALID_PRODUCER_ID_MAPPING",
	sarama.ErrTransactionCoordinatorFenced: "TRANSACTION_COORDINATOR_FENCED",
	sarama.ErrUnknownProducerID:            "UNKNOWN_PRODUCER_ID",
	sarama.ErrUnsupportedCompressionType:   "UNSUPPORTED_COMPRESSION_TYPE",
	sarama.ErrInvalidRecord:                "INVALID_RECORD",
	sarama.ErrProducerFenced:               "PRODUCER_FENCED",
	sarama.ErrSASLAuthenticationFailed:     "SASL_AUTHENTICATION_FAILED",
}

// errorName is a label for metrics: few values, the same for ever.
func errorName(err error) string {
	if errors.Is(err, errUnsure) {
		return "OUTCOME_UNKNOWN"
	}
	if code, ok := errors.AsType[sarama.KError](err); ok {
		if name := passing[code]; name != "" {
			return name
		}
		if name := final[code]; name != "" {
			return name
		}
		return fmt.Sprintf("CODE_%d", int16(code))
	}
	if _, ok := errors.AsType[invalid](err); ok {
		return "INVALID_EVENT"
	}
	switch {
	case errors.Is(err, errTooLarge):
		return "REQUEST_TOO_LARGE"
	case errors.Is(err, errNoAnswer):
		return "NO_ANSWER"
	case errors.Is(err, errRecreated):
		return "TOPIC_RECREATED"
	case isTimeout(err):
		return "TIMEOUT"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "DISCONNECTED"
	}
	return "NETWORK"
}

// hintOf says what an operator can do about a record that was refused.
func hintOf(cause error, m *message, codec sarama.CompressionCodec) string {
	topic := m.topic.name
	if e, ok := errors.AsType[uncreated](cause); ok {
		return e.hint() + ", then start again"
	}
	code, ok := errors.AsType[sarama.KError](cause)
	switch {
	case errors.Is(cause, errTooLarge):
		return fmt.Sprintf("the record has %d bytes; no client sends more than %d in a request: keep such payloads elsewhere, and their address in the event", len(m.buf), sarama.MaxRequestSize)
	case !ok:
		return ""
	}
	switch code {
	case sarama.ErrMessageSizeTooLarge, sarama.ErrMessageSetSizeTooLarge:
		return fmt.Sprintf("raise max.message.bytes of topic %s to %d, which is what the record takes at most, with its batch (and replica.fetch.max.bytes, and the consumers' limits), then start again", topic, m.alone(codec))
	case sarama.ErrTopicAuthorizationFailed:
		return fmt.Sprintf("grant the relay's user WRITE and DESCRIBE on topic %s, and CREATE if it does not exist yet, then start again", topic)
	case sarama.ErrUnknownTopicOrPartition:
		return fmt.Sprintf("topic %s does not exist, and nobody creates it: create it, or set kafka.create_topics.partitions, then start again", topic)
	case sarama.ErrClusterAuthorizationFailed:
		return "grant the relay's user IDEMPOTENT_WRITE on the cluster, then start again"
	case sarama.ErrInvalidTimestamp:
		return fmt.Sprintf("the clocks of database and broker differ, or the event is old: mind message.timestamp.before.max.ms and message.timestamp.after.max.ms of topic %s", topic)
	case sarama.ErrInvalidRecord:
		return fmt.Sprintf("the broker checks the records of topic %s: a compacted one wants a key, and a validating one a schema", topic)
	case sarama.ErrUnsupportedCompressionType:
		return "choose another kafka.compression"
	case sarama.ErrPolicyViolation:
		return "a policy of the cluster forbids it: ask who runs the brokers"
	}
	return fmt.Sprintf("the broker's log has the details of what it found wrong with topic %s", topic)
}

// waitingHint says what an operator can do about trouble that is waited out;
// empty when it is expected to pass by itself.
func waitingHint(cause error, topic string) string {
	switch code, _ := errors.AsType[sarama.KError](cause); code {
	case sarama.ErrUnknownTopicOrPartition:
		return fmt.Sprintf("create topic %s, or set kafka.create_topics.partitions: when it stays missing its events cannot be published", topic)
	case sarama.ErrLeaderNotAvailable:
		return "if it lasts, bring back the brokers that hold the partition"
	case sarama.ErrNotEnoughReplicas, sarama.ErrNotEnoughReplicasAfterAppend:
		return fmt.Sprintf("topic %s has fewer in-sync replicas than its min.insync.replicas: bring the missing brokers back", topic)
	case sarama.ErrKafkaStorageError:
		return "a broker cannot write to its disk: its log says why"
	case sarama.ErrThrottlingQuotaExceeded:
		return "the cluster's quota for the relay's user or client id is used up"
	}
	return ""
}
