package faultlab

import (
	"encoding/binary"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run sends n numbered datagrams through a proxy to an echo and returns what comes
// back, in the order of arrival, and when.
func run(t *testing.T, n int, toTarget, back Impairment) (got []int, took []time.Duration, p *UDP) {
	t.Helper()
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	enlarge(echo)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	if p, err = NewUDP(echo.LocalAddr().String(), toTarget, back, 7); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	enlarge(c)
	t.Cleanup(func() {
		_ = c.Close()
		_ = echo.Close()
		<-done
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	var sent []time.Time
	pace := time.NewTicker(time.Millisecond) // within every socket's buffer
	defer pace.Stop()
	for i := range n {
		b := make([]byte, 100)
		binary.BigEndian.PutUint32(b, uint32(i))
		sent = append(sent, time.Now())
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 {
			<-pace.C
		}
	}
	b := make([]byte, 2048)
	for {
		_ = c.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
		if _, err := c.Read(b); err != nil {
			return got, took, p
		}
		i := int(binary.BigEndian.Uint32(b))
		got = append(got, i)
		took = append(took, time.Since(sent[i]))
	}
}

func TestPassesAllInOrder(t *testing.T) {
	got, _, p := run(t, 1000, Impairment{}, Impairment{})
	if len(got) != 1000 || !slices.IsSorted(got) {
		t.Errorf("%d datagrams, in order: %v", len(got), slices.IsSorted(got))
	}
	if a, b := p.Counts(); a.Received != 1000 || a.Sent != 1000 || b.Sent != 1000 || a.Lost != 0 {
		t.Errorf("counts %+v %+v", a, b)
	}
}

func TestDelaysInOrder(t *testing.T) {
	got, took, _ := run(t, 300, Impairment{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}, Impairment{Delay: 20 * time.Millisecond})
	if len(got) != 300 || !slices.IsSorted(got) {
		t.Errorf("%d datagrams, in order: %v", len(got), slices.IsSorted(got))
	}
	if least := slices.Min(took); least < 40*time.Millisecond {
		t.Errorf("one came back after %v", least)
	}
}

func TestLoses(t *testing.T) {
	f := func(i Impairment) (share, burst float64) {
		t.Helper()
		got, _, _ := run(t, 4000, i, Impairment{})
		lost, runs, last := 4000-len(got), 0, -1
		for _, n := range got {
			if n > last+1 {
				runs++
			}
			last = n
		}
		return float64(lost) / 4000, float64(lost) / float64(max(runs, 1))
	}
	if share, burst := f(Impairment{Loss: 0.1}); math.Abs(share-0.1) > 0.03 || burst > 1.3 {
		t.Errorf("lost %.3f in bursts of %.2f", share, burst)
	}
	if share, burst := f(Impairment{Loss: 0.1, Burst: 5}); math.Abs(share-0.1) > 0.04 || math.Abs(burst-5) > 1.7 {
		t.Errorf("lost %.3f in bursts of %.2f", share, burst)
	}
	if share, _ := f(Impairment{Loss: 1}); share != 1 {
		t.Errorf("lost %.3f of all", share)
	}
	if share, _ := f(Impairment{Drop: func(b []byte) bool { return b[3] == 1 }}); math.Abs(share-1./256) > 0.001 {
		t.Errorf("dropped %.4f", share)
	}
}

func TestReordersAndRepeats(t *testing.T) {
	got, _, p := run(t, 1000, Impairment{Reorder: 0.1, Duplicate: 0.1}, Impairment{})
	counts, _ := p.Counts()
	if want := 1000 + int(counts.Duplicated); len(got) != want || counts.Duplicated < 50 || counts.Reordered < 50 {
		t.Errorf("%d datagrams, %+v", len(got), counts)
	}
	if slices.IsSorted(got) {
		t.Error("all came in order")
	}
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != 1000 {
		t.Errorf("%d different ones", len(got))
	}
}

// A line of 400 kb/s carries 500 datagrams of 100 bytes in a second.
func TestCarriesWhatTheLineDoes(t *testing.T) {
	got, took, _ := run(t, 500, Impairment{BitsPerSecond: 400_000, QueueBytes: 20_000}, Impairment{})
	if len(got) < 190 || len(got) > 260 {
		t.Errorf("%d datagrams passed a queue of 200", len(got))
	}
	if most := slices.Max(took); most < 350*time.Millisecond {
		t.Errorf("the last one waited %v", most)
	}
}

func TestTargetMustBeAnAddress(t *testing.T) {
	if _, err := NewUDP("nowhere", Impairment{}, Impairment{}, 1); err == nil {
		t.Error("nowhere passes as a target")
	}
}
