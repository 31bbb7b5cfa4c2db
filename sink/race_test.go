//go:build race

package sink

func init() { raceEnabled = true }
