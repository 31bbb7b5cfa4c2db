package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// configEnv names the file; it is no setting, for the file cannot name itself.
const configEnv = envPrefix + "CONFIG"

// environment applies the variables. One that is set and empty sets the empty value.
func (l *loaded) environment(environ []string) error {
	known := map[string]setting{}
	names := []string{configEnv}
	for _, s := range settings() {
		known[s.Env()] = s
		names = append(names, s.Env())
	}
	set := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || name == configEnv {
			continue
		}
		s, ok := known[name]
		if !ok {
			if !fromKubernetes(name, value) {
				l.Warnings = append(l.Warnings, warning{
					Text: "unknown environment variable " + name,
					Hint: "the nearest known one is " + nearest(name, names),
				})
			}
			continue
		}
		if err := setText(s.In(&l.Config), value); err != nil {
			shown := strconv.Quote(value)
			if s.Secret() {
				shown = "not usable"
			}
			return fault.New(fault.Usage, "read environment", fmt.Errorf("%s (%s) is %s", s.Key, name, shown), err.Error())
		}
		set[s.Key] = name
	}
	slices.SortFunc(l.Warnings, func(a, b warning) int { return strings.Compare(a.Text, b.Text) })
	return l.merge(set)
}

// What Kubernetes puts into the containers of a namespace that has a Service
// named outbox-cdc, or one whose name begins so:
// https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
var (
	kubernetesName = regexp.MustCompile(`^OUTBOX_CDC_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	kubernetesPort = regexp.MustCompile(`^OUTBOX_CDC_([A-Z0-9_]+_)?PORT$`)
	kubernetesURL  = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func fromKubernetes(name, value string) bool {
	return kubernetesName.MatchString(name) || kubernetesPort.MatchString(name) && kubernetesURL.MatchString(value)
}
