package sdk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// resolvConf is the file in which Go's resolver finds the name servers.
const resolvConf = "/etc/resolv.conf"

// What every Go program may need to read: certificates of authorities, names of hosts
// and services, time zones, and what the kernel says of this process and the machine.
// None of it is a secret, and nothing that holds one is in these directories.
var (
	readableDirs = []string{
		"/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates", "/var/lib/ca-certificates",
		"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/local/share/certs",
		"/usr/share/zoneinfo", "/proc/self", "/proc/sys", "/sys/devices/system/cpu", "/sys/fs/cgroup",
	}
	readableFiles = []string{
		"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", "/etc/pki/tls/cacert.pem",
		resolvConf, "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols",
		"/etc/localtime", "/etc/mime.types", "/usr/share/mime/globs2",
		"/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/loadavg", "/dev/urandom", "/dev/random",
	}
)

// errNoLandlock says that the kernel cannot confine a process.
var errNoLandlock = errors.New("the kernel has no landlock")

// confine takes from the process, for good, the files that it does not need: it can
// write and start programs in dirs only, and read there and where any Go program must.
// dirs that do not exist are an error. Sockets, and files that are open, are not
// affected.
func confine(dirs ...string) error {
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("%w: %w", errNoLandlock, errno)
	}
	keepNameServers()
	read, files := slices.Clone(readableDirs), slices.Clone(readableFiles)
	if name := os.Getenv("SSL_CERT_FILE"); name != "" {
		files = append(files, name)
	}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		read = append(read, strings.Split(list, ":")...)
	}
	// Whoever keeps the name servers elsewhere replaces the file when they change.
	if dir := resolverDir(); dir != "/etc" {
		read = append(read, dir)
	}
	rules := []landlock.Rule{
		landlock.RODirs(read...).IgnoreIfMissing(),
		landlock.ROFiles(files...).IgnoreIfMissing(),
		landlock.RWFiles("/dev/null", "/dev/zero").IgnoreIfMissing(),
	}
	if len(dirs) > 0 {
		rules = append(rules, landlock.RWDirs(dirs...).WithRefer())
	}
	return landlock.V5.BestEffort().RestrictPaths(rules...)
}

// resolverDir is where the file with the name servers really is.
func resolverDir() string {
	name, err := filepath.EvalSymlinks(resolvConf)
	if err != nil {
		return "/etc" // there is none
	}
	return filepath.Dir(name)
}

// keepNameServers has Go's resolver ask the name servers of now when it cannot read
// the file with them any more: a DHCP client that replaces it makes one that is out
// of a confined process's reach.
func keepNameServers() {
	if n := readNameServers(resolvConf); len(n.known) > 0 {
		net.DefaultResolver.Dial = n.dial
	}
}

// nameServers are those that a file has named.
type nameServers struct {
	file  string
	known []string // host:port
	turn  atomic.Uint32
}

func readNameServers(file string) *nameServers {
	n := &nameServers{file: file}
	f, err := os.Open(file)
	if err != nil {
		return n
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			n.known = append(n.known, net.JoinHostPort(fields[1], "53"))
		}
	}
	return n
}

// dial connects to a name server: to address, which the resolver has from the file,
// while that can be read, and otherwise to those that are known, in turn.
func (n *nameServers) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if f, err := os.Open(n.file); err == nil {
		_ = f.Close() // only tried
	} else {
		address = n.known[int(n.turn.Add(1)-1)%len(n.known)]
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}
