package config

import (
	"regexp"
	"strings"

	"github.com/headgate/gateway/sdk/secret"
)

var plainHost = regexp.MustCompile(`^([A-Za-z0-9._-]*|\[[0-9A-Fa-f:.%]+\])(:[0-9]+)?$`)

// Address is scheme and host of a URL, for people: the rest may contain a key. It
// shows less where it is not plain where the host ends.
func Address(u secret.String) string {
	text := u.Reveal()
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, _, ok = strings.Cut(text, ":")
		if !ok {
			return ""
		}
		return scheme + ":"
	}
	host, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	} else if strings.Contains(host, ":") && strings.Contains(path, "@") {
		return scheme + "://..." // a password with a slash in it, perhaps
	}
	switch {
	case !plainHost.MatchString(host):
		return scheme + "://..."
	case path == "":
		return scheme + "://" + host
	}
	return scheme + "://" + host + "/..."
}

// backupMark ends the name under which the backup of a target is known. It cannot
// stand in the name of a target.
const backupMark = "~backup"

// BackupName is the name of the backup of a target.
func BackupName(target string) string { return target + backupMark }

// IsBackupName reports whether a name is that of a backup, and of which target.
func IsBackupName(name string) (target string, ok bool) { return strings.CutSuffix(name, backupMark) }
