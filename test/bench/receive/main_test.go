package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// What a process uses is read from the kernel: CPU time that is spent shows.
func TestUsage(t *testing.T) {
	before, rss, err := usage(os.Getpid())
	if err != nil || rss < 1<<20 {
		t.Fatalf("%d bytes, %v", rss, err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		now, _, err := usage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after half a minute of work it is still %v", now)
		}
	}
}

// Streams count whose publisher sends, with all their packets.
func TestGatewayPackets(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"streams":[{"name":"a","publisher":{"values":{"units":3,"rtp_packets":100,"rtp_packets_lost":2}}},
			{"name":"b","publisher":{"values":{"units":0,"rtp_packets":7}}},{"name":"c"},
			{"name":"d","publisher":{"values":{"units":1,"rtp_packets":20}}}]}`)
	}))
	defer s.Close()
	packets, lost, live, err := gatewayPackets(strings.TrimPrefix(s.URL, "http://"))
	if err != nil || packets != 120 || lost != 2 || live != 2 {
		t.Errorf("%v packets, %v lost, %d live, %v", packets, lost, live, err)
	}
}

// The load begins with a picture that can be decoded, in packets that fit.
func TestGroup(t *testing.T) {
	pictures, err := group()
	if err != nil || len(pictures) != 2*frameRate {
		t.Fatalf("%d pictures, %v", len(pictures), err)
	}
	for i, packets := range pictures {
		if len(packets) == 0 {
			t.Errorf("picture %d has no packets", i)
		}
		for _, p := range packets {
			if len(p) > payloadBytes {
				t.Errorf("picture %d has a packet of %d bytes", i, len(p))
			}
		}
	}
}
