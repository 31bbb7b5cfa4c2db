package e2e_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// badNetwork is a network between two that can be made to work badly.
type badNetwork struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
}

func newBadNetwork(t *testing.T, target string) *badNetwork {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics have a log of their own, on standard error
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	b := &badNetwork{t: t, proxy: toxiproxy.NewProxy(server, target, "127.0.0.1:0", target)}
	if err := b.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.proxy.Stop)
	return b
}

func (b *badNetwork) address() string { return b.proxy.Listen }

// toxic is what makes it bad: one of
// https://github.com/Shopify/toxiproxy#toxics, its attributes as JSON.
type toxic struct {
	kind, attributes string
	upstream         bool // what the relay sends; else what it gets
}

// both is a toxic in both directions.
func both(kind, attributes string) []toxic {
	return []toxic{{kind, attributes, true}, {kind, attributes, false}}
}

func (b *badNetwork) poison(toxics []toxic) {
	b.t.Helper()
	for i, x := range toxics {
		stream := "downstream"
		if x.upstream {
			stream = "upstream"
		}
		text := fmt.Sprintf(`{"name": "%d", "type": %q, "stream": %q, "attributes": {%s}}`, i, x.kind, stream, x.attributes)
		if _, err := b.proxy.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
			b.t.Fatalf("%s: %v", text, err)
		}
	}
}

func (b *badNetwork) heal() { b.proxy.Toxics.ResetToxics(context.Background()) }

// around goes to the broker itself, where a proxy is what it advertises.
type around struct{ proxy, broker string }

// Dial is that of sarama's proxies.
func (a around) Dial(network, address string) (net.Conn, error) {
	if address == a.proxy {
		address = a.broker
	}
	return net.Dial(network, address)
}

func (a around) configure(c *sarama.Config) {
	c.Net.Proxy.Enable, c.Net.Proxy.Dialer = true, a
}
