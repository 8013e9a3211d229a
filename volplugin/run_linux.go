package volplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/build"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// earliestEnd is how long a process lives at least: an engine leaves a plugin
// disabled that ends while it is being enabled (measured: within 0.5 s).
const earliestEnd = 2 * time.Second

// predecessorWait is how long a driver waits for the one before to end.
const predecessorWait = 30 * time.Second

// watchInterval is how often a managed driver looks whether its mount paths
// still reach the engine, and enabled how long after its first call an engine
// has surely recorded that the driver runs.
const (
	watchInterval = 200 * time.Millisecond
	enabled       = time.Second
)

// reapInterval is how often mounts that nobody needs are looked for.
const reapInterval = time.Second

type options struct {
	config  Config
	socket  string
	managed bool
}

// Main runs the driver with these arguments, without the program's name, and
// returns the exit status.
func Main(args []string, stderr io.Writer) int {
	started := time.Now()
	var o options
	cmd := &cobra.Command{
		Use:   volume.Program + " [OPTIONS]",
		Short: "Volume driver of docker snaprestore",
		Long: "Serves Docker's volume protocol. The engine runs it as a managed plugin (docker snaprestore install);\n" +
			"as a service of the host it is started before the engine.",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       build.Version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.config.Root, name(volume.RootFlag), "/var/lib/docker/snaprestore", "State root: the folder snaprestore in the engine's data root")
	flags.StringVar(&o.config.Points, name(volume.MountsFlag), volume.ServiceMounts, "Directory at whose entries the volumes are mounted")
	flags.StringVar(&o.config.Work, name(volume.WorkFlag), "/run/snaprestore/work", "Directory for mounts of the driver's own")
	flags.StringVar(&o.socket, name(volume.SocketFlag), filepath.Join(volume.SocketFolder, volume.SocketName), "Socket on which the engine calls")
	flags.BoolVar(&o.managed, name(volume.ManagedFlag), false, "The process has a mount namespace of its own, made by the engine")
	o.config.Proc = "/proc"
	cmd.SetArgs(args)
	cmd.SetErr(stderr)
	log.SetOutput(stderr)
	log.SetFlags(0)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := cmd.ExecuteContext(ctx)
	if err == nil || ctx.Err() != nil {
		return 0
	}
	log.Printf("%s: %v", volume.Program, err)
	if early := earliestEnd - time.Since(started); early > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(early):
		}
	}
	return 1
}

// name is a flag without its dashes.
func name(flag string) string { return strings.TrimLeft(flag, "-") }

// run serves until ctx ends or something fails that only another start mends.
func run(ctx context.Context, o options) error {
	if o.managed {
		log.SetOutput(os.Stdout) // the engine takes the other for errors
	}
	if !filepath.IsAbs(o.config.Root) {
		return fmt.Errorf("state root %s: not an absolute path", o.config.Root)
	}
	if o.managed {
		// What is mounted at its root else shows up on the host.
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make own mounts private: %w", err)
		}
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	l, err := listen(o.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := NewServer()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()

	sole, err := alone(ctx, o.config.Root)
	if err != nil {
		return err
	}
	defer sole.Release()
	if o.managed {
		if o.config.Folder, err = folderOf(o.config.Root); err != nil {
			return err
		}
	}
	d, err := Open(o.config)
	if err != nil {
		return err
	}
	// Nobody closes the driver: a call may still be at work when this returns,
	// and the end of the process, which follows, closes all.
	d.Settle(ctx)
	s.Ready(d)
	if err := notify(); err != nil {
		return err
	}
	log.Printf("%s %s serves the volumes in %s", volume.Program, build.Version, o.config.Root)

	reap, watch := time.NewTicker(reapInterval), time.NewTicker(watchInterval)
	defer reap.Stop()
	defer watch.Stop()
	for {
		select {
		case <-watch.C:
			if !o.managed {
				continue
			}
			if err := watched(d, s.heard()); err != nil {
				return err
			}
		case <-reap.C:
			d.Reap()
		case err := <-s.Fatal():
			return err
		case err := <-ended:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// watched mends the mount paths of an engine that has lost them, before it
// asks for one, and fails when that cannot be done: the engine then starts
// another driver, to which it gives a new mount.
func watched(d *Driver, engine *contact) error {
	if engine == nil || engine.gone() {
		return nil
	}
	err := d.watch(engine.process)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, errUnseen):
		log.Printf("look for the mount paths: %v", err)
		return nil
	case time.Since(engine.since) < enabled:
		return nil
	}
	return fmt.Errorf("mount paths of %s: %w", engine.process, err)
}

// alone makes sure that no other driver works on the state root, and waits for
// one that is about to end.
func alone(ctx context.Context, root string) (*journal.Held, error) {
	dir, err := durable.Open(root, nil)
	if err != nil {
		return nil, fmt.Errorf("open state root: %w", err)
	}
	defer dir.Close()
	folder, err := dir.MakeDir("journal", 0o700)
	if err != nil {
		return nil, fmt.Errorf("open state root: %w", err)
	}
	defer folder.Close()
	j, err := journal.Open(folder)
	if err != nil {
		return nil, err
	}
	defer j.Close()
	held, err := j.Locks().Lock(ctx, journal.Exclusive("driver"),
		journal.Holder{Kind: volume.Program, Since: time.Now().UTC()}, predecessorWait)
	var locked *journal.LockedError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("another %s serves the volumes in %s", volume.Program, root)
	}
	return held, err
}

// listen opens the socket, in the place of one that a dead process left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.Listen("unix", path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	if c, dialErr := net.Dial("unix", path); dialErr == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another process answers there", path)
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return net.Listen("unix", path)
}
