package devenv

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

// KfakeOptions says what the in-process Kafka is like. The zero value will do.
type KfakeOptions struct {
	Brokers    int         // 0: one
	Partitions int         // of topics that are created without a number; 0: three
	Options    []kfake.Opt // applied last: SASL, TLS, seeded topics, broker settings
}

// Kfake is an in-process Kafka on loopback. Cluster injects faults.
type Kfake struct {
	Cluster *kfake.Cluster
}

// StartKfake starts an in-process Kafka. It creates topics when a client asks for them.
func StartKfake(opts KfakeOptions) (*Kfake, error) {
	var err error
	for range 5 {
		ports := make([]int, cmp.Or(opts.Brokers, 1))
		for i := range ports {
			if ports[i], err = choosePort(); err != nil {
				return nil, fmt.Errorf("start kfake: %w", err)
			}
		}
		var cluster *kfake.Cluster
		cluster, err = kfake.NewCluster(append([]kfake.Opt{
			kfake.Ports(ports...),
			kfake.AllowAutoTopicCreation(),
			kfake.DefaultNumPartitions(cmp.Or(opts.Partitions, 3)),
		}, opts.Options...)...)
		if err == nil {
			return &Kfake{Cluster: cluster}, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, fmt.Errorf("start kfake: %w", err)
}

// Addrs returns the brokers' host:port pairs.
func (k *Kfake) Addrs() []string { return k.Cluster.ListenAddrs() }

// Close ends the brokers and forgets their records.
func (k *Kfake) Close() { k.Cluster.Close() }
