package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/badrtmp"
	"github.com/headgate/gateway/test/peers"
)

// TestBadServers: one stream to every server that misbehaves, at once. The API says
// of each what is wrong with it and when it is tried again, those that can be lived
// with are live, and the one good target among them loses nothing.
func TestBadServers(t *testing.T) {
	good, elsewhere := startCDN(t), startCDN(t)
	var servers []*badrtmp.Server
	lines := []string{fmt.Sprintf(`good: {url: "rtmp://%s/live/good"}`, good.addr)}
	dir := t.TempDir()
	for i, c := range badrtmp.Cases(elsewhere.addr) {
		s := badrtmp.Start(t, c)
		servers = append(servers, s)
		line := fmt.Sprintf(`url: "rtmp://%s/live", key: key%d`, s.Addr, i)
		if c.TLSHost != "" {
			line = strings.Replace(line, "rtmp:", "rtmps:", 1)
			if strings.Contains(c.Name, "changed") {
				sum := sha256.Sum256(s.DER)
				line += ", fingerprint: " + hex.EncodeToString(sum[:])
			} else {
				file := filepath.Join(dir, fmt.Sprintf("%d.pem", i))
				must(t, os.WriteFile(file, s.CA, 0o600))
				line += ", ca: " + file
			}
		}
		lines = append(lines, fmt.Sprintf("t%d: {%s}", i, line))
	}
	g := startPlainGateway(t, route("studio", lines...))
	p := g.publish(t, "studio")
	good.live(t)
	for i, s := range servers {
		peers.Wait(t, 60*time.Second, s.Name, func() error {
			got, err := g.target("studio", fmt.Sprintf("t%d", i))
			if err != nil {
				return err
			}
			if strings.Contains(s.Name, "changed") && got.State == status.TargetLive {
				s.Renew(t)
			}
			if s.Lane == badrtmp.Live {
				if got.State != status.TargetLive {
					err = fmt.Errorf("it is %s, last error %+v", got.State, got.LastError)
				}
				return err
			}
			switch {
			case got.LastError == nil:
				return errors.New("nothing is said to be wrong")
			case got.LastError.Class != s.Class:
				return fmt.Errorf("its class is %q, want %q: %s", got.LastError.Class, s.Class, got.LastError.Message)
			case s.Lane == badrtmp.Slow && (got.State != status.TargetFailed || got.NextRetry == nil):
				return fmt.Errorf("it is %s", got.State)
			case s.Lane == badrtmp.Fast && got.State == status.TargetFailed:
				return fmt.Errorf("it is %s", got.State)
			}
			return nil
		})
	}
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	_ = p.Interrupt(t, 30*time.Second)
	waitEnded(t, good)
	good.unbroken(t, "the good target")
	if code := g.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the gateway ended with %d", code)
	}
}
