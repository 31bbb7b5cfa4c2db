package devenv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Brokers returns the host:port pairs that take connections without TLS.
func (k *Kafka) Brokers() []string { return k.addresses(listenPlain) }

// TLSBrokers returns the host:port pairs that want TLS: KafkaOptions.TLS.
func (k *Kafka) TLSBrokers() []string { return k.addresses(listenTLS) }

// SASLBrokers returns the host:port pairs that want TLS and SASL: KafkaOptions.Users.
func (k *Kafka) SASLBrokers() []string { return k.addresses(listenSASL) }

func (k *Kafka) addresses(listener string) []string {
	var list []string
	for _, b := range k.brokers {
		if port, ok := b.ports[listener]; ok {
			list = append(list, address(port))
		}
	}
	return list
}

// CAFile is a PEM file with the certificate of the authority that signed the brokers' one, for
// localhost and 127.0.0.1. It is there with TLS or Users, until Close.
func (k *Kafka) CAFile() string { return k.box.path("ca.pem") }

// CA is the authority that signed the brokers' certificate; nil without TLS or Users.
func (k *Kafka) CA() *Authority { return k.ca }

// Stop shuts all brokers down in order, at the same time, and returns when they have ended.
func (k *Kafka) Stop(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range k.brokers {
		if b.proc.running() {
			_ = b.proc.signal(syscall.SIGTERM)
		}
	}
	for _, b := range k.brokers {
		if err := b.ended(ctx); err != nil {
			return err
		}
	}
	return nil
}

// StopBroker shuts one broker down in order: it hands its partitions over first.
func (k *Kafka) StopBroker(ctx context.Context, id int32) error {
	return k.with(id, "stop", func(b *kafkaBroker) error {
		if !b.proc.running() {
			return nil
		}
		_ = b.proc.signal(syscall.SIGTERM)
		return b.ended(ctx)
	})
}

func (b *kafkaBroker) ended(ctx context.Context) error {
	if b.proc == nil {
		return nil
	}
	select {
	case <-b.proc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broker %d is still there: %w", b.id, context.Cause(ctx))
	}
}

// Kill ends a broker with SIGKILL.
func (k *Kafka) Kill(id int32) error {
	return k.with(id, "kill", func(b *kafkaBroker) error {
		if !b.proc.running() {
			return nil
		}
		err := b.proc.signal(syscall.SIGKILL)
		<-b.proc.done
		return err
	})
}

// Start starts a stopped or killed broker again, with the same ports and data, and returns
// when it takes requests.
func (k *Kafka) Start(ctx context.Context, id int32) error {
	return k.with(id, "start", func(b *kafkaBroker) error {
		if b.proc.running() {
			return errors.New("it runs already")
		}
		return k.startBroker(ctx, b, "")
	})
}

// Pause stops a broker's process (SIGSTOP): connections stay open and answer nothing.
func (k *Kafka) Pause(id int32) error { return k.signal(id, "pause", sigStop) }

// Continue undoes Pause.
func (k *Kafka) Continue(id int32) error { return k.signal(id, "continue", sigCont) }

func (k *Kafka) signal(id int32, op string, sig syscall.Signal) error {
	return k.with(id, op, func(b *kafkaBroker) error {
		if !b.proc.running() {
			return errors.New("it does not run")
		}
		return b.proc.signal(sig)
	})
}

func (k *Kafka) with(id int32, op string, do func(*kafkaBroker) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range k.brokers {
		if b.id != id {
			continue
		}
		if err := do(b); err != nil {
			return fmt.Errorf("%s broker %d: %w", op, id, err)
		}
		return nil
	}
	return fmt.Errorf("%s broker %d: there is none", op, id)
}

// Close ends all brokers at once and removes everything of them. Closing twice does nothing.
func (k *Kafka) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range k.brokers {
		if b.proc.running() {
			end(b.proc, syscall.SIGKILL)
		}
	}
	if log := k.log(); log != "" {
		k.lastLog = log
	}
	return k.box.close()
}

// Log returns the end of each broker's log; also after Close.
func (k *Kafka) Log() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if log := k.log(); log != "" {
		return log
	}
	return k.lastLog
}

func (k *Kafka) log() string {
	var all strings.Builder
	for _, b := range k.brokers {
		if log := tail(k.box.path(b.log())); log != "" {
			fmt.Fprintf(&all, "broker %d:\n%s", b.id, log)
		}
	}
	return all.String()
}
