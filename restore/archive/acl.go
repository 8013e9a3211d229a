package archive

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// The binary form of an ACL in an attribute (Linux
// include/uapi/linux/posix_acl_xattr.h): a version, then entries of tag,
// permissions and id, sorted by tag and id.
const (
	aclVersion  = 2
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = 1<<32 - 1
)

// textACL turns the text form, which GNU tar, star and libarchive write, into
// the attribute. A user or group must be given by number: in the third field,
// or in a fourth behind the name. Names mean nothing on another machine.
func textACL(e *Entry, rec record) error {
	type line struct {
		tag, perm uint16
		id        uint32
	}
	var lines []line
	for s := range strings.FieldsFuncSeq(rec.value, func(c rune) bool { return c == ',' || c == '\n' }) {
		s, _, _ = strings.Cut(s, "#") // effective rights, a comment
		f := strings.Split(strings.TrimSpace(s), ":")
		if len(f) < 3 || len(f) > 4 {
			return fmt.Errorf("%s: bad entry %q", rec.key, s)
		}
		l := line{id: aclNoID}
		switch f[0] {
		case "user", "u":
			l.tag = aclUserObj
		case "group", "g":
			l.tag = aclGroupObj
		case "mask", "m":
			l.tag = aclMask
		case "other", "o":
			l.tag = aclOther
		default:
			return fmt.Errorf("%s: bad entry %q", rec.key, s)
		}
		if f[1] != "" {
			number := f[1]
			if len(f) == 4 {
				number = f[3]
			}
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil || l.tag > aclGroupObj {
				return fmt.Errorf("%s: %q is not given by number", rec.key, s)
			}
			l.tag, l.id = l.tag<<1, uint32(id)
		}
		for _, c := range f[2] {
			switch c {
			case 'r':
				l.perm |= 4
			case 'w':
				l.perm |= 2
			case 'x':
				l.perm |= 1
			case '-':
			default:
				return fmt.Errorf("%s: bad permissions %q", rec.key, s)
			}
		}
		lines = append(lines, l)
	}
	sort.Slice(lines, func(i, j int) bool {
		return lines[i].tag < lines[j].tag || lines[i].tag == lines[j].tag && lines[i].id < lines[j].id
	})
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, l := range lines {
		b = binary.LittleEndian.AppendUint16(b, l.tag)
		b = binary.LittleEndian.AppendUint16(b, l.perm)
		b = binary.LittleEndian.AppendUint32(b, l.id)
	}
	return addXattr(e, "system.posix_acl_"+strings.TrimPrefix(rec.key, "SCHILY.acl."), string(b))
}
