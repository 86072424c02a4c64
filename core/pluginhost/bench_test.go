package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
)

// BenchmarkEgress is one unit of 8 KB on its way from the core to n targets of one
// plugin process, and its credit on the way back.
func BenchmarkEgress(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) { benchmarkEgress(b, n) })
	}
}

func benchmarkEgress(b *testing.B, targets int) {
	base, err := os.MkdirTemp("", "gw")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(base) }()
	h := New([]Spec{spec("serve")}, nil, slog.New(slog.DiscardHandler), WithRunDir(base))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() { stop(); <-done }()

	const burst = 8 // units that wait when the sender looks
	sessions := make([]Session, targets)
	queues := make([]*queue, targets)
	credit := make(chan int, 1024)
	for i := range targets {
		r := &creditor{recorder: record(), credit: credit}
		queues[i] = &queue{}
		if sessions[i], err = h.OpenEgress("test", egressSpec("ok"), r, queues[i]); err != nil {
			b.Fatal(err)
		}
		<-r.ready
	}
	items := units(burst, 8000)
	b.SetBytes(8000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += burst {
		for t := range targets {
			queues[t].put(items...)
			sessions[t].Wake()
		}
		for owed := targets * burst * 8000; owed > 0; {
			owed -= <-credit
		}
	}
}

// creditor hears of credit alone.
type creditor struct {
	*recorder
	credit chan<- int
}

func (c *creditor) Credited(n int) { c.credit <- n }
