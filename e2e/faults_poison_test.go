package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

const deadLetters = "outbox.dead-letter"

// poison is an event that cannot be published: a good one in which a column has another value.
type poison struct {
	name          string
	column, value string // an SQL expression
	reason        string // outbox-reason
	says          string // a part of the error
}

var poisons = []poison{
	{"too large", "payload", "to_jsonb(repeat('0123456789abcdef', 131072))", "MESSAGE_TOO_LARGE", "max.message.bytes"},
	{"no route", "aggregate_type", "NULL", "INVALID_EVENT", "NULL or empty"},
	{"invalid topic", "aggregate_type", "'not a topic!'", "INVALID_EVENT", "topic name"},
	{"headers that are none", "headers", `'["no", "object"]'`, "INVALID_EVENT", "JSON array"},
	{"no type", "event_type", "NULL", "INVALID_EVENT", "event_type"},
	{"denied topic", "aggregate_type", "'denied'", "TOPIC_AUTHORIZATION_FAILED", "WRITE and DESCRIBE"},
	{"missing topic", "aggregate_type", "'missing'", "UNKNOWN_TOPIC_OR_PARTITION", "does not exist"},
}

// insert writes the event, and returns its id.
func (p poison) insert(s *stage, key string) string {
	values := map[string]string{
		"aggregate_type": "'" + s.name + "'", "aggregate_id": "'" + key + "'", "event_type": "'order.changed'",
		"payload": `'{"n": 0}'`, "headers": "NULL",
	}
	if p.column != "" {
		values[p.column] = p.value
	}
	return one[string](s, fmt.Sprintf("INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, headers) VALUES (%s, %s, %s, %s, %s) RETURNING id::text",
		values["aggregate_type"], values["aggregate_id"], values["event_type"], values["payload"], values["headers"]))
}

// strictKafka creates no topics by itself, and keeps the relay's user out of one.
func strictKafka(t *testing.T) *devenv.Kafka {
	t.Helper()
	kafka := devtest.Kafka(t, devenv.KafkaOptions{
		Users: []devenv.KafkaUser{{Name: "relay", Password: "secret"}},
		Properties: map[string]string{
			"auto.create.topics.enable":      "false",
			"authorizer.class.name":          "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                    "User:ANONYMOUS", // who comes without a login: the brokers, and the test
			"allow.everyone.if.no.acl.found": "true",
		},
	})
	createTopics(t, kafka, deadLetters, "outbox.event.denied")
	admin := adminOf(t, kafka)
	err := admin.CreateACLs([]*sarama.ResourceAcls{{
		Resource: sarama.Resource{ResourceType: sarama.AclResourceTopic, ResourceName: "outbox.event.denied", ResourcePatternType: sarama.AclPatternLiteral},
		Acls:     []*sarama.Acl{{Principal: "User:relay", Host: "*", Operation: sarama.AclOperationWrite, PermissionType: sarama.AclPermissionDeny}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return kafka
}

func adminOf(t *testing.T, kafka *devenv.Kafka) sarama.ClusterAdmin {
	t.Helper()
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	admin, err := sarama.NewClusterAdmin(kafka.Brokers(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close() })
	return admin
}

func createTopics(t *testing.T, kafka *devenv.Kafka, names ...string) {
	t.Helper()
	admin := adminOf(t, kafka)
	for _, name := range names {
		if err := admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1}, false); err != nil {
			t.Fatal(err)
		}
	}
}

// strictStage is a stage on a strict Kafka whose table takes what a careless writer writes.
func strictStage(t *testing.T, kafka *devenv.Kafka, env ...string) *stage {
	t.Helper()
	s := bareStage(t, sharedPostgres(t, "17"), kafka.Brokers(), append([]string{
		"OUTBOX_CDC_KAFKA_BROKERS=" + strings.Join(kafka.SASLBrokers(), ","),
		"OUTBOX_CDC_KAFKA_TLS_ENABLED=true", "OUTBOX_CDC_KAFKA_TLS_CA_FILE=" + kafka.CAFile(),
		"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_USERNAME=relay", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=secret",
	}, env...)...)
	createTopics(t, kafka, s.topic())
	s.init()
	s.exec(s.url, "ALTER TABLE outbox ALTER aggregate_type DROP NOT NULL, ALTER event_type DROP NOT NULL")
	s.seen = rig.Consume(t, s.brokers, nil, s.topic())
	return s
}

// letterOf returns the dead letter of an event, once it is there.
func letterOf(t *testing.T, letters *rig.Consumer, id string) devenv.Record {
	t.Helper()
	var found devenv.Record
	rig.Eventually(t, 60*time.Second, "the dead letter of "+id, func() bool {
		all := letters.Records()
		i := slices.IndexFunc(all, func(r devenv.Record) bool { return r.Header("outbox-id") == id })
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// An event that cannot be published stops the relay, which names it and the
// way out. Sent to the dead letters by name, it holds nothing up any more.
func TestFaultPoisonStops(t *testing.T) {
	t.Parallel()
	kafka := strictKafka(t)
	letters := rig.Consume(t, kafka.Brokers(), nil, deadLetters)
	for _, p := range poisons {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := strictStage(t, kafka)
			first := poison{}.insert(s, "key")
			bad := p.insert(s, "key")
			last := poison{}.insert(s, "key")
			r := s.run()
			if code := r.Wait(90 * time.Second); code != 3 {
				t.Fatalf("exit code %d, want 3:\n%s", code, r.Log())
			}
			said := lastLines(r.Log(), 2)
			t.Log(said)
			for _, want := range []string{"outbox-cdc: publish row " + bad + " at LSN ", p.says, "\nhint: ", "--dead-letter-id " + bad, deadLetters} {
				if !strings.Contains(said, want) {
					t.Errorf("the error lacks %q", want)
				}
			}
			s.await(1)
			// Only a topic of its own lets the last event pass: no consumer of a topic sees a key in another order.
			if got := s.seen.Records(); got[0].Header("ce_id") != first || len(got) > 1 && p.column != "aggregate_type" {
				t.Errorf("%d records went out before the relay stopped, want the first event alone", len(got))
			}
			again := rig.Start(t, s.env, "run", "--dead-letter-id", bad)
			letter := letterOf(t, letters, bad)
			s.await(2)
			if got := s.seen.Records(); got[1].Header("ce_id") != last {
				t.Errorf("behind the dead letter came %s, want %s", got[len(got)-1].Header("ce_id"), last)
			}
			if letter.Header("outbox-reason") != p.reason || string(letter.Key) != "key" || letter.Header("outbox-error") == "" || letter.Header("outbox-lsn") == "" {
				t.Errorf("the dead letter is %+v", letter)
			}
			if large := len(letter.Value) == 64<<10 && letter.Header("outbox-sha256") != ""; large != (p.reason == "MESSAGE_TOO_LARGE") {
				t.Errorf("the dead letter has %d bytes, and outbox-sha256 %q", len(letter.Value), letter.Header("outbox-sha256"))
			}
			s.exec(s.url, "DELETE FROM outbox WHERE id = $1", bad) // the table is the oracle of what is to be in the topic
			records := s.finish(again)
			t.Logf("%d records, %d of them repeats: none lost, order kept", len(records), rig.Repeats(t, records))
		})
	}
}

// With on_poison: dead_letter the relay goes on under load, through kills: what
// can be published is in its topic, in order, and what cannot is a dead letter.
func TestFaultPoisonGoesToTheDeadLetters(t *testing.T) {
	t.Parallel()
	kafka := strictKafka(t)
	letters := rig.Consume(t, kafka.Brokers(), nil, deadLetters)
	s := strictStage(t, kafka, "OUTBOX_CDC_ON_POISON=dead_letter")
	r := s.run()
	l := s.write(1500, 0)
	s.more(500)
	bad := map[string]poison{}
	for round := range 4 {
		for i := range 20 {
			p := poisons[(round*20+i)%(len(poisons)-1)] // the last one takes half a minute
			bad[p.insert(s, fmt.Sprintf("poisoned-%d", i%3))] = p
		}
		s.more(300)
		if round < 3 {
			r.Kill()
			r = s.run()
		}
	}
	missing := poisons[len(poisons)-1]
	bad[missing.insert(s, "poisoned-0")] = missing
	s.more(1000)
	l.end()
	for id, p := range bad {
		if letter := letterOf(t, letters, id); letter.Header("outbox-reason") != p.reason {
			t.Errorf("%s: outbox-reason %q, want %q", p.name, letter.Header("outbox-reason"), p.reason)
		}
	}
	ids := make([]string, 0, len(bad))
	for id := range bad {
		ids = append(ids, id)
	}
	_, metrics := r.Get("/metrics")
	if !strings.Contains(metrics, `outbox_cdc_dead_letters_total{reason="UNKNOWN_TOPIC_OR_PARTITION"} 1`) {
		t.Error("the metrics do not count the dead letters by reason")
	}
	s.exec(s.url, "DELETE FROM outbox WHERE id::text = ANY($1)", ids)
	records := s.finish(r)
	_, all := letters.Distinct()
	t.Logf("%d records of good events, %d repeats: none lost, order kept; %d bad events are dead letters, %d repeats; 3 kills",
		len(records), rig.Repeats(t, records), len(bad), all-len(bad))
}
