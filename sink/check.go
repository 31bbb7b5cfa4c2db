package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Check looks at the broker's side of the preflight: whether the brokers
// answer, and whether the topics are there and safe; the dead-letter topic
// too when it is in use. With no topics it looks at the cluster only. It works
// beside a relay that publishes, and creates nothing. When ctx ends, it says so
// in a finding.
func (k *Kafka) Check(ctx context.Context, topics []string) []fault.Finding {
	done := make(chan []fault.Finding, 1)
	k.running.Go(func() {
		c := &checker{controller: controller{k: k}, ctx: ctx}
		defer c.disconnect()
		c.run(topics)
		done <- c.findings
	})
	select {
	case f := <-done:
		return f
	case <-ctx.Done():
		return []fault.Finding{{Check: "kafka", Status: fault.Fail, Detail: fmt.Sprintf("no answer: %v", context.Cause(ctx)),
			Hint: checkBrokers}}
	}
}

// checker collects findings on a connection of its own.
type checker struct {
	controller
	ctx        context.Context // the caller's: nothing is asked again once it has ended
	findings   []fault.Finding
	autoCreate string // the brokers' auto.create.topics.enable; "" when not known
}

func (c *checker) add(check string, status fault.Status, hint, format string, args ...any) {
	c.findings = append(c.findings, fault.Finding{Check: check, Status: status, Detail: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *checker) run(topics []string) {
	known := len(topics) > 0
	dead := c.k.cfg.DeadLetters
	if dead.All {
		topics = append(slices.Clone(topics), dead.Topic)
	}
	asked := topics
	if len(asked) == 0 {
		asked = []string{dead.Topic} // no topic at all would mean every one
	}
	req := sarama.NewMetadataRequest(c.k.conf.Version, asked)
	var resp *sarama.MetadataResponse
	err := c.ask(func(b *sarama.Broker) (err error) {
		resp, err = b.GetMetadata(req)
		return err
	})
	if err != nil {
		hint := checkBrokers
		if r := refusal(err, c.k.cfg); r != nil {
			hint = fault.HintOf(r)
		}
		c.add("kafka brokers", fault.Fail, hint, "%v", err)
		return
	}
	c.brokers(resp)
	c.producer()
	settings := c.config(sarama.BrokerResource, resp)
	c.autoCreate = settings["auto.create.topics.enable"]
	if !known {
		c.unknownTopics()
	}
	if limit := settings["message.max.bytes"]; limit != "" {
		c.add("kafka sizes", fault.OK, "", "message.max.bytes %s: a larger event cannot be published, unless its topic has a max.message.bytes of its own", limit)
	} else {
		c.add("kafka sizes", fault.OK, "", "message.max.bytes is not known: the brokers' settings may not be read")
	}
	for _, tm := range resp.Topics {
		if slices.Contains(topics, tm.Name) {
			c.topic(tm, resp)
		}
	}
}

// unknownTopics says what becomes of topics whose names are in the rows.
func (c *checker) unknownTopics() {
	status, hint := fault.OK, ""
	if c.k.cfg.CreateTopics.Partitions == 0 && c.autoCreate != "true" {
		status, hint = fault.Warn, "create each topic before its first event, or set kafka.create_topics.partitions: the first event of a topic that stays missing cannot be published"
	}
	c.add("kafka topics", status, hint, "they are made of columns, and not known before the first event; %s", c.creation())
}

// brokers looks at whether each broker of the configuration and of the cluster answers.
func (c *checker) brokers(resp *sarama.MetadataResponse) {
	var dead []string
	addrs := slices.Clone(c.k.cfg.Brokers)
	for _, b := range resp.Brokers {
		addrs = append(addrs, b.Addr())
	}
	slices.Sort(addrs)
	for _, addr := range slices.Compact(addrs) {
		conn, err := c.k.open(addr)
		if err != nil {
			dead = append(dead, fmt.Sprintf("%s (%v)", addr, err))
			continue
		}
		_ = conn.Close()
	}
	if len(dead) > 0 {
		c.add("kafka brokers", fault.Warn, "events for partitions that such a broker leads wait: check its advertised.listeners, and that it can be reached from here",
			"%d brokers; not reached: %s", len(resp.Brokers), strings.Join(dead, ", "))
		return
	}
	c.add("kafka brokers", fault.OK, "", "%d, all reached", len(resp.Brokers))
}

// producer looks at whether an idempotent producer is allowed. A broker that
// has just started says for a while that it is not ready: that passes.
func (c *checker) producer() {
	k := c.k
	err := c.producerID()
	for tries, end := 1, time.Now().Add(k.tune.checkPatience); passes(err) && c.ctx.Err() == nil && time.Now().Before(end); tries++ {
		k.pause(backoff(tries, k.tune.minBackoff, k.tune.maxAskBackoff), false)
		if k.ended() {
			break
		}
		err = c.producerID()
	}
	if err == nil {
		c.add("kafka producer", fault.OK, "", "idempotent writes are allowed")
		return
	}
	c.add("kafka producer", fault.Fail, producerHint(err, k.cfg), "no producer id: %v", err)
}

func (c *checker) producerID() error {
	var resp *sarama.InitProducerIDResponse
	err := c.ask(func(b *sarama.Broker) (err error) {
		resp, err = b.InitProducerID(&sarama.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1})
		return err
	})
	if err == nil && resp.Err != sarama.ErrNoError {
		return fmt.Errorf("%s: %w", errorName(resp.Err), resp.Err)
	}
	return err
}

// passes tells whether an error is an answer that goes away by itself.
func passes(err error) bool {
	code, ok := errors.AsType[sarama.KError](err)
	return ok && passing[code] != ""
}

// producerHint says what to do about a producer id that was not given.
func producerHint(err error, cfg KafkaConfig) string {
	if r := refusal(err, cfg); r != nil {
		return fault.HintOf(r)
	}
	switch _, answered := errors.AsType[sarama.KError](err); {
	case passes(err):
		return "it should pass by itself: a broker that has just started waits for the controller, which hands out producer ids; if it stays, look at the controller and at the broker's log"
	case answered:
		return "the broker's log says why it gives no producer id"
	}
	return "check that the brokers stay reachable from here"
}

// config returns the settings of the brokers or of a topic; nil when they may not be read.
func (c *checker) config(kind sarama.ConfigResourceType, resp *sarama.MetadataResponse, topic ...string) map[string]string {
	names := topic
	if kind == sarama.BrokerResource && len(resp.Brokers) > 0 {
		names = []string{strconv.Itoa(int(resp.Brokers[0].ID()))}
	}
	if len(names) == 0 {
		return nil
	}
	req := &sarama.DescribeConfigsRequest{Version: 4, Resources: []*sarama.ConfigResource{{Type: kind, Name: names[0]}}}
	var answer *sarama.DescribeConfigsResponse
	var err error
	if kind == sarama.BrokerResource { // only the broker itself answers that
		var conn *sarama.Broker
		if conn, err = c.k.open(resp.Brokers[0].Addr()); err == nil {
			defer func() { _ = conn.Close() }()
			answer, err = conn.DescribeConfigs(req)
		}
	} else {
		err = c.ask(func(b *sarama.Broker) (err error) {
			answer, err = b.DescribeConfigs(req)
			return err
		})
	}
	if err != nil || len(answer.Resources) == 0 || answer.Resources[0].ErrorCode != 0 {
		return nil
	}
	settings := make(map[string]string)
	for _, e := range answer.Resources[0].Configs {
		settings[e.Name] = e.Value
	}
	return settings
}

// creation says what happens to topics that do not exist.
func (c *checker) creation() string {
	switch n := c.k.cfg.CreateTopics.Partitions; {
	case n > 0:
		return fmt.Sprintf("the relay creates them with %d partitions", n)
	case c.autoCreate == "true":
		return "the brokers create them with their own defaults (auto.create.topics.enable)"
	case c.autoCreate == "":
		return "whether the brokers create them is not known: their settings may not be read"
	}
	return "nobody creates them (auto.create.topics.enable is off, kafka.create_topics.partitions is not set)"
}

// uncreatable asks whether the relay could create a topic, if it is to; nil when it could.
func (c *checker) uncreatable(topic string, resp *sarama.MetadataResponse) *uncreated {
	if c.k.cfg.CreateTopics.Partitions == 0 {
		return nil
	}
	answer, err := c.requestTopics(resp, []string{topic}, true)
	if err != nil {
		return &uncreated{topic, err}
	}
	if e := answer.TopicErrors[topic]; e != nil && e.Err != sarama.ErrNoError && e.Err != sarama.ErrTopicAlreadyExists {
		return &uncreated{topic, e}
	}
	return nil
}

func (c *checker) topic(tm *sarama.TopicMetadata, resp *sarama.MetadataResponse) {
	name := "kafka topic " + tm.Name
	switch {
	case errors.Is(tm.Err, sarama.ErrUnknownTopicOrPartition):
		if err := c.uncreatable(tm.Name, resp); err != nil {
			c.add(name, fault.Fail, err.hint(), "%v", err)
			return
		}
		if c.k.cfg.CreateTopics.Partitions > 0 || c.autoCreate == "true" {
			c.add(name, fault.OK, "", "does not exist yet; %s", c.creation())
			return
		}
		c.add(name, fault.Fail, fmt.Sprintf("kafka-topics.sh --create --topic %s --partitions 12 --replication-factor 3, or set kafka.create_topics.partitions", tm.Name),
			"does not exist; %s", c.creation())
		return
	case errors.Is(tm.Err, sarama.ErrTopicAuthorizationFailed):
		c.add(name, fault.Fail, "grant the relay's user WRITE and DESCRIBE on it, and CREATE if it does not exist yet", "%v", tm.Err)
		return
	case tm.Err != sarama.ErrNoError && tm.Err != sarama.ErrLeaderNotAvailable:
		c.add(name, fault.Fail, "", "%v", tm.Err)
		return
	}
	replicas, leaderless := 0, 0
	for i, pm := range tm.Partitions {
		if i == 0 || len(pm.Replicas) < replicas {
			replicas = len(pm.Replicas)
		}
		if pm.Leader < 0 || pm.Err == sarama.ErrLeaderNotAvailable {
			leaderless++
		}
	}
	settings := c.config(sarama.TopicResource, resp, tm.Name)
	detail := fmt.Sprintf("%d partitions, replication factor %d", len(tm.Partitions), replicas)
	if settings == nil {
		detail += "; its settings may not be read"
	} else {
		detail += fmt.Sprintf(", min.insync.replicas %s, max.message.bytes %s", settings["min.insync.replicas"], settings["max.message.bytes"])
	}
	status, hint := safety(tm.Name, replicas, settings["min.insync.replicas"])
	if leaderless > 0 {
		status, hint = fault.Fail, "bring the brokers back that hold them"
		detail += fmt.Sprintf("; %d without a leader", leaderless)
	}
	c.add(name, status, hint, "%s", detail)
}

// safety judges how many brokers may be lost without losing what was acknowledged.
func safety(topic string, replicas int, minInsync string) (fault.Status, string) {
	least, err := strconv.Atoi(minInsync)
	switch {
	case replicas == 1:
		return fault.Warn, "acknowledged events are lost with one broker's disk: use replication factor 3 in production"
	case err != nil:
		return fault.OK, ""
	case least < 2:
		return fault.Warn, fmt.Sprintf("an acknowledged event may be on one broker only: kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=2", topic)
	case least >= replicas:
		return fault.Warn, "no broker may fail or restart without holding the relay up: min.insync.replicas should be below the replication factor"
	}
	return fault.OK, ""
}
