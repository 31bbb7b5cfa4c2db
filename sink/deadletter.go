package sink

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// DeadLetters says which of the events that cannot be published go to a topic
// of their own. All others stop the relay.
type DeadLetters struct {
	Topic string
	All   bool
	// Only are events by their id, or by their position as the header outbox-lsn has it.
	Only []string
}

// takes tells whether an event with that record, or that dead letter, is one of them.
func (d DeadLetters) takes(rec *record) bool {
	return d.All || slices.ContainsFunc(d.handles(rec), func(handle string) bool { return slices.Contains(d.Only, handle) })
}

// handles are what an event can be named by, the best one first.
func (DeadLetters) handles(rec *record) []string {
	var all []string
	for _, name := range []string{headerID, headerPlainID, headerDeadID, headerLSN} {
		if i := slices.IndexFunc(rec.headers, func(h header) bool { return h.name == name }); i >= 0 {
			all = append(all, string(rec.headers[i].value))
		}
	}
	return all
}

// wayOut adds to a poison error's hint how to go on without the event.
func (d DeadLetters) wayOut(err error, rec *record) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || d.Topic == "" || rec == nil {
		return err
	}
	handles := d.handles(rec)
	if len(handles) == 0 {
		return err
	}
	// Those of this start as well: they come again if what is before them was not confirmed.
	names := strings.Join(append(slices.Clone(d.Only), handles[0]), ",")
	hint := fmt.Sprintf("to send this event alone to topic %s and go on, start once with --dead-letter-id %s", d.Topic, names)
	if f.Hint != "" {
		hint = f.Hint + "; or, " + hint
	}
	return fault.New(f.Kind, f.Op, f.Err, hint)
}

// gate holds back all that is not a dead letter while there are dead letters
// that are not acknowledged, so that no later event of their keys goes out
// before (invariant 5). Kafka.mu guards it.
type gate struct {
	left int    // dead letters on their way
	life uint64 // counts resets: what was on its way before does not count any more
	// behind is what came after an event that no record could be made of. Where
	// that would have gone is not known: its dead letter waits until all that
	// came before is settled, and all that came behind waits for it.
	behind list
}

func (g *gate) closed() bool { return g != nil && g.left > 0 }

func (g *gate) open() {
	g.left = 0
	g.life++
}

func (g *gate) drain() list {
	behind := g.behind
	g.behind = list{}
	return behind
}

// gateOf returns what a topic's events wait for.
func (k *Kafka) gateOf(topic string) *gate {
	if topic == k.cfg.DeadLetters.Topic {
		return nil
	}
	return &k.gate
}

// letter is the Ack of a dead letter: it settles the event.
type letter struct {
	k     *Kafka
	ack   Ack
	life  uint64
	cause error
	// It was cut, or stamped anew, to pass.
	short, retimed bool
	id             string // of the event
	topic          string // that it was for
}

// Done is part of Ack.
func (l *letter) Done(bytes int) {
	l.k.buried(l)
	l.ack.Done(bytes)
}

// Fail is part of Ack.
func (l *letter) Fail(bytes int, err error) { l.ack.Fail(bytes, err) }

// address makes a message a dead letter: ack is its event's.
func (k *Kafka) address(m *message, ack Ack, cause error) {
	m.topic = k.topic(k.cfg.DeadLetters.Topic)
	m.ack = &letter{
		k: k, ack: ack, life: k.gate.life, cause: cause,
		id: string(m.header(headerDeadID)), topic: string(m.header(headerDeadTopic)),
	}
}

// unpublishable takes an event that no record can be made of: to the dead
// letters if it is meant to, else it is failed.
func (k *Kafka) unpublishable(ev *decoder.Event, ack Ack, cause error) {
	dead := k.builder.dead(ev, cause)
	var letter *message
	if dead != nil && k.cfg.DeadLetters.takes(dead) {
		letter = newMessage(dead, ev, nil, time.Now().UnixNano())
	}
	k.mu.Lock()
	err := k.refuses()
	switch {
	case err == nil && letter != nil:
		k.counters.queued++
		k.address(letter, ack, cause)
		k.gate.behind.push(letter)
		k.pump()
		k.mu.Unlock()
		return
	case err == nil:
		err = k.cfg.DeadLetters.wayOut(cause, dead)
		k.stop(err)
		k.counters.failures[errorName(cause)]++
	}
	k.counters.failed++
	k.mu.Unlock()
	ack.Fail(ev.Size, err)
}

// guilty is how many of n events that wait for one thing are convicted when it is refused to the first.
func (k *Kafka) guilty(t *topic, n int) int {
	if k.cfg.DeadLetters.All && t.gate != nil {
		return n
	}
	return 1
}

// convict takes the first of n refused events at the front of a partition's
// queue out of the way, or all n. What does not go to the dead letters fails,
// and the partition stands still (invariant 5).
func (k *Kafka) convict(p *partition, n int, cause error, out *settled) {
	if l, dead := p.queue.head.ack.(*letter); dead && l.amendable(cause) {
		first := p.convict(1).head // off the list, which counts its bytes
		l.amend(first, cause)
		var front list
		front.push(first)
		front.append(&p.queue)
		p.queue = front
		return
	}
	guilty := p.convict(k.guilty(p.topic, n))
	p.stuck = k.condemn(guilty, fmt.Sprintf("%s, partition %d", p.topic.name, p.id), cause, out)
}

// amendable tells whether amend may make the letter pass: once for each reason.
func (l *letter) amendable(cause error) bool {
	return tooLarge(cause) && !l.short || errors.Is(cause, sarama.ErrInvalidTimestamp) && !l.retimed
}

// amend makes the letter one that may pass though it was refused.
func (l *letter) amend(m *message, cause error) {
	if !tooLarge(cause) {
		l.retimed = true
		m.time = time.Now().UnixMilli()
		return
	}
	l.short = true
	rec := m.record()
	shorten(&rec)
	m.buf = nil // rec aliases it
	m.fill(&rec)
}

// condemn sends events to the dead letters, or fails them and returns the
// error. They were counted as queued.
func (k *Kafka) condemn(guilty list, where string, cause error, out *settled) error {
	rec := guilty.head.record()
	if _, dead := guilty.head.ack.(*letter); !dead && k.cfg.DeadLetters.takes(&rec) {
		guilty.each(func(m *message) { k.bury(m, cause) })
		return nil
	}
	m := guilty.head
	k.counters.queued -= guilty.n
	k.counters.failed += uint64(guilty.n)
	k.counters.failures[errorName(cause)]++
	err := poisoned(m.id(), m.lsn, m.seq, where, cause, hintOf(cause, m, k.codec))
	if m.topic.gate != nil {
		err = k.cfg.DeadLetters.wayOut(err, &rec)
	}
	out.fail(lists{guilty}, err)
	return err
}

// tooLarge tells whether a record was refused for its size.
func tooLarge(cause error) bool {
	return errors.Is(cause, errTooLarge) || errors.Is(cause, sarama.ErrMessageSizeTooLarge) || errors.Is(cause, sarama.ErrMessageSetSizeTooLarge)
}

// bury sends a dead letter in place of a refused event.
func (k *Kafka) bury(m *message, cause error) {
	rec := deadRecord(m.record(), m.topic.name, m.id(), cause)
	if tooLarge(cause) {
		shorten(rec)
	}
	dead := messages.Get().(*message)
	*dead = message{buf: dead.buf, size: m.size, time: m.time, committed: m.committed, published: m.published, lsn: m.lsn, seq: m.seq}
	dead.fill(rec)
	k.address(dead, m.ack, cause)
	l := dead.ack.(*letter)
	l.short = tooLarge(cause)
	if l.amendable(cause) { // its topic would refuse the event's time as well
		l.amend(dead, cause)
	}
	m.free()
	k.gate.left++
	k.queue(dead)
}

// buried notes that a dead letter is acknowledged. After the last one everything goes on.
func (k *Kafka) buried(l *letter) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counters.buried++
	k.counters.dead[errorName(l.cause)]++
	k.sayBuried(l)
	if l.life != k.gate.life {
		return
	}
	if k.gate.left--; k.gate.left > 0 {
		return
	}
	for _, t := range k.order {
		k.goOver(t) // a conviction may have been the last thing on the partitions before
		if t.waiting.n > 0 && t.grow == 0 {
			k.want(t)
		}
		for _, p := range t.partitions {
			k.schedule(p)
		}
	}
	k.pump()
}

// pump lets go of what waits behind events that no record could be made of, as far as it may.
func (k *Kafka) pump() {
	g := &k.gate
	for m := g.behind.head; m != nil && !k.closing; m = g.behind.head {
		_, dead := m.ack.(*letter)
		if dead && k.unsettled() || !dead && g.left > 0 { // Invariant 5
			return
		}
		g.behind.cut(1, 0)
		if dead {
			g.left++
		}
		k.queue(m)
	}
}

// unsettled tells whether an event that came before those behind the gate has no outcome yet.
func (k *Kafka) unsettled() bool {
	return slices.ContainsFunc(k.order, func(t *topic) bool { return t.gate != nil && (t.waiting.n > 0 || t.busy()) })
}

// sayBuried logs a dead letter, unless it has just logged one.
func (k *Kafka) sayBuried(l *letter) {
	const event = "outbox.dead_letter"
	if unlogged, due := k.due(event, time.Now()); due {
		args := []any{"id", l.id, "topic", l.topic, "dead_letter_topic", k.cfg.DeadLetters.Topic, "error", l.cause}
		k.log.Warn(event, append(args, unlogged...)...)
	}
}
