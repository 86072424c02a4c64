package egresssrt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/faultlab"
	"github.com/headgate/gateway/test/peers"
)

const passphrase = "correcthorsebattery"

// playTime is how much of the card the peers are sent.
const playTime = 3 * time.Second

// listen starts a peer that listens and records; it returns its address, the file
// and the process.
func listen(t testing.TB, program, query string) (addr, file string, p *peers.Process) {
	t.Helper()
	addr, file = peers.FreeAddr(t), filepath.Join(t.TempDir(), "out.ts")
	from := "srt://" + addr + "?mode=listener&" + query
	if program == "ffmpeg" {
		return addr, file, peers.Start(t, peers.Command{Path: peers.Find(t, program), Args: []string{
			"-nostdin", "-v", "error", "-y", "-i", from, "-map", "0", "-c", "copy", "-copyts", file}})
	}
	return addr, file, transmit(t, from, file)
}

// transmit starts srt-live-transmit, which writes to its standard output alone.
func transmit(t testing.TB, from, file string) *peers.Process {
	t.Helper()
	return peers.Start(t, peers.Command{Name: "srt-live-transmit", Path: "/bin/sh", Args: []string{
		"-c", `exec "$0" -q -a:no "$1" file://con >"$2"`, peers.Find(t, "srt-live-transmit"), from, file}})
}

// connect opens a sink as soon as the peer listens.
func connect(t testing.TB, url string, opts Options, m testMedia) sdk.Sink {
	t.Helper()
	var s sdk.Sink
	peers.Wait(t, 20*time.Second, "the peer listens", func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		s, err = try(ctx, url, opts, m.tracks)
		return err
	})
	return s
}

// check checks what a peer recorded.
func check(t testing.TB, file string, units []*media.AccessUnit, slack int) {
	t.Helper()
	want := map[string]int{}
	for _, u := range units {
		if u.Track == 3 {
			want["audio"]++
		} else {
			want["video"]++
		}
	}
	packets := peers.Packets(t, file)
	for kind, n := range want {
		// The last picture ends where the next would begin: a peer may miss it.
		if got := peers.Count(packets, kind); got < n-slack || got > n {
			t.Errorf("%d packets of %s, want %d", got, kind, n)
		}
	}
	if err := errors.Join(peers.CheckMonotonic(packets), peers.CheckDecodes(t, file)); err != nil {
		t.Error(err)
	}
}

// TestPeersListen: ffmpeg and srt-live-transmit as listeners, in the clear and with
// each length of key, which the peer names or, as is its default, leaves to us. The last
// pictures arrive: the goodbye comes when their latency is over.
func TestPeersListen(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "srt-live-transmit")
	m := load(t)
	f := func(program string, bits int, named bool) {
		t.Run(fmt.Sprint(program, bits, named), func(t *testing.T) {
			t.Parallel()
			query, to := "", "?streamid=publish:card&"+patient
			if bits > 0 {
				query = "passphrase=" + passphrase
				to += fmt.Sprintf("&%s&pbkeylen=%d", query, bits/8)
			}
			if named {
				query += fmt.Sprintf("&pbkeylen=%d", bits/8)
			}
			addr, file, p := listen(t, program, query)
			s := connect(t, "srt://"+addr+to, Options{}, m)
			play(t, s, m.first(playTime))
			p.ExitCode(t, 20*time.Second)
			check(t, file, m.first(playTime), 2)
		})
	}
	f("ffmpeg", 0, false)
	f("ffmpeg", 256, true)
	f("ffmpeg", 256, false)
	f("srt-live-transmit", 0, false)
	f("srt-live-transmit", 128, false)
	f("srt-live-transmit", 192, true)
	f("srt-live-transmit", 192, false)
}

// TestPeersRefuse: a wrong passphrase is told as what it is.
func TestPeersRefuse(t *testing.T) {
	peers.Need(t, "srt-live-transmit")
	addr, _, _ := listen(t, "srt-live-transmit", "passphrase="+passphrase)
	var err error
	peers.Wait(t, 20*time.Second, "the peer listens", func() error {
		_, err = try(t.Context(), "srt://"+addr+"?passphrase=wrongwrongwrong", Options{}, nil)
		if err == nil || sdk.IsPermanent(err) {
			return nil
		}
		return err
	})
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != "auth" || !sdk.IsPermanent(err) {
		t.Errorf("%v", err)
	}
}

// TestPeersCall: ffmpeg and srt-live-transmit as players, and one with the wrong
// passphrase.
func TestPeersCall(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "srt-live-transmit")
	m := load(t)
	s := open(t, "srt://127.0.0.1:0?mode=listener&passphrase="+passphrase+"&pbkeylen=32&"+patient, Options{}, m.tracks).(*listener)
	dir := t.TempDir()
	url := func(pass string) string { return "srt://" + s.server.Addr() + "?mode=caller&passphrase=" + pass }
	file := func(name string) string { return filepath.Join(dir, name) }
	tool := transmit(t, url(passphrase), file("tool.ts"))
	ff := peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
		"-nostdin", "-v", "error", "-y", "-i", url(passphrase), "-map", "0", "-c", "copy", "-copyts", file("ff.ts")}})
	wrong := peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
		"-nostdin", "-v", "error", "-y", "-i", url("wrongwrongwrong"), "-c", "copy", file("wrong.ts")}})
	if code := wrong.ExitCode(t, 30*time.Second); code == 0 {
		t.Error("the wrong passphrase was good enough")
	}
	peers.Wait(t, 20*time.Second, "players", func() error {
		if n := s.Stats().Values["srt_players"]; n != 2 {
			return fmt.Errorf("%v players", n)
		}
		return nil
	})
	play(t, s, m.first(playTime))
	ff.ExitCode(t, 20*time.Second)
	tool.ExitCode(t, 20*time.Second)
	check(t, file("ff.ts"), m.first(playTime), 2)
	check(t, file("tool.ts"), m.first(playTime), 2)
	if _, err := os.Stat(file("wrong.ts")); err == nil {
		t.Error("who had the wrong passphrase recorded something")
	}
}

// TestLoss: 20 ms of round trip, 2 % of loss: no picture is lost. A machine that is
// busy with other tests needs more latency than the 120 ms that BenchmarkLoss has.
func TestLoss(t *testing.T) {
	units := load(t).units
	file, st := lossy(t, units, patience)
	check(t, file, units, 2)
	if st.Retransmitted == 0 {
		t.Error("nothing was lost on the way")
	}
}

// lossy sends units over a line that loses, to a peer that records them.
func lossy(t testing.TB, units []*media.AccessUnit, latency time.Duration) (file string, st srt.Stats) {
	t.Helper()
	peers.Need(t, "ffmpeg", "ffprobe", "srt-live-transmit")
	query := fmt.Sprintf("latency=%d", latency.Milliseconds())
	way := faultlab.Impairment{Delay: 10 * time.Millisecond, Loss: 0.02}
	addr, file, p := listen(t, "srt-live-transmit", query)
	proxy, err := faultlab.NewUDP(addr, way, way, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proxy.Close() }()
	s := connect(t, "srt://"+proxy.Addr().String()+"?"+query, Options{}, load(t)).(*caller)
	play(t, s, units)
	p.ExitCode(t, 20*time.Second)
	return file, s.player.stats
}

// BenchmarkLoss is the same for a minute at the latency that is the default, on a
// machine that does nothing else, and prints what is asked beside what is measured:
//
//	go test ./plugins/egress-srt -run '^$' -bench Loss -benchtime 1x
func BenchmarkLoss(b *testing.B) {
	m := load(b)
	for b.Loop() {
		var units []*media.AccessUnit
		for turn := range 6 {
			for _, u := range m.units {
				u := u.Clone()
				shift := time.Duration(turn) * clip.Duration
				u.DTS, u.PTS = u.DTS+shift, u.PTS+shift
				units = append(units, u)
			}
		}
		file, st := lossy(b, units, 120*time.Millisecond)
		packets := peers.Packets(b, file)
		lost := missing(packets, "video", time.Second/30)
		b.Logf("20 ms of round trip, 2 %% of loss, 120 ms of latency, %v: asked 0 lost pictures, measured %d of %d; sound %d of %d; %d packets again of %d",
			6*clip.Duration, lost, peers.Count(packets, "video")+lost, missing(packets, "audio", 1024*time.Second/48000), peers.Count(packets, "audio"), st.Retransmitted, st.Sent)
		b.ReportMetric(float64(lost), "pictures-lost")
		if lost > 0 {
			b.Errorf("%d pictures are lost", lost)
		}
	}
}

// missing is how many packets of a kind, which are step apart, are not there between
// others.
func missing(packets []peers.Packet, kind string, step time.Duration) (n int) {
	last := time.Duration(-1)
	for _, p := range packets {
		if p.Type != kind {
			continue
		}
		if last >= 0 {
			n += int((p.DTS-last+step/2)/step) - 1
		}
		last = p.DTS
	}
	return n
}
