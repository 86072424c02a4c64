package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// serial is the serial number of the certificate that a server shows.
func serial(ca *peers.CA, addr string) (string, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, ca.ClientConfig())
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// TestRenewedCertificates: encoders by RTMPS and RTSPS are shown a renewed certificate
// without a restart, also by a plugin that starts later, and who publishes does not
// notice. One that is broken changes nothing.
func TestRenewedCertificates(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	ca := peers.NewCA(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(certFile, keyFile string) {
		t.Helper()
		for to, from := range map[string]string{cert: certFile, key: keyFile} {
			b, err := os.ReadFile(from)
			must(t, err)
			must(t, os.WriteFile(to, b, 0o600))
		}
	}
	write(ca.Issue(t, "127.0.0.1"))
	rtmps, rtsps := peers.FreeAddr(t), peers.FreeAddr(t)
	sink := receive(t)
	g := startGatewayWith(t, fmt.Sprintf("  ingest-rtmp: {options: {tls: {listen: %q, cert: %q, key: %q}}}\n", rtmps, cert, key)+
		fmt.Sprintf("  ingest-rtsp: {options: {listen_tls: %q, certificate: %q, certificate_key: %q}}\n", rtsps, cert, key),
		route("studio", fmt.Sprintf(`cdn: {url: "rtmp://%s/live/key"}`, sink.addr)))
	encoder := peers.Start(t, peers.Command{Name: "ffmpeg", Path: peers.Find(t, "ffmpeg"), Args: []string{
		"-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-pix_fmt", "yuv420p",
		"-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-c:a", "aac", "-f", "flv", "rtmps://" + rtmps + "/studio?token=" + token}})
	g.waitTarget(t, 30*time.Second, "studio", "cdn", status.TargetLive)
	first, err := serial(ca, rtmps)
	must(t, err)

	must(t, os.WriteFile(cert, []byte("half of a certific"), 0o600))
	for _, plugin := range []string{"ingest-rtmp", "ingest-rtsp"} {
		g.Match(t, 30*time.Second, "level=ERROR msg=\"renewed files cannot be used, the plugin goes on with what it has\" plugin="+plugin+" .*want both in PEM")
	}
	for _, addr := range []string{rtmps, rtsps} {
		if now, err := serial(ca, addr); now != first {
			t.Errorf("%s shows %q after a broken renewal, %q before; error %v", addr, now, first, err)
		}
	}

	write(ca.Issue(t, "127.0.0.1"))
	renewed := func(addr string) {
		t.Helper()
		peers.Wait(t, 30*time.Second, "the renewed certificate at "+addr, func() error {
			now, err := serial(ca, addr)
			if now == first {
				return errors.New("it is the old one")
			}
			return err
		})
	}
	renewed(rtmps)
	renewed(rtsps)
	g.Match(t, 30*time.Second, "msg=\"renewed files are in use\" plugin=ingest-rtsp")
	select {
	case <-encoder.Done():
		t.Errorf("the publisher has ended:\n%s", encoder.Output())
	default:
	}
	if strings.Contains(g.Output(), "publisher lost") {
		t.Error("the publisher was lost")
	}
	g.killPlugin(t, "ingest-rtsp")
	renewed(rtsps)
}
