package devenv

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"syscall"
)

// formatted returns a directory with what format writes, which takes a JVM start, from the cache.
func (k *Kafka) formatted(ctx context.Context) (string, error) {
	return cached(ctx, "kafka-"+kafkaVersion+"-format-"+digest(k.opts.Users), func(dir string) error {
		return k.format(ctx, dir)
	})
}

// format fills a directory with what StorageTool writes, without meta.properties: the
// bootstrap records, which hold the users.
func (k *Kafka) format(ctx context.Context, dir string) error {
	// Ports do not matter here, and no broker's directory is made: only the first's.
	b := &kafkaBroker{id: 1, dir: k.box.path("format"), ports: map[string]int{}}
	for i, name := range k.opts.listeners() {
		b.ports[name] = firstPort + i
	}
	plain := &Kafka{opts: KafkaOptions{}, box: k.box, brokers: []*kafkaBroker{b}}
	properties := k.box.path("format.properties")
	if err := k.box.write(properties, []byte(plain.properties(b))); err != nil {
		return err
	}
	args := []string{"format", "--cluster-id", newUUID(), "--config", properties}
	for _, user := range k.opts.Users {
		credentials, err := scramCredentials(user)
		if err != nil {
			return err
		}
		for _, credential := range credentials {
			args = append(args, "--add-scram", credential)
		}
	}
	if err := k.box.run(ctx, k.java.path, k.jvmArgs("", "kafka.tools.StorageTool", args...)...); err != nil {
		return err
	}
	const bootstrap = "bootstrap.checkpoint"
	records, err := os.ReadFile(filepath.Join(b.dir, bootstrap))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, bootstrap), records, 0o644)
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// classArchive returns a file with the classes that a broker loads, which saves a second or
// more of each start (https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html).
// It takes one broker's life to make. Without it everything works as well, so an error is
// no matter: the answer is "" then.
func classArchive(ctx context.Context, java java, home string) string {
	const file = "classes.jsa"
	dir, err := cached(ctx, "kafka-"+kafkaVersion+"-classes-"+digest(java.version, home), func(dir string) error {
		k, err := startKafka(ctx, KafkaOptions{}, filepath.Join(dir, file))
		if err != nil {
			return err
		}
		proc := k.brokers[0].proc
		_ = proc.signal(syscall.SIGTERM) // it writes the file at its end
		select {
		case <-proc.done:
		case <-ctx.Done():
		}
		if err := k.Close(); err != nil {
			return err
		}
		_, err = os.Stat(filepath.Join(dir, file))
		return err
	})
	if err != nil {
		return ""
	}
	return filepath.Join(dir, file)
}

// scramCredentials returns a user as StorageTool takes it, once per mechanism. The password
// is salted here (RFC 5802), for the tool's syntax has no way to quote one.
func scramCredentials(user KafkaUser) ([]string, error) {
	const iterations = 4096 // the least that Kafka takes
	var list []string
	for name, hash := range map[string]func() hash.Hash{"SCRAM-SHA-256": sha256.New, "SCRAM-SHA-512": sha512.New} {
		salt := make([]byte, 16)
		_, _ = rand.Read(salt) // never fails
		salted, err := pbkdf2.Key(hash, user.Password, salt, iterations, hash().Size())
		if err != nil {
			return nil, err
		}
		list = append(list, fmt.Sprintf("%s=[name=%s,iterations=%d,salt=%q,saltedpassword=%q]", name, user.Name, iterations,
			base64.StdEncoding.EncodeToString(salt), base64.StdEncoding.EncodeToString(salted)))
	}
	return list, nil
}
