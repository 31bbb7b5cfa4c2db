package sink

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// askedAtOnce are the most topics of one request, so that each is answered soon.
const askedAtOnce = 200

// control asks the cluster, on a connection of its own, for a producer id and
// for who leads what. It ends when the sink is closed.
func (k *Kafka) control() {
	c := &controller{k: k}
	defer c.disconnect()
	tries := 0
	refreshAt := time.Now().Add(k.tune.refresh)
	for !k.ended() {
		if now := time.Now(); !now.Before(refreshAt) { // whatever else is being asked for
			k.wantAll()
			refreshAt = now.Add(k.tune.refresh)
		}
		asked, wait := k.todo()
		if wait > 0 {
			k.pause(min(wait, time.Until(refreshAt)), true)
			continue
		}
		more, err := c.round(asked)
		switch {
		case err != nil:
			tries++
			k.unreachable(err)
			k.pause(backoff(tries, k.tune.minBackoff, k.tune.maxAskBackoff), false)
			continue
		case more: // in a burst of new topics, those that come meanwhile are asked for together
			k.pause(k.tune.shortBackoff, false)
		}
		tries = 0
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
func (k *Kafka) pause(d time.Duration, wakeable bool) {
	wake := k.wake
	if !wakeable {
		wake = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-k.quit:
	}
}

func (k *Kafka) wakeControl() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// want makes a topic's metadata be asked for, unless a request is due anyway.
// A topic that is not ready is asked for again when its backoff is over.
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

// todo returns the topics to ask for, or how long there is nothing to ask.
func (k *Kafka) todo() (asked []*topic, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	next := now + int64(time.Hour)
	for _, t := range k.order {
		switch {
		case t.answered == t.wanted:
		case t.askAt > now:
			next = min(next, t.askAt)
		default:
			t.asked = t.wanted
			asked = append(asked, t)
		}
	}
	if len(asked) > 0 || !k.armed && k.fenced == nil {
		return asked, 0
	}
	return nil, time.Duration(next - now)
}

// pace sets when those of the topics that are not ready, or whose limit the
// broker does not know yet, are asked for again. It tells whether there are such.
func (k *Kafka) pace(asked []*topic) (more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for _, t := range asked {
		if !t.unready && t.limited {
			t.tries, t.askAt = 0, 0
			continue
		}
		more = true
		d := max(2, int64(min(k.tune.maxAskBackoff, k.tune.shortBackoff<<min(t.tries, 20))))
		t.tries++
		t.askAt = now + d
		t.askAt += d/2 - t.askAt%(d/2) // on a common beat, so that one request asks for many
	}
	return more
}

// controller owns the control connection.
type controller struct {
	k    *Kafka
	conn *sarama.Broker
	last string // the address that answered last
}

// round asks for what is wanted; more is true when a topic is not ready.
func (c *controller) round(asked []*topic) (more bool, err error) {
	k := c.k
	k.mu.Lock()
	arm := !k.armed && k.fenced == nil
	awaited, idle := sortOut(asked)
	k.mu.Unlock()
	if arm {
		if err := c.arm(); err != nil {
			return false, err
		}
	}
	resp, missing, err := c.look(awaited, k.cfg.CreateTopics.Partitions == 0)
	if err != nil {
		return false, err
	}
	if _, _, err := c.look(idle, false); err != nil { // one that was deleted must not come back
		return false, err
	}
	if k.cfg.CreateTopics.Partitions > 0 && len(missing) > 0 {
		if err := c.create(resp, missing); err != nil {
			return false, err
		}
		if _, _, err := c.look(missing, false); err != nil { // they may be there at once
			return false, err
		}
	}
	return k.pace(asked), nil
}

// look asks for topics' metadata and takes it. missing are those that something
// waits for and that do not exist; resp is the last answer.
func (c *controller) look(topics []*topic, autoCreate bool) (resp *sarama.MetadataResponse, missing []*topic, err error) {
	k := c.k
	for some := range slices.Chunk(topics, askedAtOnce) {
		if err := c.learn(some); err != nil {
			return nil, nil, err
		}
		req := sarama.NewMetadataRequest(k.conf.Version, names(some))
		req.AllowAutoTopicCreation = autoCreate
		if err := c.ask(func(b *sarama.Broker) (err error) {
			resp, err = b.GetMetadata(req)
			return err
		}); err != nil {
			return nil, nil, err
		}
		missing = append(missing, k.apply(resp, some)...)
	}
	return resp, missing, nil
}

func names(topics []*topic) []string {
	all := make([]string, len(topics))
	for i, t := range topics {
		all[i] = t.name
	}
	return all
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
	if err := b.Open(k.login()); err != nil {
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

// login returns the configuration of a connection, with the password as it is now.
func (k *Kafka) login() *sarama.Config {
	if k.cfg.RereadSASL == nil {
		return k.conf
	}
	password, err := k.cfg.RereadSASL()
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		const event = "outbox.secret_unreadable"
		if unlogged, due := k.due(event, time.Now()); due {
			k.log.Warn(event, append([]any{"setting", "kafka.sasl.password_file", "error", err.Error(), "hint", "the relay goes on with what it read before"}, unlogged...)...)
		}
		return k.conf
	}
	conf := *k.conf
	conf.Net.SASL.Password = password
	return &conf
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
func (c *controller) create(resp *sarama.MetadataResponse, missing []*topic) error {
	for some := range slices.Chunk(missing, askedAtOnce) {
		answer, err := c.requestTopics(resp, names(some), false)
		if err != nil {
			return err
		}
		c.k.created(some, answer)
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
