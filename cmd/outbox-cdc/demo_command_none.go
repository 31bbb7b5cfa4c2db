//go:build nodevenv

package main

// demoCommand is empty in a binary without throw-away servers.
type demoCommand struct{}
