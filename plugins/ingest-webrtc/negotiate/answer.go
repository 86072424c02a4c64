package negotiate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// What the answer asks of the sender.
const (
	// audioBitsPerSecond is what Opus is asked for: beyond it nothing is audible.
	audioBitsPerSecond = 128000
	// startKilobits is the rate that Chromium begins with, instead of 300 kb/s and
	// a picture of 320x180.
	startKilobits = 2500
	// level52 replaces the level of H.264: hardware encoders refuse large pictures
	// at the 3.1 that browsers offer, and decoders read the level from the SPS.
	level52 = "34"
	// maxAnswerBytes is what FFmpeg reads.
	maxAnswerBytes = 8192
)

// Finish returns the answer of the peer connection as it goes to the publisher, who
// is to send no more than maxBPS bits per second of video; 0 is no limit.
func Finish(answer string, maxBPS uint64) (string, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(answer); err != nil {
		return "", fmt.Errorf("parsing answer: %w", err)
	}
	setAttribute(&d.Attributes, "ice-options", "trickle ice2")
	for _, m := range d.MediaDescriptions {
		finishSection(m)
		if m.MediaName.Media == "video" && maxBPS > 0 {
			m.Bandwidth = []sdp.Bandwidth{{Type: "AS", Bandwidth: maxBPS / 1000}, {Type: "TIAS", Bandwidth: maxBPS}}
		}
	}
	out, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("writing answer: %w", err)
	}
	if len(out) >= maxAnswerBytes {
		return "", errors.New("answer is too long")
	}
	return string(out), nil
}

func finishSection(m *sdp.MediaDescription) {
	names := map[string]string{}
	for _, f := range formats(m) {
		names[strconv.Itoa(int(f.PayloadType))] = strings.ToUpper(f.name)
	}
	var candidates []sdp.Attribute
	var rest []sdp.Attribute
	for _, a := range m.Attributes {
		switch a.Key {
		case "candidate":
			if component(a.Value) == "1" {
				candidates = append(candidates, a)
			}
			continue
		case "rtcp-mux":
			rest = append(rest, a, sdp.Attribute{Key: "rtcp-mux-only"})
			continue
		case "ice-options", "rtcp-mux-only":
			continue
		case "fmtp":
			pt, value, _ := strings.Cut(a.Value, " ")
			switch names[pt] {
			case "OPUS":
				a.Value = pt + " " + opusParameters(value)
			case "H264":
				a.Value = pt + " " + h264Parameters(value)
			case "H265", "AV1", "VP9":
				out := []string{"x-google-start-bitrate=" + strconv.Itoa(startKilobits)}
				a.Value = pt + " " + strings.Join(appendOthers(out, value, "sprop-vps", "sprop-sps", "sprop-pps"), ";")
			}
		}
		rest = append(rest, a)
	}
	sortExtensions(rest)
	rest = sortFormats(m, rest)
	slices.SortStableFunc(candidates, func(a, b sdp.Attribute) int { return rank(a.Value) - rank(b.Value) })
	// Candidates stand before the end-of-candidates that ends them.
	at := slices.IndexFunc(rest, func(a sdp.Attribute) bool { return a.Key == "end-of-candidates" })
	if at < 0 {
		at = len(rest)
	}
	m.Attributes = slices.Insert(rest, at, candidates...)
}

// sortFormats puts the format of retransmissions behind the one that it serves:
// they come in any order, and one offer has one answer. It returns the attributes
// in the same order.
func sortFormats(m *sdp.MediaDescription, attributes []sdp.Attribute) []sdp.Attribute {
	all := formats(m)
	serves := map[string]string{}
	for _, f := range all {
		if strings.EqualFold(f.name, "rtx") {
			serves[strconv.Itoa(int(f.PayloadType))] = parameter(f.Parameters, "apt")
		}
	}
	var order []string
	for _, pt := range m.MediaName.Formats {
		if serves[pt] != "" {
			continue
		}
		order = append(order, pt)
		for _, f := range all {
			if rtx := strconv.Itoa(int(f.PayloadType)); serves[rtx] == pt {
				order = append(order, rtx)
			}
		}
	}
	m.MediaName.Formats = order
	at := -1
	var out []sdp.Attribute
	lines := map[string][]sdp.Attribute{}
	for _, a := range attributes {
		switch a.Key {
		case "rtpmap", "fmtp", "rtcp-fb":
			if at < 0 {
				at = len(out)
			}
			pt, _, _ := strings.Cut(a.Value, " ")
			lines[pt] = append(lines[pt], a)
		default:
			out = append(out, a)
		}
	}
	if at < 0 {
		return out
	}
	var sorted []sdp.Attribute
	for _, pt := range order {
		sorted = append(sorted, lines[pt]...)
	}
	return slices.Insert(out, at, sorted...)
}

// sortExtensions brings the header extensions, which come in any order, into that
// of their text: one offer has one answer.
func sortExtensions(attributes []sdp.Attribute) {
	var at []int
	var lines []sdp.Attribute
	for i, a := range attributes {
		if a.Key == "extmap" {
			at, lines = append(at, i), append(lines, a)
		}
	}
	slices.SortFunc(lines, func(a, b sdp.Attribute) int { return strings.Compare(a.Value, b.Value) })
	for i, line := range lines {
		attributes[at[i]] = line
	}
}

func setAttribute(attributes *[]sdp.Attribute, key, value string) {
	*attributes = slices.DeleteFunc(*attributes, func(a sdp.Attribute) bool { return a.Key == key })
	*attributes = append(*attributes, sdp.Attribute{Key: key, Value: value})
}

func component(candidate string) string {
	if f := strings.Fields(candidate); len(f) > 1 {
		return f[1]
	}
	return ""
}

// rank orders candidates: some clients try the first one only, and FFmpeg the
// first that says "udp" and "host", so the one that most can reach comes first:
// public IPv4, other IPv4, IPv6; then TCP, then what leads over a TURN server.
func rank(candidate string) int {
	const protocol, address, typ, fields = 2, 4, 7, 8
	f := strings.Fields(candidate)
	if len(f) < fields {
		return 9
	}
	ip, err := netip.ParseAddr(f[address])
	n := 0
	switch {
	case err != nil || !ip.Is4():
		n = 2
	case ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast():
		n = 1
	}
	switch {
	case f[typ] != "host":
		n += 6
	case !strings.EqualFold(f[protocol], "udp"):
		n += 3
	}
	return n
}

// opusParameters are what the gateway receives: without stereo=1 browsers send
// mono.
func opusParameters(offered string) string {
	out := []string{
		"minptime=10", "useinbandfec=1", "stereo=1", "sprop-stereo=1",
		"maxaveragebitrate=" + strconv.Itoa(audioBitsPerSecond),
	}
	return strings.Join(appendOthers(out, offered, "usedtx", "cbr"), ";")
}

func h264Parameters(offered string) string {
	out := []string{"level-asymmetry-allowed=1"}
	if v := parameter(offered, "packetization-mode"); v != "" {
		out = append(out, "packetization-mode="+v)
	}
	if v := parameter(offered, "profile-level-id"); len(v) == 6 {
		out = append(out, "profile-level-id="+v[:4]+level52)
	}
	out = append(out, "x-google-start-bitrate="+strconv.Itoa(startKilobits))
	return strings.Join(appendOthers(out, offered, "profile-level-id", "sprop-parameter-sets", "max-fs", "max-mbps", "max-br"), ";")
}

// appendOthers appends the offered parameters that are neither in out nor in without.
func appendOthers(out []string, offered string, without ...string) []string {
	for p := range strings.SplitSeq(offered, ";") {
		p = strings.TrimSpace(p)
		name, _, _ := strings.Cut(p, "=")
		has := slices.ContainsFunc(out, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		if name != "" && !has && !slices.Contains(without, name) {
			out = append(out, p)
		}
	}
	return out
}
