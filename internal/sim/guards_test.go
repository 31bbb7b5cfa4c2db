package sim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGuardsStand holds the guards to where they are: TestLongGuards, which
// takes them away, takes long.
func TestGuardsStand(t *testing.T) {
	t.Parallel()
	for _, g := range guards {
		text, err := os.ReadFile(filepath.Join("../..", g.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{g.line, g.more[0]} {
			if n := countLines(string(text), line); n != 1 && line != "" {
				t.Errorf("%s: %s has the line %q %d times", g.name, g.file, line, n)
			}
		}
	}
}

// countLines counts the lines of a text that are line without the space around it.
func countLines(text, line string) (n int) {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			n++
		}
	}
	return n
}

// guard is a place in the production code that keeps a promise, and what takes
// it away: one line that stands in the file exactly once.
type guard struct {
	name string
	file string    // from the module's root
	line string    // without the space around it
	with string    // "" removes it
	also string    // declarations that with needs, at the end of the file
	more [2]string // another line, and what takes its place; "" is none
	by   string    // package and test that notice; "" is the simulator
}

var guards = []guard{
	// checkpoint: what may be confirmed
	{name: "a transaction is complete only without unacknowledged events", file: "checkpoint/tracker.go",
		line: "func (x *Tx) complete() bool { return x.ended && x.events == 0 && !x.failed }",
		with: "func (x *Tx) complete() bool { return x.ended && x.events <= 1 && !x.failed }"},
	{name: "a failed transaction never completes", file: "checkpoint/tracker.go",
		line: "func (x *Tx) complete() bool { return x.ended && x.events == 0 && !x.failed }",
		with: "func (x *Tx) complete() bool { return x.ended && x.events == 0 }"},
	{name: "only the head is confirmed", file: "checkpoint/tracker.go",
		line: "if x == t.head {", with: "if x == t.head || x == t.tail {"},
	{name: "a keepalive waits for what is open before it", file: "checkpoint/tracker.go",
		line: "case t.tail == nil:", with: "case t.tail == nil || t.tail.ended:"},
	{name: "a keepalive inside of a transaction does not count", file: "checkpoint/tracker.go",
		line: "case t.open():", with: "case t.open():\nt.confirm(lsn)"},
	{name: "the window is enforced", file: "checkpoint/window.go",
		line: "return w.events.Load() >= w.maxEvents || w.bytes.Load() >= w.maxBytes",
		with: "return w.events.Load() > w.maxEvents || w.bytes.Load() >= w.maxBytes"},
	{name: "the window counts bytes", file: "checkpoint/window.go",
		line: "return w.events.Load() >= w.maxEvents || w.bytes.Load() >= w.maxBytes",
		with: "return w.events.Load() >= w.maxEvents"},

	// cdc: the line
	{name: "what was received is not what is confirmed", file: "cdc/stream.go",
		line: "flush = min(flush, s.received)", with: "flush = max(flush, s.received)"},
	{name: "a report does not make up a position", file: "cdc/line.go",
		line: "l.tx.End(m.EndLSN) // Invariant 2", with: "l.tx.End(m.EndLSN + 1)"},
	{name: "a transaction ends where its commit says", file: "cdc/line.go",
		line: "l.tx.End(m.EndLSN) // Invariant 2", with: "l.tx.End(rowOf(l, m))",
		more: [2]string{"msg, err := l.decoder.Decode(f.lsn, f.wal)", "msg, err := l.decoder.Decode(f.lsn, f.wal)\nif _, row := msg.(*decoder.Event); row {\nrows.Store(l, f.lsn)\n}"},
		also: "var rows sync.Map\n\nfunc rowOf(l *line, m *decoder.Commit) pglogrepl.LSN {\n\tif at, ok := rows.LoadAndDelete(l); ok {\n\t\treturn at.(pglogrepl.LSN)\n\t}\n\treturn m.EndLSN\n}\n"},
	{name: "an event is counted before it is published", file: "cdc/line.go",
		line: "l.tx.Add(ev.Size)", with: "defer l.tx.Add(ev.Size)"},
	{name: "an event is counted", file: "cdc/line.go",
		line: "l.tx.Add(ev.Size)", with: ""},
	{name: "status updates go on while the window is full", file: "cdc/line.go",
		line: "timer := time.NewTimer(reportInterval)", with: "timer := time.NewTimer(time.Hour)"},
	{name: "status updates keep their distance", file: "cdc/line.go",
		line: "if since < statusInterval && (since < reportInterval || !l.wantReply && confirmed <= s.reported) {",
		with: "if since < statusInterval && !l.wantReply && confirmed <= s.reported {"},
	{name: "a session has a tracker of its own", file: "cdc/relay.go",
		line: "tracker: checkpoint.NewTracker(slot.ConfirmedLSN, r.window),", with: "tracker: keptTracker(r, slot.ConfirmedLSN),",
		also: "var kept sync.Map\n\nfunc keptTracker(r *Relay, at pglogrepl.LSN) *checkpoint.Tracker {\n\tt, _ := kept.LoadOrStore(r, checkpoint.NewTracker(at, r.window))\n\treturn t.(*checkpoint.Tracker)\n}\n"},
	{name: "a session has a decoder of its own", file: "cdc/relay.go",
		line: "decoder: decoder.New(stream.timeline),", with: "decoder: keptDecoder(r, stream.timeline),",
		also: "var keptDecoders sync.Map\n\nfunc keptDecoder(r *Relay, timeline int32) *decoder.Decoder {\n\td, _ := keptDecoders.LoadOrStore(r, decoder.New(timeline))\n\treturn d.(*decoder.Decoder)\n}\n"},
	{name: "the sink is reset between sessions", file: "cdc/relay.go", line: "r.sink.Reset()", with: "_ = first"},

	// sink: order and acknowledgement
	{name: "acknowledged means on all in-sync replicas", file: "sink/encode.go",
		line: "RequiredAcks: sarama.WaitForAll, // Invariant 6: acknowledged means on all in-sync replicas", with: "RequiredAcks: sarama.WaitForLocal,"},
	{name: "a batch says whose it is", file: "sink/encode.go",
		line: "ProducerID: b.producer.id, ProducerEpoch: b.producer.epoch, FirstSequence: b.seq,", with: "ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,"},
	{name: "an error that passes convicts nobody", file: "sink/outcome.go",
		line: `if passing[code] != "" {`, with: "if passing[code] != \"\" && code != sarama.ErrNotEnoughReplicas && code != sarama.ErrKafkaStorageError {"},
	{name: "a retriable error does not acknowledge", file: "sink/outcome.go",
		line: "if v == acked {", with: "if v == acked || v == again {"},
	{name: "nothing of a partition goes out before a batch without outcome", file: "sink/partition.go",
		line: "if p.batch == nil {", with: "if p.batch == nil || p.tries > 0 {"},
	{name: "a batch on the wire is waited for", file: "sink/partition.go",
		line: "return !p.batch.onWire", with: "return true"},
	{name: "sequence numbers go on behind a batch", file: "sink/partition.go",
		line: "p.seq = int32((int64(b.seq) + int64(b.messages.n)) & 0x7fffffff)", with: "p.seq = b.seq"},
	{name: "a new producer begins at 0", file: "sink/kafka.go", line: "p.seq = 0", with: "_ = p"},
	{name: "a reset remembers what is on the wire", file: "sink/kafka.go",
		line: "p.batch.old = true", with: "given.add(p.batch.messages)\nk.counters.queued += p.batch.messages.n\nk.counters.inFlight -= p.batch.messages.n\np.batch.abandoned, p.batch = true, nil", by: "sink TestResetKeepsWhatIsOnTheWire"},
	{name: "halves stay in order", file: "sink/partition.go",
		line: "p.suspects, p.limit = b.messages.n, b.messages.n/2",
		with: "p.suspects, p.limit = b.messages.n, b.messages.n/2\nfirst := b.messages.cut(p.limit, math.MaxInt)\nb.messages.append(&first)"},
	{name: "nothing goes out behind an event that was refused for good", file: "sink/partition.go",
		line: "case p.stuck != nil, p.rest, p.topic.answered < p.needs, p.topic.gate.closed(): // Invariant 5",
		with: "case p.rest, p.topic.answered < p.needs, p.topic.gate.closed():"},
	{name: "nothing goes out before a dead letter", file: "sink/partition.go",
		line: "case p.stuck != nil, p.rest, p.topic.answered < p.needs, p.topic.gate.closed(): // Invariant 5",
		with: "case p.stuck != nil, p.rest, p.topic.answered < p.needs:"},
	{name: "a dead letter is an acknowledgement only when it is there", file: "sink/deadletter.go",
		line: "k.address(dead, m.ack, cause)", with: "m.ack.Done(m.size)\nk.address(dead, silent{}, cause)",
		also: "type silent struct{}\n\nfunc (silent) Done(int) {}\nfunc (silent) Fail(int, error) {}\n"},
	{name: "a dead letter without a topic waits for what came before", file: "sink/deadletter.go",
		line: "if dead && k.unsettled() || !dead && g.left > 0 { // Invariant 5", with: "if !dead && g.left > 0 {"},
	{name: "what comes behind an event without a topic waits for its dead letter", file: "sink/kafka.go",
		line: "if k.gate.behind.n > 0 {", with: "if false {"},
	{name: "keys keep their partition", file: "sink/partition.go",
		line: "return t.partitions[partitionOf(m.keyBytes(), len(t.partitions))]",
		with: "return t.partitions[rand.IntN(len(t.partitions))]"},
	{name: "values are the row's", file: "sink/record.go",
		line: "b.rec.key, b.rec.value = b.value(ev, roleKey), b.value(ev, rolePayload)",
		with: "b.rec.key, b.rec.value = b.value(ev, roleKey), bytes.ReplaceAll(b.value(ev, rolePayload), []byte(`\"n\": 1`), []byte(`\"n\":1`))"},
	{name: "a batch that may be in the log is not taken apart", file: "sink/settle.go",
		line: "case b.unsure: // Invariant 6: the next batch under its number could be taken for a repeat of it", with: "case b.unsure && false:", by: "sink TestRefusedAfterItWasTaken"},
	{name: "nor is one that is refused with the metadata", file: "sink/metadata.go",
		line: "case b != nil && b.unsure: // as in settle", with: "case b != nil && b.unsure && false:", by: "sink TestRefusedAfterItWasTaken"},
	{name: "a batch that too few replicas have may be in the log", file: "sink/settle.go",
		line: "p.batch.unsure = p.batch.unsure || lost || !absent(cause)", with: "p.batch.unsure = p.batch.unsure || lost", by: "sink TestRefusedAfterItWasTaken"},
	{name: "a topic that is being created is not given up", file: "sink/missing.go",
		line: "if why := k.uncreated[t.name]; k.cfg.CreateTopics.Partitions > 0 && (why == nil || passes(why)) {",
		with: "if false {", by: "sink TestMissingTopicThatIsCreated"},
	{name: "a silence is no evidence that a topic is missing", file: "sink/missing.go",
		line: "a.span += min(gap, int64(step))", with: "a.span += gap", by: "sink TestMissingTopicIsGivenUp"},
	{name: "nothing goes out behind an event that was refused before it had a partition", file: "sink/metadata.go",
		line: "if t.stuck != nil {", with: "if false {", by: "sink TestNothingPassesARefusedTopic"},
	{name: "a topic is asked for again when something waits for a leader", file: "sink/metadata.go",
		line: "if p.leader < 0 && p.sendable() { // only now: what is unready must have something to ask for", with: "if p.leader < 0 {", by: "sink TestOversizedThroughTrouble"},
	{name: "a partition goes on after its topic was refused", file: "sink/metadata.go",
		line: "default: // it has a leader, who will say the same", with: "case false:", by: "sink TestOversizedThroughTrouble"},

	// what only a test of its own can see
	{name: "a connection that idled is not trusted", file: "sink/sender.go",
		line: "if s.conn != nil && time.Since(s.sent) > s.k.tune.staleConn {", with: "if false {", by: "sink TestIdleConnectionIsClosed"},
	{name: "a recovery drops no slot that is another's", file: "cdc/recover.go",
		line: "if err := v.cat.ownSlot(c); err != nil {", with: "if err := v.cat.ownSlot(c); err != nil && false {", by: "cdc TestRecoverLeavesOthersSlots"},
	{name: "a server that is stopping is not kept waiting", file: "cdc/line.go",
		line: "if err := l.watch.Err(); errors.Is(err, errServerStopping) {", with: "if err := l.watch.Err(); errors.Is(err, errServerStopping) && false {", by: "cdc TestShutdownIsNotHeldUpByAnEnd"},
}
