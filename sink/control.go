package sink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// control asks the cluster, on a connection of its own, for a producer id and
// for who leads what. It ends when the sink is closed.
func (k *Kafka) control() {
	c := &controller{k: k}
	defer c.disconnect()
	tries := 0
	for {
		asked, work := k.todo()
		if !work {
			if tries = 0; !k.pause(k.tune.refresh, true) {
				k.wantAll()
			}
			if k.ended() {
				return
			}
			continue
		}
		more, err := c.round(asked)
		switch {
		case err != nil:
			tries++
			k.unreachable(err)
			k.pause(backoff(tries, k.tune.minBackoff, k.tune.maxAskBackoff), false)
		case more: // a topic that is not there yet, a leader that is not elected yet
			tries++
			d := backoff(tries, k.tune.shortBackoff, k.tune.maxAskBackoff)
			least := min(d, k.tune.shortBackoff)
			k.pause(least, false)
			if k.pause(d-least, true) {
				tries = 0 // another topic need not wait for this one, nor as long
			}
		default:
			tries = 0
		}
		if k.ended() {
			return
		}
	}
}

// ended tells whether the sink is closed.
func (k *Kafka) ended() bool {
	select {
	case <-k.quit:
		return true
	default:
		return false
	}
}

// pause waits for d, for the end, or, if it may be woken, for something to do.
// It tells whether it was cut short.
func (k *Kafka) pause(d time.Duration, wakeable bool) bool {
	wake := k.wake
	if !wakeable {
		wake = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-wake:
		return true
	case <-k.quit:
		return true
	}
}

func (k *Kafka) wakeControl() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// want makes a topic's metadata be asked for, unless a request is due anyway.
// A topic that just had no answer is asked for again when the backoff is over.
func (k *Kafka) want(t *topic) {
	if t.wanted == t.asked {
		t.wanted++
		if !t.unready {
			k.wakeControl()
		}
	}
}

func (k *Kafka) wantAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.order {
		t.limited = false
		k.want(t)
	}
}

// todo returns the topics to ask for, and whether there is anything to ask at all.
func (k *Kafka) todo() (asked map[string]uint64, work bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.order {
		if t.answered < t.wanted {
			if asked == nil {
				asked = make(map[string]uint64)
			}
			t.asked = t.wanted
			asked[t.name] = t.wanted
		}
	}
	return asked, asked != nil || !k.armed && k.fenced == nil
}

// controller owns the control connection.
type controller struct {
	k    *Kafka
	conn *sarama.Broker
	last string // the address that answered last
}

// round asks for what is wanted; more is true when an answer is not complete.
func (c *controller) round(asked map[string]uint64) (more bool, err error) {
	k := c.k
	k.mu.Lock()
	arm := !k.armed && k.fenced == nil
	k.mu.Unlock()
	if arm {
		if err := c.arm(); err != nil {
			return false, err
		}
	}
	if len(asked) == 0 {
		return false, nil
	}
	if err := c.learn(asked); err != nil {
		return false, err
	}
	resp, missing, more, err := c.look(asked)
	if err != nil || len(missing) == 0 || k.cfg.CreateTopics.Partitions == 0 {
		return more, err
	}
	if err := c.create(resp, missing); err != nil {
		return true, err
	}
	_, _, more, err = c.look(asked) // they may be there at once
	return more, err
}

// look asks for topics' metadata and takes it. missing are those that do not
// exist; more tells whether to ask again soon.
func (c *controller) look(asked map[string]uint64) (resp *sarama.MetadataResponse, missing []string, more bool, err error) {
	k := c.k
	req := sarama.NewMetadataRequest(k.conf.Version, slices.Sorted(maps.Keys(asked)))
	req.AllowAutoTopicCreation = k.cfg.CreateTopics.Partitions == 0
	if err := c.ask(func(b *sarama.Broker) (err error) {
		resp, err = b.GetMetadata(req)
		return err
	}); err != nil {
		return nil, nil, false, err
	}
	missing, more = k.apply(resp, asked)
	return resp, missing, more, nil
}

// arm gets a producer id.
func (c *controller) arm() error {
	k := c.k
	var resp *sarama.InitProducerIDResponse
	if err := c.ask(func(b *sarama.Broker) (err error) {
		resp, err = b.InitProducerID(&sarama.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1})
		return err
	}); err != nil {
		return err
	}
	if resp.Err != sarama.ErrNoError {
		return fmt.Errorf("get a producer id: %w", resp.Err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.producer = producer{id: resp.ProducerID, epoch: resp.ProducerEpoch}
	k.armed = true
	k.reached()
	for _, s := range k.senders {
		s.poke()
	}
	return nil
}

// ask calls f with a connection: the one that is open, or a new one to each
// broker in turn until one answers. The error is the most telling one.
func (c *controller) ask(f func(*sarama.Broker) error) error {
	if c.conn != nil {
		if err := f(c.conn); err == nil {
			c.k.heard()
			return nil
		}
		c.disconnect() // it may just have idled for too long
	}
	var worst error
	for _, addr := range c.k.addresses(c.last) {
		if c.k.ended() {
			return ErrClosed
		}
		err := c.try(addr, f)
		if err == nil {
			c.k.heard()
			return nil
		}
		err = fmt.Errorf("broker at %s: %w", addr, err)
		if worst == nil || refusal(err, c.k.cfg) != nil && refusal(worst, c.k.cfg) == nil {
			worst = err
		}
	}
	return worst
}

func (c *controller) try(addr string, f func(*sarama.Broker) error) error {
	conn, err := c.k.open(addr)
	if err == nil {
		if err = f(conn); err == nil {
			c.conn, c.last = conn, addr
			return nil
		}
		_ = conn.Close()
	}
	return c.k.explain(addr, err)
}

func (c *controller) disconnect() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// open connects to a broker.
func (k *Kafka) open(addr string) (*sarama.Broker, error) {
	b := sarama.NewBroker(addr)
	if err := b.Open(k.conf); err != nil {
		return nil, err
	}
	if ok, err := b.Connected(); !ok {
		if err == nil {
			err = sarama.ErrNotConnected
		}
		return nil, err
	}
	return b, nil
}

// addresses returns where to ask: first the one that answered last, then the
// brokers that the cluster named, then those of the configuration.
func (k *Kafka) addresses(last string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	if last != "" {
		all = append(all, last)
	}
	for _, addr := range k.brokers {
		all = append(all, addr)
	}
	all = append(all, k.cfg.Brokers...)
	seen := make(map[string]bool, len(all))
	return slices.DeleteFunc(all, func(a string) bool {
		was := seen[a]
		seen[a] = true
		return was
	})
}

// create makes topics that do not exist. What the controller says about one of
// them is noted; the error is of the question as a whole.
func (c *controller) create(resp *sarama.MetadataResponse, missing []string) error {
	k := c.k
	answer, err := c.requestTopics(resp, missing, false)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range missing {
		delete(k.uncreated, name)
		switch e := answer.TopicErrors[name]; {
		case e == nil, e.Err == sarama.ErrTopicAlreadyExists:
		case e.Err == sarama.ErrNoError:
			k.log.Info("outbox.topic_created", "topic", name, "partitions", k.cfg.CreateTopics.Partitions)
		default:
			k.uncreated[name] = e
		}
	}
	return nil
}

// requestTopics asks the controller to create topics, or only whether it would.
func (c *controller) requestTopics(resp *sarama.MetadataResponse, names []string, validateOnly bool) (*sarama.CreateTopicsResponse, error) {
	k := c.k
	replicas := k.cfg.CreateTopics.ReplicationFactor
	if replicas == 0 {
		replicas = -1 // the broker's default, KIP-464
	}
	req := &sarama.CreateTopicsRequest{
		Version: 5, Timeout: k.tune.produceTimeout, ValidateOnly: validateOnly, TopicDetails: make(map[string]*sarama.TopicDetail),
	}
	for _, name := range names {
		req.TopicDetails[name] = &sarama.TopicDetail{NumPartitions: k.cfg.CreateTopics.Partitions, ReplicationFactor: replicas}
	}
	i := slices.IndexFunc(resp.Brokers, func(b *sarama.Broker) bool { return b.ID() == resp.ControllerID })
	if i < 0 {
		return nil, errors.New("create topics: no controller is known")
	}
	conn, err := k.open(resp.Brokers[i].Addr())
	if err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := conn.CreateTopics(req)
	if err != nil {
		return nil, fmt.Errorf("create topics: %w", err)
	}
	return answer, nil
}
