package volplugin

import (
	"fmt"
	"net"
	"os"
)

// notifySocket names the variable with the socket of a service manager that
// wants to be told (sd_notify(3)).
const notifySocket = "NOTIFY_SOCKET"

// notify tells the service manager, where one asked for it, that what is
// ordered after the driver may start.
func notify() error {
	path := os.Getenv(notifySocket)
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
