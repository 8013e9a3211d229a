package command

import (
	"errors"
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// seconds is an option that takes a duration ("90s", "5m") or, as docker stop
// does, a plain number of seconds.
type seconds time.Duration

var _ pflag.Value = (*seconds)(nil)

// String is "" for zero, so that help shows no default for it.
func (s *seconds) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

func (s *seconds) Type() string { return "duration" }

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, e := strconv.Atoi(text); e == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return errors.New("must be a number of seconds or a duration like 90s or 5m")
	}
	*s = seconds(d)
	return nil
}

// grace is a --stop-timeout: whole seconds, nil for each container's own.
type grace struct{ value *int }

var _ pflag.Value = (*grace)(nil)

func (g *grace) String() string {
	if g.value == nil {
		return ""
	}
	return strconv.Itoa(*g.value)
}

func (g *grace) Type() string { return "seconds" }

func (g *grace) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return errors.New("must be a whole number of seconds")
	}
	g.value = &n
	return nil
}

// duration is the option's value.
func duration(s seconds) time.Duration { return time.Duration(s) }
