package command

import (
	"errors"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// bounds are the options for what copying may take of the machine.
type bounds struct {
	rate byteRate
	jobs jobs
}

func (b *bounds) flags(flags *pflag.FlagSet) {
	flags.Var(&b.rate, "limit-rate", "Copy at most this much a second while the workload runs, e.g. 50MB (default: no limit)")
	flags.Var(&b.jobs, "jobs", "Copy with at most this many processors (default: all)")
}

// byteRate is a --limit-rate: bytes a second, 0 for no limit.
type byteRate int64

var _ pflag.Value = (*byteRate)(nil)

// String is "" for zero, so that help shows no default for it.
func (r *byteRate) String() string {
	if *r == 0 {
		return ""
	}
	return units.HumanSize(float64(*r))
}

func (r *byteRate) Type() string { return "size" }

func (r *byteRate) Set(text string) error {
	n, err := units.FromHumanSize(strings.TrimSuffix(text, "/s"))
	if err != nil || n <= 0 {
		return errors.New("must be a size like 500kB, 50MB or 1GB")
	}
	*r = byteRate(n)
	return nil
}

// jobs is a --jobs: a number of processors, 0 for all.
type jobs int

var _ pflag.Value = (*jobs)(nil)

func (j *jobs) String() string {
	if *j == 0 {
		return ""
	}
	return strconv.Itoa(int(*j))
}

func (j *jobs) Type() string { return "number" }

func (j *jobs) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return errors.New("must be a number from 1")
	}
	*j = jobs(n)
	return nil
}
