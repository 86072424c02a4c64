package session_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/test/faultlab"
)

// A detour leads the media of a publisher over a proxy: neither side learns an
// address of the other but the proxy's.
type detour struct {
	base http.RoundTripper
	port int // of the proxy
}

var candidateLine = regexp.MustCompile(`(?m)^a=(candidate:.*|end-of-candidates)\r\n`)

// RoundTrip implements [http.RoundTripper].
func (d detour) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Method == http.MethodPost {
		offer, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		offer = candidateLine.ReplaceAll(offer, nil)
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(offer)), int64(len(offer))
	}
	res, err := d.base.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusCreated {
		return res, err
	}
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close()
	answer = regexp.MustCompile(`(a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1) \d+ `).
		ReplaceAll(answer, []byte("$1 "+strconv.Itoa(d.port)+" "))
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(answer)), int64(len(answer))
	return res, nil
}

// publishThrough publishes the test card over an impaired network.
func publishThrough(t testing.TB, g gateway, up, down faultlab.Impairment, change func(*whipclient.Config)) (running, *publication, *faultlab.UDP) {
	t.Helper()
	proxy, err := faultlab.NewUDP(g.port.String(), up, down, 11)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	cfg := config(t, g)
	cfg.HTTP.Transport = detour{cfg.HTTP.Transport, proxy.Addr().Port}
	if change != nil {
		change(&cfg)
	}
	r := publish(t, cfg)
	return r, g.host.last(), proxy
}

// A verdict is what the oracle found.
type verdict struct {
	video, audio      int
	gaps, undecodable int
	foreign           int
	worst             time.Duration
	// apart is by how much picture and sound were apart at most, over any second of
	// those that were compared.
	apart    time.Duration
	compared int
	// heldUp is by how much the machine held up the publisher.
	heldUp time.Duration
}

func (v verdict) String() string {
	return fmt.Sprintf("%d pictures, %d packets of sound, %d gaps, %d not decodable, %d never sent, latest %v after it was sent, picture and sound apart by up to %v in %d seconds, publisher held up by up to %v",
		v.video, v.audio, v.gaps, v.undecodable, v.foreign, v.worst.Round(time.Millisecond), v.apart.Round(time.Millisecond), v.compared, v.heldUp.Round(time.Millisecond))
}

// judge compares what came with what was sent: every unit must be one of those, and
// every picture the one after the picture before, or a random access point.
func judge(t *testing.T, p *publication) (v verdict) {
	t.Helper()
	c, err := card()
	if err != nil {
		t.Fatal(err)
	}
	const repeated = -1 // the same bytes at several times: silence
	known := map[string]time.Duration{}
	for _, u := range append(c.Units(clip.VideoTrack), c.Units(clip.AudioTrack)...) {
		at := u.PTS
		if _, twice := known[string(u.Payload)]; twice {
			at = repeated
		}
		known[string(u.Payload)] = at
	}
	// By how much the times of each track are away from those of the content, by
	// second.
	shifts := map[time.Duration]*[3][]time.Duration{}
	// A publisher who is asked for a key picture skips to one, and with it its sound:
	// within such a second what was lost may leave pictures of one side of the skip
	// alone, and sound of the other.
	skipping := map[time.Duration]bool{}
	var skipped, lastPTS time.Duration
	var frame uint64
	var late []time.Duration // how much later each picture was sent than by its pace
	for i, u := range p.units {
		payload := u.Payload
		if u.Track == 2 {
			v.audio++
		} else {
			v.video++
			timing, ok := whipclient.FindTiming(payload)
			if !ok {
				t.Fatalf("unit %d has lost its SEI", i)
			}
			nalus, err := h264.SplitLengthPrefixed(nil, payload)
			if err != nil {
				t.Fatalf("unit %d: %v", i, err)
			}
			payload = h264.AppendLengthPrefixed(nil, nalus[1:]...)
			if timing.Frame != frame+1 {
				if frame > 0 {
					v.gaps++
				}
				if !u.RandomAccess {
					v.undecodable++
				}
				if frame > 0 && !u.Discontinuity {
					t.Errorf("unit %d follows a gap and does not say so", i)
				}
			}
			frame = timing.Frame
			late = append(late, timing.Sent.Sub(timing.Posted)-time.Duration(frame)*time.Second/clip.FrameRate)
			v.worst = max(v.worst, u.Received.Sub(timing.Sent))
		}
		content, ok := known[string(payload)]
		if ok && u.Track == 1 {
			// By how much the content is ahead of the pace of the pictures.
			now := (content - time.Duration(frame-1)*time.Second/clip.FrameRate) % clip.Duration
			if now = (now + clip.Duration + time.Millisecond) % clip.Duration; (now - skipped).Abs() > 2*time.Millisecond {
				const around = 100 * time.Millisecond
				for s := (lastPTS - around).Truncate(time.Second); s <= u.PTS+around; s += time.Second {
					skipping[s] = true
				}
			}
			skipped, lastPTS = now, u.PTS
		}
		switch {
		case !ok:
			v.foreign++
		case content != repeated:
			second := u.PTS.Truncate(time.Second)
			if shifts[second] == nil {
				shifts[second] = &[3][]time.Duration{}
			}
			// The card is repeated: all that counts is where in it.
			shift := (u.PTS - content) % clip.Duration
			shifts[second][u.Track] = append(shifts[second][u.Track], (shift+clip.Duration)%clip.Duration)
		}
	}
	v.heldUp = spread(late)
	for second, s := range shifts {
		if !skipping[second] && len(s[1]) >= 10 && len(s[2]) >= 3 {
			d := (median(s[1]) - median(s[2])).Abs() // most sound is silence: a few packets of a second tell
			v.apart = max(v.apart, min(d, clip.Duration-d))
			v.compared++
		}
	}
	return v
}

// Whatever the network does, every access unit that comes out is one that was sent,
// and every picture can be decoded.
func TestImpairedNetworks(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		up, down faultlab.Impairment
		change   func(*whipclient.Config)
	}{
		"nothing at all":                 {},
		"two percent lost at 40 ms":      {up: faultlab.Impairment{Delay: 20 * ms, Loss: 0.02}, down: faultlab.Impairment{Delay: 20 * ms, Loss: 0.02}},
		"bursts":                         {up: faultlab.Impairment{Delay: 10 * ms, Loss: 0.03, Burst: 6}, down: faultlab.Impairment{Delay: 10 * ms}},
		"reordered and repeated":         {up: faultlab.Impairment{Delay: 5 * ms, Reorder: 0.05, ReorderBy: 8 * ms, Duplicate: 0.05}},
		"jitter":                         {up: faultlab.Impairment{Delay: 20 * ms, Jitter: 30 * ms, Reorder: 0.02, ReorderBy: 25 * ms}, down: faultlab.Impairment{Delay: 20 * ms, Jitter: 30 * ms}},
		"all of it":                      {up: faultlab.Impairment{Delay: 25 * ms, Jitter: 15 * ms, Loss: 0.03, Burst: 3, Reorder: 0.03, Duplicate: 0.03}, down: faultlab.Impairment{Delay: 25 * ms, Loss: 0.03}},
		"lost and not sent again":        {up: faultlab.Impairment{Delay: 10 * ms, Loss: 0.01}, change: func(c *whipclient.Config) { c.WithoutRetransmission = true }},
		"lost, and far away":             {up: faultlab.Impairment{Delay: 80 * ms, Loss: 0.01}, down: faultlab.Impairment{Delay: 80 * ms}},
		"lost, keyframes are not to get": {up: faultlab.Impairment{Delay: 80 * ms, Loss: 0.01}, down: faultlab.Impairment{Delay: 80 * ms}, change: func(c *whipclient.Config) { c.IgnoreKeyframeRequests = true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, p, _ := publishThrough(t, start(t), c.up, c.down, c.change)
			p.wait(t, "media", func() bool { return p.count(1) >= 120 && p.count(2) >= 200 })
			r.stop()
			p.mu.Lock()
			defer p.mu.Unlock()
			v := judge(t, p)
			t.Logf("%v; %+v", v, p.stats.Values)
			if v.undecodable > 0 || v.foreign > 0 {
				t.Error("what came out is not what was sent")
			}
			if v.apart > 150*time.Millisecond+v.heldUp { // asked: 100 ms, on a machine with nothing else to do
				t.Errorf("picture and sound are apart by %v", v.apart)
			}
		})
	}
}

// BenchmarkRecovery is how long packets are missing that come again, at a round trip of
// 40 ms and 2 % of loss both ways: at least 200 of them. A packet is missing from the
// moment that a later one of its track shows it, which is at once within a picture, and
// for the last packet of a picture when the next one begins, 33 ms later. So the least is
// the round trip; where the request or its answer is lost, too, as 4 % are, it is 52 ms
// more until the next request is due. Lost sound is not asked for, and counts as given up.
func BenchmarkRecovery(b *testing.B) {
	const ms = time.Millisecond
	bad := faultlab.Impairment{Delay: 20 * ms, Loss: 0.02}
	for b.Loop() {
		r, p, _ := publishThrough(b, startWith(b, session.Config{UDP: "127.0.0.1:0"}), bad, bad, nil)
		var v map[string]float64
		for deadline := time.Now().Add(10 * time.Minute); v["rtp_packets_recovered"] < 200; time.Sleep(time.Second) {
			if time.Now().After(deadline) {
				b.Fatalf("%v", v)
			}
			p.mu.Lock()
			v = p.stats.Values
			p.units, p.at = nil, nil // they are many
			p.mu.Unlock()
		}
		r.stop()
		b.ReportMetric(v["rtp_packets_recovered"], "events")
		b.ReportMetric(1000*v["recovery_median_seconds"], "p50-ms")
		b.ReportMetric(1000*v["recovery_p99_seconds"], "p99-ms")
		b.ReportMetric(1000*v["recovery_max_seconds"], "max-ms")
		b.ReportMetric(v["rtp_packets_lost"], "given-up")
	}
}
