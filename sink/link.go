package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// link is how the cluster has answered lately. Kafka.mu guards it.
type link struct {
	once    bool          // it has answered
	lost    bool          // the last question to the cluster as a whole got no answer
	err     error         // the last trouble
	errAt   time.Time     // when
	refusal error         // why it will not have us, while it never has
	changed chan struct{} // closed at each news for Connect
	closed  int           // rounds in a row that ended in a greeting and a closed connection
}

// Connect waits until the cluster has answered, and retries for as long as ctx
// lasts; the log says what it waits for. A refusal, such as a wrong password or
// a certificate of another name, is returned at once as fault.Usage; the end of
// ctx as fault.Unreachable.
func (k *Kafka) Connect(ctx context.Context) error {
	for {
		k.mu.Lock()
		once, refused, last, changed := k.link.once, k.link.refusal, k.link.err, k.link.changed
		k.mu.Unlock()
		switch {
		case once:
			return nil
		case refused != nil:
			return refused
		}
		select {
		case <-changed:
		case <-k.quit:
			return ErrClosed
		case <-ctx.Done():
			if last == nil {
				last = context.Cause(ctx)
			}
			return fault.New(fault.Unreachable, "connect to kafka", last, checkBrokers)
		}
	}
}

// reached notes that the cluster took us in.
func (k *Kafka) reached() {
	if !k.link.once {
		k.log.Info("outbox.kafka_connected", "brokers", k.cfg.Brokers)
	}
	k.link.once, k.link.refusal, k.link.closed = true, nil, 0
	close(k.link.changed)
	k.link.changed = make(chan struct{})
}

// heard notes that the cluster answered the control connection.
func (k *Kafka) heard() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.link.lost && k.link.once {
		k.log.Info("outbox.kafka_reached_again")
	}
	k.link.lost = false
}

// unreachable notes that no broker answered the control connection.
func (k *Kafka) unreachable(err error) {
	if k.ended() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.link.lost = true
	if !k.link.once {
		if !errors.Is(err, errHungUp) {
			k.link.closed = 0
		} else if k.link.closed++; k.link.closed >= hangUps {
			err = fmt.Errorf("%w: %w", errLogin, err)
		}
		k.link.refusal = refusal(err, k.cfg)
		k.link.err, k.link.errAt = err, time.Now()
		close(k.link.changed)
		k.link.changed = make(chan struct{})
		if k.link.refusal != nil {
			return // Connect returns it
		}
	}
	hint := checkBrokers
	if r := refusal(err, k.cfg); r != nil {
		hint = fault.HintOf(r)
	}
	k.trouble("outbox.kafka_unreachable", err, hint)
}

// checkBrokers is the hint of a cluster that does not answer.
const checkBrokers = "check kafka.brokers, and that a broker runs and can be reached from here"

// trouble notes what went wrong, and logs it unless it has just logged
// something of that kind. An empty hint means that waiting helps.
func (k *Kafka) trouble(event string, err error, hint string) {
	now := time.Now()
	k.link.err, k.link.errAt = err, now
	unlogged, due := k.due(event, now)
	if !due {
		return
	}
	args := append([]any{"error", err}, unlogged...)
	if hint != "" {
		args = append(args, "hint", hint)
	}
	k.log.Warn(event, args...)
}

// quietTries is how many tries may fail without an operator's doing anything.
const quietTries = 3

// unanswered notes that a request got no answer: the sender rests, and looks
// up who leads its partitions now.
func (k *Kafka) unanswered(s *sender, err error, bytes int, now time.Time) {
	s.tries++
	s.retryAt = now.Add(backoff(s.tries, k.tune.minBackoff, k.tune.maxBackoff))
	if k.closing {
		return
	}
	for _, t := range k.order {
		for _, p := range t.partitions {
			if p.leader == s.id {
				k.want(t)
				p.needs = t.wanted
			}
		}
	}
	if s.tries > quietTries && bytes > 1<<20 { // a broker closes the connection without a word
		err = fmt.Errorf("%w (a request of %d bytes: the broker's socket.request.max.bytes may be below that)", err, bytes)
	}
	hint := ""
	if s.tries > quietTries { // longer than a broker takes to restart its listener, or a leader to move
		hint = "see whether that broker runs and can be reached from here; its batches are sent again for as long as it takes, to whoever leads their partitions"
	}
	k.trouble("outbox.produce_retry", err, hint)
}

// errHungUp is a broker that answered the greeting and then closed the
// connection, errLogin one that did so hangUps times in a row: one that starts
// or stops does not.
var (
	errHungUp = errors.New("the broker closed the connection after the greeting")
	errLogin  = errors.New("the broker does not let us in")
)

const hangUps = 5

// explain finds out why a connection ended without a word: the port may speak
// TLS and we do not, or the other way round.
func (k *Kafka) explain(addr string, err error) error {
	k.mu.Lock()
	once := k.link.once
	k.mu.Unlock()
	if once || !hungUp(err) && !isTimeout(err) {
		return err
	}
	speaks := k.dialer.probe(addr)
	switch {
	case speaks == speaksTLS && !k.cfg.TLS.Enabled:
		return errSpeaksTLS
	case speaks == speaksKafka && k.cfg.TLS.Enabled:
		return errSpeaksPlain
	case speaks != speaksNothing && hungUp(err):
		return fmt.Errorf("%w: %w", errHungUp, err)
	}
	return err
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, sarama.ErrNotConnected)
}

// refusal returns the error for the user when the cluster will never have us
// with this configuration; nil when waiting may help.
func refusal(err error, cfg KafkaConfig) error {
	refuse := func(hint string) error { return fault.New(fault.Usage, "connect to kafka", err, hint) }
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		who := "the broker's certificate"
		if unknown.Cert != nil {
			who += " (issued by " + unknown.Cert.Issuer.String() + ")"
		}
		return refuse(who + " is signed by an authority that is not trusted here: name its certificate in kafka.tls.ca_file")
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return refuse(fmt.Sprintf("the certificate is not for %s: use a name that it has in kafka.brokers, or set kafka.tls.server_name", host.Host))
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return refuse("renew the broker's certificate, or set this machine's clock right")
		}
		return refuse("the broker's certificate is not fit for a server")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return refuse("the port does not speak TLS: remove kafka.tls.enabled and what goes with it, or use the port of a TLS listener")
	}
	switch {
	case errors.Is(err, errSpeaksTLS):
		return refuse("set kafka.tls.enabled, or use the port of a listener without TLS")
	case errors.Is(err, errSpeaksPlain):
		return refuse("remove kafka.tls.enabled and what goes with it, or use the port of a TLS listener")
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed):
		return refuse(fmt.Sprintf("check kafka.sasl.username and kafka.sasl.password: the broker does not know user %q with that password under %s", cfg.SASL.User, cfg.SASL.Mechanism))
	case errors.Is(err, sarama.ErrUnsupportedSASLMechanism):
		return refuse(fmt.Sprintf("the listener does not offer %s: choose another kafka.sasl.mechanism", cfg.SASL.Mechanism))
	case errors.Is(err, errLogin) && cfg.SASL.Mechanism == "":
		return refuse("the listener seems to demand SASL: set kafka.sasl.mechanism, kafka.sasl.username and kafka.sasl.password_file, or use another port")
	case errors.Is(err, errLogin):
		return refuse(fmt.Sprintf("check kafka.sasl.mechanism, kafka.sasl.username and kafka.sasl.password: the listener may not offer %s, or not know user %q with that password", cfg.SASL.Mechanism, cfg.SASL.User))
	case errors.Is(err, sarama.ErrIllegalSASLState):
		return refuse("the listener does not use SASL: remove kafka.sasl.mechanism and what goes with it, or use another port")
	case errors.Is(err, sarama.ErrClusterAuthorizationFailed):
		return refuse("grant the relay's user WRITE on its topics, or IDEMPOTENT_WRITE on the cluster")
	case strings.Contains(err.Error(), "remote error: tls:"): // the alert's type is not exported
		return refuse("the broker refused the TLS connection: it may want a client certificate (kafka.tls.cert_file and kafka.tls.key_file), or another one")
	}
	return nil
}
