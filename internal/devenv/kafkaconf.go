package devenv

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The listeners of a broker. The brokers talk to each other over the plain one.
const (
	listenPlain      = "PLAINTEXT"
	listenController = "CONTROLLER"
	listenTLS        = "SSL"
	listenSASL       = "SASL_SSL"
)

// saslMechanisms are offered together; every user can use each of them. OAUTHBEARER takes
// unsecured JSON Web Tokens, whoever they name.
const saslMechanisms = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"

func (o KafkaOptions) brokers() int { return cmp.Or(o.Brokers, 1) }

func (o KafkaOptions) listeners() []string {
	names := []string{listenPlain, listenController}
	if o.TLS {
		names = append(names, listenTLS)
	}
	if len(o.Users) > 0 {
		names = append(names, listenSASL)
	}
	return names
}

// properties returns the server.properties of one broker.
func (k *Kafka) properties(b *kafkaBroker) string {
	n := k.opts.brokers()
	replicas := strconv.Itoa(min(n, 3))
	inSync := strconv.Itoa(max(1, min(n, 3)-1))
	var listeners, advertised, voters []string
	for _, name := range k.opts.listeners() {
		own := address(b.ports[name])
		listeners = append(listeners, name+"://"+own)
		switch name {
		case listenController:
		case listenPlain:
			advertised = append(advertised, name+"://"+cmp.Or(b.told, own))
		default:
			advertised = append(advertised, name+"://"+own)
		}
	}
	for _, voter := range k.brokers {
		voters = append(voters, fmt.Sprintf("%d@%s", voter.id, address(voter.ports[listenController])))
	}
	props := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(int(b.id)),
		"listeners":                      strings.Join(listeners, ","),
		"advertised.listeners":           strings.Join(advertised, ","),
		"controller.listener.names":      listenController,
		"inter.broker.listener.name":     listenPlain,
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
		"controller.quorum.voters":       strings.Join(voters, ","),
		"log.dirs":                       b.dir,

		"num.partitions":                                   strconv.Itoa(cmp.Or(k.opts.Partitions, 3)),
		"auto.create.topics.enable":                        "true",
		"default.replication.factor":                       replicas,
		"min.insync.replicas":                              inSync,
		"offsets.topic.replication.factor":                 replicas,
		"offsets.topic.num.partitions":                     "1",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    inSync,
		"transaction.state.log.num.partitions":             "1",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            inSync,
		"share.coordinator.state.topic.num.partitions":     "1",

		// A consumer group starts at once.
		"group.initial.rebalance.delay.ms": "0",
		// A broker that was killed can register again, and is missed, soon (the default is 9 s).
		"broker.session.timeout.ms":    "3000",
		"broker.heartbeat.interval.ms": "500",
		// Small: the defaults reserve 128 MiB for the cleaner.
		"log.cleaner.dedupe.buffer.size": strconv.Itoa(8 << 20),
		"num.network.threads":            "2",
		"num.io.threads":                 "4",
	}
	if k.ca != nil {
		maps.Copy(props, map[string]string{
			"ssl.keystore.type":     "PEM",
			"ssl.keystore.location": k.box.path("server.pem"),
		})
	}
	if len(k.opts.Users) > 0 {
		maps.Copy(props, saslProperties(k.opts.Users))
	}
	maps.Copy(props, k.opts.Properties)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&text, "%s=%s\n", name, strings.ReplaceAll(props[name], `\`, `\\`))
	}
	return text.String()
}

func saslProperties(users []KafkaUser) map[string]string {
	const security = "org.apache.kafka.common.security"
	listener := "listener.name." + strings.ToLower(listenSASL)
	var plain strings.Builder
	plain.WriteString(security + ".plain.PlainLoginModule required")
	for _, user := range users {
		fmt.Fprintf(&plain, " user_%s=%s", user.Name, jaasQuote(user.Password))
	}
	return map[string]string{
		"sasl.enabled.mechanisms":                    saslMechanisms,
		listener + ".plain.sasl.jaas.config":         plain.String() + ";",
		listener + ".scram-sha-256.sasl.jaas.config": security + ".scram.ScramLoginModule required;",
		listener + ".scram-sha-512.sasl.jaas.config": security + ".scram.ScramLoginModule required;",
		listener + ".oauthbearer.sasl.jaas.config":   security + `.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`,
	}
}

// jaasQuote quotes a value for a JAAS configuration, whose strings are Java's.
func jaasQuote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}
