package devenv

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// KafkaOptions says what the cluster is like. The zero value will do.
type KafkaOptions struct {
	Brokers    int // 0: one. All are controllers too.
	Partitions int // of topics that are created without a number; 0: three
	// Properties go to every broker's server.properties, over the defaults.
	Properties map[string]string
	// TLS adds a listener with TLS and without authentication: TLSBrokers.
	TLS bool
	// Users add a listener with TLS and SASL: SASLBrokers.
	Users []KafkaUser
	// Advertise returns the address that clients of the plain listener are told, such as that of a
	// proxy in front of it; single broker only. It is called with the listener's own address before
	// the broker starts, and again when another port has to be tried.
	Advertise func(address string) string
}

// KafkaUser can log in with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
type KafkaUser struct {
	Name     string // letters, digits and _
	Password string
}

// Kafka is a throw-away Apache Kafka cluster (KRaft) on loopback. Brokers are named by their
// node ids, 1 up. Its methods can be called from any goroutine, but one at a time takes effect.
type Kafka struct {
	opts    KafkaOptions
	java    java
	home    string // with the jars
	archive string // of loaded classes; empty: none
	box     *sandbox
	ca      *Authority // nil without TLS

	mu      sync.Mutex
	brokers []*kafkaBroker
	lastLog string // after Close
}

type kafkaBroker struct {
	id    int32
	dir   string         // its log.dirs
	ports map[string]int // by listener
	told  string         // what clients of the plain listener are told to connect to; "" for its own address
	proc  *process       // of the last start; nil before
}

func (b *kafkaBroker) log() string { return fmt.Sprintf("kafka-%d.log", b.id) }

// StartKafka starts a cluster and returns when all brokers take requests. ctx bounds the start
// (and the download before the very first one), not the cluster's life: Close it. The error is
// ErrNoJava on a machine without Java or Maven.
func StartKafka(ctx context.Context, opts KafkaOptions) (*Kafka, error) {
	k, err := startKafka(ctx, opts, "")
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	return k, nil
}

// startKafka starts a cluster. With an archive, it is the one that records it.
func startKafka(ctx context.Context, opts KafkaOptions, record string) (*Kafka, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if opts.Advertise != nil && opts.brokers() > 1 {
		return nil, errors.New("an address to advertise is for a single broker")
	}
	java, err := findJava()
	if err != nil {
		return nil, err
	}
	k := &Kafka{opts: opts, java: java}
	if k.home, err = kafkaHome(ctx, java); err != nil {
		return nil, err
	}
	if record == "" {
		k.archive = classArchive(ctx, java, k.home)
	}
	if k.box, err = newSandbox("kafka", nil); err != nil {
		return nil, err
	}
	if err = k.prepareFiles(ctx); err == nil {
		err = k.startAll(ctx, record)
	}
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// prepareFiles formats the brokers' directories and makes the server's certificate.
func (k *Kafka) prepareFiles(ctx context.Context) error {
	format, err := k.formatted(ctx)
	if err != nil {
		return err
	}
	cluster := newUUID()
	for id := range int32(k.opts.brokers()) {
		b := &kafkaBroker{id: id + 1, dir: k.box.path(fmt.Sprintf("data-%d", id+1))}
		if err := os.CopyFS(b.dir, os.DirFS(format)); err != nil {
			return err
		}
		meta := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n", cluster, b.id, newUUID())
		if err := os.WriteFile(filepath.Join(b.dir, "meta.properties"), []byte(meta), 0o600); err != nil {
			return err
		}
		k.brokers = append(k.brokers, b)
	}
	if !k.opts.TLS && len(k.opts.Users) == 0 {
		return nil
	}
	if k.ca, err = NewAuthority(); err != nil {
		return err
	}
	cert, key, err := k.ca.Issue("localhost", loopback)
	if err != nil {
		return err
	}
	return errors.Join(
		k.box.write(k.box.path("server.pem"), append(key, cert...)),
		k.box.write(k.CAFile(), k.ca.PEM()),
	)
}

// startAll starts the brokers, all at the same time, for they wait for each other; with other
// ports when somebody takes a chosen one first.
func (k *Kafka) startAll(ctx context.Context, record string) error {
	var err error
	for range 5 {
		if err = k.choosePorts(); err != nil {
			return err
		}
		errs := make([]error, len(k.brokers))
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for i, b := range k.brokers {
			wg.Go(func() {
				if errs[i] = k.startBroker(ctx, b, record); errs[i] != nil {
					cancel() // the others would wait for it
				}
			})
		}
		wg.Wait()
		cancel()
		err = errors.Join(errs...)
		if !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// choosePorts gives each listener a port. None is bound yet, so the same one may be offered
// twice, which Kafka takes for a mistake in its configuration.
func (k *Kafka) choosePorts() error {
	chosen := map[int]bool{}
	for _, b := range k.brokers {
		b.ports = make(map[string]int)
		for _, name := range k.opts.listeners() {
			port, err := choosePort()
			for err == nil && chosen[port] {
				port, err = choosePort()
			}
			if err != nil {
				return err
			}
			chosen[port] = true
			b.ports[name] = port
		}
		if k.opts.Advertise != nil {
			b.told = k.opts.Advertise(address(b.ports[listenPlain]))
		}
	}
	return nil
}

// startBroker starts one broker and waits until it says that it has started: the controller
// has let it in by then.
func (k *Kafka) startBroker(ctx context.Context, b *kafkaBroker, record string) error {
	properties := k.box.path(fmt.Sprintf("server-%d.properties", b.id))
	if err := k.box.write(properties, []byte(k.properties(b))); err != nil {
		return err
	}
	log := k.box.path(b.log())
	from := logSize(log)
	proc, err := k.box.start(syscall.SIGKILL, b.log(), k.java.path, k.jvmArgs(record, "kafka.Kafka", properties)...)
	if err != nil {
		return err
	}
	b.proc = proc
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
		if !proc.running() {
			return false, fmt.Errorf("broker %d ended: %w", b.id, proc.err)
		}
		return strings.Contains(logFrom(log, from), "Kafka Server started"), nil
	})
	if err == nil {
		return nil
	}
	end(proc, syscall.SIGKILL)
	said := logFrom(log, from)
	if strings.Contains(said, "Address already in use") {
		err = errPortTaken
	}
	return fmt.Errorf("broker %d: %w; its log:\n%s", b.id, err, said)
}

// jvmArgs returns the arguments for a small JVM that starts fast. It writes nothing outside of
// the sandbox: hsperfdata and unpacked native libraries would go to /tmp.
func (k *Kafka) jvmArgs(record, class string, args ...string) []string {
	const simple = "-Dorg.slf4j.simpleLogger."
	jvm := []string{
		"-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true", "-Djava.io.tmpdir=" + k.box.dir,
		simple + "defaultLogLevel=warn", simple + "log.kafka.server.KafkaRaftServer=info",
		simple + "showDateTime=true", simple + "dateTimeFormat=HH:mm:ss.SSS", simple + "showShortLogName=true",
	}
	switch {
	case record != "":
		jvm = append(jvm, "-XX:ArchiveClassesAtExit="+record)
	case k.archive != "":
		jvm = append(jvm, "-XX:SharedArchiveFile="+k.archive)
	}
	jvm = append(jvm, "-cp", filepath.Join(k.home, "*"), class)
	return append(jvm, args...)
}

func newUUID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[0] &= 0x7f           // Kafka's own ids do not begin with '-' either
	return base64.RawURLEncoding.EncodeToString(id[:])
}
