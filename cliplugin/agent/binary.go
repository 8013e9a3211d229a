package agent

import (
	"errors"
	"fmt"
	"os"
)

// errNotEmbedded says that a build has no agent for an architecture.
var errNotEmbedded = errors.New("no embedded agent")

// ownBinary reads this process's program. The kernel's link works for a file
// that was replaced meanwhile, the name does where there is no /proc.
func ownBinary() ([]byte, error) {
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		return data, nil
	}
	name, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	data, err = os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read own program: %w", err)
	}
	return data, nil
}
