package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// app is what commands have of the process.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
}

// cli is the command line. Commands appear here when they work.
type cli struct {
	Run     runCmd     `cmd:"" help:"Stream the outbox table to Kafka."`
	Init    initCmd    `cmd:"" help:"Create table, publication and slot, or print the SQL that does."`
	Check   checkCmd   `cmd:"" help:"Look over both sides before the first start, or after trouble."`
	Status  statusCmd  `cmd:"" help:"Show the slot, its lag and the WAL that it retains."`
	Recover recoverCmd `cmd:"" help:"After slot loss: send the rows that the table holds, with a new slot if need be."`
	Version versionCmd `cmd:"" help:"Show the version."`
	demoCommand
}

// configFlags are the flags of every command that connects to something.
type configFlags struct {
	File     string `name:"config" placeholder:"PATH" help:"YAML file with settings (variable OUTBOX_CDC_CONFIG)."`
	Settings Config `embed:""`
}

// deadLetterFlag is of the commands that publish.
type deadLetterFlag struct {
	DeadLetterID []string `name:"dead-letter-id" placeholder:"ID" help:"Send these events to the dead-letter topic if they cannot be published, and no others: by id, or position as in the header outbox-lsn. For one start, after exit code 3."`
}

// configHelp closes the help of commands with configFlags.
const configHelp = `

Settings come from flags, then the environment, then the file, then the defaults. The setting limits.in_flight_bytes of the
file is the flag --limits-in-flight-bytes and the variable OUTBOX_CDC_LIMITS_IN_FLIGHT_BYTES; all others likewise.`

const description = "Streams a Postgres outbox table to Kafka, in commit order and at least once."

// execute runs one command line.
func (a *app) execute(ctx context.Context, args []string) error {
	helped := false
	parser, err := a.parser(ctx, &cli{}, func(int) { helped = true })
	if err != nil {
		return err
	}
	line, err := parser.Parse(args)
	if helped { // kong goes on after printing help, and may find the rest wanting
		return nil
	}
	if err != nil {
		return fault.New(fault.Usage, "read command line", withoutURLs(err, args), helpHint(args))
	}
	return line.Run()
}

func (a *app) parser(ctx context.Context, grammar any, exit func(int)) (*kong.Kong, error) {
	parser, err := kong.New(grammar,
		kong.Name("outbox-cdc"), kong.Description(description),
		kong.Writers(a.stdout, a.stderr), kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.TypeMapper(reflect.TypeFor[int](), flagMapper),
		kong.TypeMapper(reflect.TypeFor[Size](), flagMapper),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), flagMapper),
		kong.TypeMapper(reflect.TypeFor[[]string](), flagMapper),
		kong.TypeMapper(reflect.TypeFor[map[string]string](), flagMapper),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(a))
	if err != nil {
		return nil, fmt.Errorf("define the command line: %w", err)
	}
	return parser, nil
}

// flagMapper reads a flag's value like a variable's.
var flagMapper = kong.MapperFunc(func(c *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := c.Scan.PopValueInto("value", &text); err != nil {
		return err
	}
	if err := setText(target, text); err != nil {
		return fmt.Errorf("%w, got %q", err, text)
	}
	return nil
})

// withoutURLs takes arguments that are URLs out of an error: one that was
// misplaced may hold a password.
func withoutURLs(err error, args []string) error {
	text := err.Error()
	for _, arg := range args {
		if strings.Contains(arg, "://") {
			_, value, _ := strings.Cut(arg, "=")
			text = strings.ReplaceAll(text, arg, "URL")
			if strings.Contains(value, "://") {
				text = strings.ReplaceAll(text, value, "URL")
			}
		}
	}
	return errors.New(text)
}

// helpHint names the help that fits a command line that could not be read.
func helpHint(args []string) string {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		for _, command := range reflect.VisibleFields(reflect.TypeFor[cli]()) {
			if strings.EqualFold(command.Name, args[0]) {
				return fmt.Sprintf("`outbox-cdc %s --help` lists the flags", args[0])
			}
		}
	}
	return "`outbox-cdc --help` lists the commands"
}

// lookupEnv returns the value of a variable in environ, the last of several, as os.Getenv would.
func lookupEnv(environ []string, name string) string {
	value := ""
	for _, entry := range environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// getenv is lookupEnv of the app's own environment.
func (a *app) getenv(name string) string { return lookupEnv(a.environ, name) }
