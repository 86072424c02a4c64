package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// group is how many pictures lie between two keyframes of the sources below.
const group = 25

// tail is how many pictures at the end may be missing, some of them between others
// that refer to them: a receiver of SRT forgets what it holds back for its latency,
// 120 ms, when it hears goodbye. The gateway's own goodbye waits for that; its publishers'
// does not.
const tail = 10

// checkPictures holds got to be pictures of source without a gap, from one of its
// groups on to its end. A player that joins an open group may decode a few pictures
// of it badly, before the keyframe is shown.
func checkPictures(source, got []string) error {
	const leading = 4
	for skip := range leading {
		if len(got) <= skip {
			break
		}
		at := slices.Index(source, got[skip])
		if at < 0 || (at%group > leading && at > 0) {
			continue
		}
		rest := source[at:]
		n := len(got) - skip
		if n < len(rest)-tail || n > len(rest) || n < 2*group {
			return fmt.Errorf("%d pictures from picture %d of %d on", n, at, len(source))
		}
		for i := range len(rest) - tail {
			if got[skip+i] != rest[i] {
				return fmt.Errorf("picture %d after the first, which is number %d of the source, is another one", i, at)
			}
		}
		return nil
	}
	return fmt.Errorf("none of the first of %d pictures begins a group of the source", len(got))
}

// TestCheckPictures: the check sees what is wrong.
func TestCheckPictures(t *testing.T) {
	var source []string
	for i := range 4 * group {
		source = append(source, fmt.Sprint(i))
	}
	f := func(got []string, good bool) {
		t.Helper()
		if err := checkPictures(source, got); (err == nil) != good {
			t.Errorf("%v: %v", got, err)
		}
	}
	f(source, true)
	f(source[group:], true)
	f(append([]string{"bad"}, source[group:]...), true)
	f(source[:len(source)-tail], true)
	f(source[:len(source)-tail-1], false)
	f(source[group/2:], false)
	swapped := slices.Clone(source)
	swapped[50], swapped[51] = swapped[51], swapped[50]
	f(swapped, false)
	f(slices.Delete(slices.Clone(source), 60, 61), false)
	f(nil, false)
}

// TestSRTPictures sends B-frames in closed and open groups, H.264 and H.265, and a
// stream whose timestamps wrap, over every way that SRT goes: encoders that call, a
// source that is called, a peer that listens, a player that calls, two processes of
// egress-srt; and to an RTMP server. What is decoded at the other end is the source,
// picture by picture.
func TestSRTPictures(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "nginx")
	n := peers.StartNginx(t)
	listen := peers.FreeAddr(t)
	dir := t.TempDir()
	type path struct {
		name, source, sourceAddr, playerAddr string
		peer                                 *peers.Process
		rtmp                                 bool
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	var paths []*path
	var routes strings.Builder
	for name, args := range map[string][]string{
		"closed": {"-c:v", "libx264", "-bf", "3", "-x264-params", "open-gop=0"},
		"open":   {"-c:v", "libx264", "-bf", "3", "-x264-params", "open-gop=1"},
		// The 33 bits of a timestamp are over after 95443.7 s.
		"wrap": {"-c:v", "libx264", "-bf", "2", "-output_ts_offset", "95441.7"},
		"h265": {"-c:v", "libx265", "-x265-params", "bframes=3:log-level=none"},
	} {
		p := &path{name: name, source: file(name + ".ts"), sourceAddr: peers.FreeAddr(t), playerAddr: peers.FreeAddr(t), rtmp: name != "h265"}
		paths = append(paths, p)
		peers.FFmpeg(t, slices.Concat([]string{"-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-t", "6", "-pix_fmt", "yuv420p", "-g", fmt.Sprint(group)},
			args, []string{"-f", "mpegts", p.source})...)
		peer := peers.FreeAddr(t)
		p.peer = peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
			"-nostdin", "-v", "error", "-y", "-i", "srt://" + peer + "?mode=listener", "-map", "0", "-c", "copy", "-copyts", file(name + "-peer.ts")}})
		targets := []string{fmt.Sprintf("peer: {url: \"srt://%s\"}", peer)}
		if p.rtmp {
			targets = append(targets, fmt.Sprintf("cdn: {url: %q}", n.URL("a", name)))
		}
		routes.WriteString(route(name, targets...) + "    hold: 0s\n")
		fmt.Fprintf(&routes, "  pulled/%s:\n    from: {url: \"srt://%s\"}\n    hold: 0s\n    to:\n      players: {url: \"srt://%s?mode=listener\"}\n", name, p.sourceAddr, p.playerAddr)
	}
	g := startGatewayWith(t, fmt.Sprintf("  ingest-srt: {options: {listen: %q}}\n  egress-srt: {instances: 2}\n", listen), routes.String())
	send := func(p *path, url string) *peers.Process {
		return peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
			"-nostdin", "-v", "error", "-re", "-copyts", "-i", p.source, "-c", "copy", "-copyts", "-f", "mpegts", url}})
	}
	players := map[*path]*peers.Process{}
	for _, p := range paths {
		send(p, "srt://"+listen+"?streamid=publish:"+p.name+"?token="+token)
		// Its player comes as soon as it can: it is to see most of the source.
		send(p, "srt://"+p.sourceAddr+"?mode=listener")
		peers.Wait(t, 30*time.Second, "the port for players of "+p.name, func() error {
			got, err := g.target("pulled/"+p.name, "players")
			if err == nil && (got.State != status.TargetIdle || got.Attempt == 0) {
				err = fmt.Errorf("it is %s, attempt %d", got.State, got.Attempt)
			}
			return err
		})
		players[p] = peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
			"-nostdin", "-v", "error", "-y", "-i", "srt://" + p.playerAddr + "?mode=caller", "-map", "0", "-c", "copy", "-copyts", file(p.name + "-player.ts")}})
	}
	if all := children(t, g.PID()); strings.Count(fmt.Sprint(all), "plugin egress-srt") != 2 {
		t.Errorf("want two processes of egress-srt: %v", all)
	}
	for _, p := range paths {
		p.peer.ExitCode(t, 40*time.Second)
		players[p].ExitCode(t, 40*time.Second)
		if p.rtmp {
			waitUnpublished(t, 30*time.Second, n, "a", p.name)
		}
	}
	for _, p := range paths {
		want := peers.Pictures(t, p.source)
		check := func(what, file string) {
			t.Helper()
			if err := checkPictures(want, peers.Pictures(t, file)); err != nil {
				t.Errorf("%s, %s: %v", p.name, what, err)
			}
			if err := peers.CheckMonotonic(peers.Packets(t, file)); err != nil {
				t.Errorf("%s, %s: %v", p.name, what, err)
			}
		}
		check("a peer that listens", file(p.name+"-peer.ts"))
		check("a player", file(p.name+"-player.ts"))
		if !p.rtmp {
			continue
		}
		for _, f := range n.Recordings(t, "a") {
			if strings.HasPrefix(filepath.Base(f), p.name+"-") {
				check("an RTMP server", f)
			}
		}
	}
}

// TestSRTBackup: a peer that is not there is followed by the backup, and that by the
// peer itself when it ends.
func TestSRTBackup(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	record := func(addr string) (*peers.Process, string) {
		file := filepath.Join(t.TempDir(), "out.ts")
		return peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
			"-nostdin", "-v", "error", "-y", "-analyzeduration", "1000000", "-i", "srt://" + addr + "?mode=listener&passphrase=0123456789", "-map", "0", "-c", "copy", file}}), file
	}
	first, second := peers.FreeAddr(t), peers.FreeAddr(t)
	spare, spareFile := record(second)
	g := startGateway(t, fmt.Sprintf("  card:\n    from: {url: \"clip:\"}\n    to:\n      pair: {url: \"srt://%s\", backup: \"srt://%s\", passphrase: \"0123456789\"}\n", first, second))
	on := func(backup bool) {
		t.Helper()
		peers.Wait(t, 60*time.Second, fmt.Sprintf("the target to be live, on its backup: %v", backup), func() error {
			got, err := g.target("card", "pair")
			if err == nil && (got.State != status.TargetLive || got.OnBackup != backup) {
				err = fmt.Errorf("%s, on backup %v, %+v", got.State, got.OnBackup, got.LastError)
			}
			return err
		})
		peers.Run(t, 3*time.Second)
	}
	on(true)
	main, mainFile := record(first)
	spare.Interrupt(t, 30*time.Second)
	on(false)
	g.Interrupt(t, 30*time.Second)
	main.ExitCode(t, 30*time.Second)
	for _, file := range []string{spareFile, mainFile} {
		packets := peers.Packets(t, file)
		if err := errors.Join(peers.CheckMonotonic(packets), peers.CheckDecodes(t, file)); err != nil {
			t.Error(err)
		}
		if l := length(packets, "video"); l < 2*time.Second {
			t.Errorf("%s has %v of pictures", file, l)
		}
	}
}
