package archive

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Keys of extended header records. POSIX.1-2017 pax defines the first group,
// Schilling's star and GNU tar the others.
const (
	paxPath  = "path"
	paxLink  = "linkpath"
	paxSize  = "size"
	paxUID   = "uid"
	paxGID   = "gid"
	paxMTime = "mtime"

	paxXattr      = "SCHILY.xattr."
	paxACLAccess  = "SCHILY.acl.access"
	paxACLDefault = "SCHILY.acl.default"
	paxSELinux    = "RHT.security.selinux"
	paxSparse     = "GNU.sparse."
)

// record is one "length key=value\n" of an extended header.
type record struct{ key, value string }

// parseRecords takes an extended header apart, in its order: the oldest
// sparse form repeats keys.
func parseRecords(data []byte) ([]record, error) {
	var records []record
	for len(data) > 0 {
		space := bytes.IndexByte(data[:min(len(data), 20)], ' ')
		if space < 0 {
			return nil, fmt.Errorf("extended header without a length")
		}
		n, err := strconv.ParseUint(string(data[:space]), 10, 31)
		if err != nil || int(n) > len(data) || int(n) < space+3 {
			return nil, fmt.Errorf("extended header with a bad length %q", data[:space])
		}
		body, ok := bytes.CutSuffix(data[space+1:n], []byte{'\n'})
		key, value, found := bytes.Cut(body, []byte{'='})
		if !ok || !found || len(key) == 0 {
			return nil, fmt.Errorf("malformed extended header record")
		}
		records = append(records, record{string(key), string(value)})
		data = data[n:]
	}
	return records, nil
}

// appendRecord adds a record, whose length counts its own digits.
func appendRecord(b []byte, key, value string) []byte {
	n := len(key) + len(value) + 3 // space, =, newline
	size := n + len(strconv.Itoa(n))
	if digits := len(strconv.Itoa(size)); n+digits != size {
		size = n + digits
	}
	b = strconv.AppendInt(b, int64(size), 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

// The names of attributes may hold "=", which ends a record's key: GNU tar
// writes it as %3D since 1.30, and % as %25.
var (
	encodeName = strings.NewReplacer("%", "%25", "=", "%3D")
	decodeName = strings.NewReplacer("%25", "%", "%3D", "=")
)

// formatTime writes seconds since 1970 with as many decimals as needed. The
// number is a signed decimal: half a second before 1970 is -0.5.
func formatTime(t time.Time) string {
	sec, nsec := t.Unix(), int64(t.Nanosecond())
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 {
		sign, sec, nsec = "-", -(sec + 1), 1e9-nsec
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

// parseTime reads what formatTime writes. Decimals beyond the ninth are cut.
func parseTime(s string) (time.Time, error) {
	whole, decimals, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 62)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a time", s)
	}
	if strings.Trim(decimals, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("%q is not a time", s)
	}
	nsec, _ := strconv.ParseInt((decimals + "000000000")[:9], 10, 64)
	if strings.HasPrefix(whole, "-") {
		nsec = -nsec
	}
	return time.Unix(sec, nsec), nil
}
