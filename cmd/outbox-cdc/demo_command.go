//go:build !nodevenv

package main

// demoCommand adds the demo to the command line. Images and packages are built
// with the tag nodevenv, and have neither the demo nor its servers.
type demoCommand struct {
	Demo demoCmd `cmd:"" help:"Show the whole job on throw-away servers on this machine."`
}
