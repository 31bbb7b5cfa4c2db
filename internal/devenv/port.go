package devenv

import (
	"math/rand/v2"
	"net"
	"strconv"
)

const loopback = "127.0.0.1"

// Ports below the ephemeral range of Linux (32768 up) and macOS (49152 up). A port in that
// range may be taken as the source of any outgoing connection while its server is down;
// worse, a client that keeps dialling it can end up connected to itself.
const firstPort, lastPort = 15000, 32000

// choosePort is what servers get their ports from.
var choosePort = freePort

// freePort returns a loopback port that nobody listens on at the moment. Somebody may take
// it before its server binds it: callers start again with another port then.
func freePort() (int, error) {
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if l, err := net.Listen("tcp", address(port)); err == nil {
			return port, l.Close()
		}
	}
	l, err := net.Listen("tcp", address(0))
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
